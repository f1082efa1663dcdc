# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm debug`: a debugger on a running pair, which does not notice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from ftvm.commands.options import log_json_option, pair_options, symbols_option

if TYPE_CHECKING:
    from ftvm.say import Say
    from ftvm.state_dir import StateDir

NICE = 10  # the pair comes first


@click.command()
@pair_options
@click.option("--gdb", "door", metavar="[HOST:]PORT", default="127.0.0.1:0", help="Serve GDB there (any free port).")
@click.option("--attach", is_flag=True, help="Look at the backup's machine also when the pair is being recorded.")
@click.option(
    "--record", type=click.Path(path_type=Path, dir_okay=False), help="Keep what was looked at as this recording."
)
@symbols_option
@log_json_option
def command(
    name: str | None, state_dir: Path | None, door: str, attach: bool, record: Path | None, symbols: Path | None,
    log_json: bool,
) -> None:  # fmt: skip
    """Look into a running pair with GDB: at a moment of its guest, forwards and backwards in what was kept.

    Of a pair that is being recorded (`ftvm pair --record`) that is all since it was started. Otherwise the backup hands
    out a copy of its machine, and every entry from there on. `monitor seek live` goes to the newest entry, `monitor
    refresh` only reads what has come. The pair runs on all the while, whatever is done here; nothing can be changed.
    """
    from ftvm.commands.serving import listen, serve
    from ftvm.debugger import Debugger
    from ftvm.say import Say
    from ftvm.state_dir import find

    say = Say("debug", log_json)
    state = find(name, state_dir)
    with suppress(OSError):
        os.nice(NICE)
    server = listen(say, door)
    with _log_of(state, say, attach or record is not None, record) as (log, opened), Debugger.open(log) as debugger:
        opened()
        debugger.take_symbols(symbols)
        timeline = debugger.timeline
        with say.progress("to the present", len(timeline.entries)) as display:
            debugger.tell_progress(display.advance)
            timeline.seek(timeline.end)
        timeline.interrupted = lambda: False
        say.info(f"the guest as it was behind entry {timeline.position.sequence}; the pair runs on")
        serve(say, server, debugger)


@contextmanager
def _log_of(state: StateDir, say: Say, attach: bool, record: Path | None) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The pair's own recording, or one that begins now and grows in the background; and what to call when it is open.

    What is not to be kept loses its name then, so that nothing is left behind however this process ends.
    """
    from ftvm.attach import Attached
    from ftvm.status import read_status

    status = read_status(state)
    if not attach and (own := _recording(status)) is not None:
        say.info(f"the pair is recorded to {own}: all since its beginning can be looked at")
        yield own, lambda: None
        return
    side = next((side for side, shown in status["sides"].items() if shown["role"] == "backup"), None)
    if side is None:
        raise click.ClickException(f"{status['name']} has no backup in sync on this host, which could be looked at")
    temporary = TemporaryDirectory(prefix="ftvm-debug-", ignore_cleanup_errors=True)
    with temporary as directory:
        path = record or Path(directory) / f"{status['name']}.log"
        with say.progress("taking the backup's machine over (MiB)", 0) as display:
            attached = Attached(state, side, path, say.warning, display.advance)
        try:
            yield path, temporary.cleanup
        finally:
            attached.close()


def _recording(status: dict[str, Any]) -> Path | None:
    """Where a primary on this host writes one."""
    for shown in status["sides"].values():
        if shown["role"] == "primary" and shown["pid"] is not None and shown.get("record"):
            path = Path(shown["record"])
            return path if path.is_file() else None
    return None
