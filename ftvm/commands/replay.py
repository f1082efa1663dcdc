# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm replay`: run a recording again, from its file alone, and compare every digest; or serve a debugger."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftvm.commands.options import json_option, log_argument, log_json_option, machine_option, print_json, symbols_option

if TYPE_CHECKING:
    from ftvm.finding import Finding
    from ftvm.replaying import Rebuilt
    from replay.divergence import Divergence


@click.command()
@log_argument
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare every recorded digest.")
@click.option(
    "--bisect/--no-bisect", default=True, show_default=True, help="Look into a divergence, down to its cause."
)
@machine_option
@click.option("--console", is_flag=True, help="Print what the guest prints; with --live, be the guest's console.")
@click.option("--gdb", "door", metavar="[HOST:]PORT", help="Serve GDB there, until interrupted.")
@symbols_option
@click.option("--live", is_flag=True, help="Go on from --at with new inputs, as a new recording.")
@click.option("--at", metavar="POSITION", help="Where to go live: ENTRY:CLOCK, end, 1.5s, output console TEXT, ...")
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="The new recording (LOG.fork1 ...).")
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Of the fork; a new directory.")
@json_option
@log_json_option
def command(
    log: Path,
    verify: bool,
    bisect: bool,
    machine: Path | None,
    console: bool,
    door: str | None,
    symbols: Path | None,
    live: bool,
    at: str | None,
    record: Path | None,
    state_dir: Path | None,
    as_json: bool,
    log_json: bool,
) -> None:
    """Run a recording again and verify that the guest does the same.

    Prints the entries replayed and the guest time reached. Exit code 1 at a divergence or damage, which is told on
    standard error; the torn tail of a killed recorder is cut, and that is no failure. A divergence is looked
    into: which side went wrong and where, to the instruction where a second run or a checkpoint of the recorder tells.

    With --gdb, nothing is run by itself: connect with gdb-multiarch and `target remote HOST:PORT`. `monitor help` says
    what there is beside reverse-stepi, reverse-continue, breakpoints and watchpoints. Started without a file,
    GDB gets the kernel's symbols from here.

    With --live, the machine goes on from --at as `ftvm run` would run it, with its console, network and clients, until
    the guest powers off or it is stopped. The recording stays as it is; the new one names it as its parent.
    """
    from ftvm.say import Say

    if live:
        from ftvm.commands.live import go_live

        if at is None or door is not None or as_json:
            raise click.UsageError("--live goes on from --at POSITION; it serves no debugger and prints no JSON")
        raise click.exceptions.Exit(go_live(Say("replay", log_json), log, at, machine, record, state_dir, console))
    if at is not None or record is not None or state_dir is not None:
        raise click.UsageError("--at, --record and --state-dir are for --live")
    from ftvm.replaying import entries_in, run_replay

    if door is not None:
        if console or as_json:
            raise click.UsageError("--gdb serves a debugger; --console and --json are for a replay")
        from ftvm.commands.serving import listen, serve
        from ftvm.debugger import Debugger

        say = Say("replay", log_json)
        server = listen(say, door)
        with Debugger.open(log, machine, verify=verify) as debugger:
            debugger.take_symbols(symbols)
            serve(say, server, debugger)
        return
    if symbols is not None:
        raise click.UsageError("--symbols is for --gdb")
    if console and as_json:
        raise click.UsageError("--console and --json both print to standard output; choose one")
    say = Say("replay", log_json)

    def inquire(divergence: Divergence, rebuilt: Rebuilt) -> Finding:
        from ftvm.inquiry import Inquiry

        return Inquiry(log, machine, divergence, rebuilt, say.info).finding()

    with say.progress(f"replaying {log.name}", entries_in(log)) as display:
        report = run_replay(
            log,
            verify=verify,
            machine_file=machine,
            console_fd=sys.stdout.fileno() if console else None,
            progress=display.advance,
            inquire=inquire if bisect else None,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.words())
    if report.divergence is not None:
        say.error(f"{log}: {report.divergence}")
    if report.finding is not None and not as_json:
        click.echo(report.finding.words())
    if report.damage:
        say.error(report.damage)
    raise click.exceptions.Exit(0 if report.sound else 1)
