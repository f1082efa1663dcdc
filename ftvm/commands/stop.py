# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm stop`: end a pair in order. The work is in `ftvm.stopping`."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import log_json_option, pair_options


@click.command()
@pair_options
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=20.0, show_default=True, help="Seconds to wait."
)
@log_json_option
def command(name: str | None, state_dir: Path | None, timeout_s: float, log_json: bool) -> None:
    """End a pair, or a machine that runs alone, in order: disks synced, recording closed, no failover.

    Exit code 0 when it has ended in order, or was not running; otherwise 1, and standard error says how it stands.
    Stopping the backup's host ends that side only; stopping the primary's host ends the pair.
    """
    from ftvm.say import Say
    from ftvm.state_dir import find
    from ftvm.stopping import Stopping

    state = find(name, state_dir)
    say = Say("stop", log_json)
    raise click.exceptions.Exit(0 if Stopping(state, say).run(timeout_s) else 1)
