# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm run`: one virtual machine alone, as a pair's primary that takes no backup.

It keeps its disks as one side of a pair does, with the same notes and terms: `ftvm pair` goes on from what it left, and
it from what a pair left.
"""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import checkpoints_option, log_json_option, machine_argument, state_dir_option


@click.command()
@machine_argument
@state_dir_option
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="Record everything to LOG.")
@checkpoints_option
@log_json_option
def command(machine: Path, state_dir: Path | None, record: Path | None, checkpoints: int, log_json: bool) -> None:
    """Run one virtual machine, without a backup, until its guest powers off or it is stopped.

    Exit code 0 when the guest switched itself off or was stopped (SIGTERM, Ctrl-C, `ftvm stop`), 1 when it failed.
    """
    from ftvm.config import load
    from ftvm.pair.alone import run_alone
    from ftvm.pair.prepare import prepare
    from ftvm.say import Say

    state, config = prepare(load(machine), state_dir, foreground=True)
    say = Say(config.name, log_json)
    raise click.exceptions.Exit(run_alone(state, config, say, record=record, checkpoints=checkpoints))
