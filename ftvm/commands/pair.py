# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm pair`: run a primary/backup pair on this host, with failover and restored redundancy."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import checkpoints_option, log_json_option, machine_argument, state_dir_option


@click.command()
@machine_argument
@state_dir_option
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="Record the surviving history to LOG.")
@checkpoints_option
@click.option("--unprotected", is_flag=True, help="Open the services before a backup is in sync.")
@log_json_option
def command(
    machine: Path, state_dir: Path | None, record: Path | None, checkpoints: int, unprotected: bool, log_json: bool
) -> None:
    """Run a pair of virtual machines on this host until its guest powers off, or until stopped.

    A pair that is running already, because its launcher was killed, is adopted. SIGTERM and Ctrl-C stop it in order.
    """
    import signal

    from ftvm.config import load
    from ftvm.pair.adopt import services_of
    from ftvm.pair.launcher import Launcher
    from ftvm.pair.prepare import prepare
    from ftvm.say import Say

    say = Say("pair", log_json)
    state, config = prepare(load(machine), state_dir)
    lock = state.lock()
    try:
        recording = record.absolute() if record is not None else None
        launcher = Launcher(
            state, config, say, lambda: services_of(config, state), recording, unprotected, log_json, checkpoints
        )
        signal.signal(signal.SIGTERM, lambda *_: launcher.stop())
        signal.signal(signal.SIGINT, lambda *_: launcher.stop())
        code = launcher.run()
    finally:
        lock.release()
    raise click.exceptions.Exit(code)
