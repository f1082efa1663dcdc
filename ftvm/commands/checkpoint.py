# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm checkpoint`: make a recording open at once, anywhere."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import json_option, log_argument, log_json_option, print_json


@click.command()
@log_argument
@json_option
@log_json_option
def command(log: Path, as_json: bool, log_json: bool) -> None:
    """Replay a recording once and keep states of its machine in LOG.ckpt.

    `ftvm replay LOG --gdb` starts from them, so that its end, and any other place, is there at once. The file is not
    needed for anything else, and can be deleted. Exit code 1: the recording does not replay here.
    """
    from ftvm.debugger import Debugger
    from ftvm.say import Say
    from replay.divergence import Divergence

    say = Say("checkpoint", log_json)
    with (
        Debugger.open(log, checkpoints=False) as debugger,
        say.progress(log.name, len(debugger.timeline.entries)) as display,
    ):
        try:
            path, count = debugger.make_checkpoints(display.advance)
        except Divergence as divergence:
            say.error(f"{log}: {divergence}")
            raise click.exceptions.Exit(1) from None
    found = {"path": str(path), "checkpoints": count, "bytes": path.stat().st_size}
    if as_json:
        print_json(found)
    else:
        click.echo(f"{path}: {count} checkpoints, {found['bytes']:,} bytes")
