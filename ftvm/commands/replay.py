# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm replay`: run a recording again, from its file alone, and compare every digest."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ftvm.commands.options import json_option, log_json_option, print_json


@click.command()
@click.argument("log", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--verify/--no-verify", default=True, show_default=True, help="Compare every recorded digest.")
@click.option(
    "--machine",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Use this machine file instead of the recorded one, say because the kernel lies elsewhere now.",
)
@click.option("--console", is_flag=True, help="Print what the guest prints.")
@json_option
@log_json_option
def command(log: Path, verify: bool, machine: Path | None, console: bool, as_json: bool, log_json: bool) -> None:
    """Run a recording again and verify that the guest does the same.

    Prints the entries replayed and the guest time reached. Exit code 1 at a divergence or damage, which is told on
    standard error; the torn tail of a killed recorder is cut, and that is no failure.
    """
    from ftvm.replaying import entries_in, run_replay
    from ftvm.say import Say

    if console and as_json:
        raise click.UsageError("--console and --json both print to standard output; choose one")
    say = Say("replay", log_json)
    with say.progress(f"replaying {log.name}", entries_in(log)) as display:
        report = run_replay(
            log,
            verify=verify,
            machine_file=machine,
            console_fd=sys.stdout.fileno() if console else None,
            progress=display.advance,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        click.echo(report.words())
    if report.divergence is not None:
        say.error(f"{log}: {report.divergence}")
    if report.damage:
        say.error(report.damage)
    raise click.exceptions.Exit(0 if report.sound else 1)
