# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm log trim` and `ftvm log pack`: recordings to be taken elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import json_option, log_argument, log_json_option, machine_option, print_json

_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@log_argument
@click.argument("out", type=_file)
@click.option("--from", "since", metavar="POSITION", default="0", show_default=True, help="Where it is to begin.")
@click.option("--to", "until", metavar="POSITION", default="end", show_default=True, help="Where it is to end.")
@machine_option
@json_option
@log_json_option
def trim(log: Path, out: Path, since: str, until: str, machine: Path | None, as_json: bool, log_json: bool) -> None:
    """Write the part of a recording between two positions to OUT, which needs nothing of LOG any more.

    OUT begins with the machine and its disks as they were, at the last entry's end before --from; with the same
    images it replays anywhere. Without checkpoints, the recording is replayed up to there. Exit code 1: it does not
    replay here, or OUT exists.
    """
    from ftvm.debugger import Debugger
    from ftvm.say import Say
    from ftvm.trimming import trim as write
    from replay.divergence import Divergence
    from replay.errors import LogError

    say = Say("trim", log_json)
    with Debugger.open(log, machine) as debugger:
        try:
            first, last = debugger.places.parse(since), debugger.places.parse(until)
        except ValueError as error:
            raise LogError(str(error)) from None
        with say.progress(f"going to {since}", len(debugger.timeline.entries)) as display:
            try:
                begins, ends = write(debugger, first, last, out, display.advance)
            except Divergence as divergence:
                say.error(f"{log}: {divergence}")
                raise click.exceptions.Exit(1) from None
    found = {"path": str(out), "first": begins, "last": ends, "bytes": out.stat().st_size}
    if as_json:
        print_json(found)
    else:
        click.echo(f"{out}: entries {begins} to {ends}, {found['bytes']:,} bytes")


@click.command()
@log_argument
@click.argument("out", type=_file)
@click.option("--checkpoints/--no-checkpoints", default=True, show_default=True, help="Take LOG.ckpt along.")
@machine_option
@json_option
@log_json_option
def pack(log: Path, out: Path, checkpoints: bool, machine: Path | None, as_json: bool, log_json: bool) -> None:
    """Write a recording with its guest's images and its checkpoints into one file.

    `ftvm replay OUT`, and every other command that takes a recording, needs nothing else. A torn tail is left out.
    Exit code 1: an image is not the one that was recorded with, the recording is damaged, or OUT exists.
    """
    from ftvm.packing import pack as write
    from ftvm.say import Say

    size = log.stat().st_size if log.exists() else 0
    with Say("pack", log_json).progress(f"packing {log.name}", size) as display:
        held = [*write(log, out, machine, checkpoints, display.advance), "log"]
    if as_json:
        print_json({"path": str(out), "holds": held, "bytes": out.stat().st_size})
    else:
        click.echo(f"{out}: {', '.join(held)}; {out.stat().st_size:,} bytes")
