# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm primary`: the live side of a pair on a host of its own."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import checkpoints_option, listen_option, log_json_option, machine_argument, state_dir_option


@click.command()
@machine_argument
@state_dir_option
@click.option("--member", type=click.Choice(["a", "b"]), default="a", show_default=True, help="Which side this is.")
@listen_option
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="Record to LOG while this side lives.")
@checkpoints_option
@click.option("--unprotected", is_flag=True, help="Open the services before a backup is in sync.")
@log_json_option
def command(
    machine: Path,
    state_dir: Path | None,
    member: str,
    listen: str | None,
    record: Path | None,
    checkpoints: int,
    unprotected: bool,
    log_json: bool,
) -> None:
    """Be the primary of a pair, in the foreground; `ftvm backup` on another host joins it.

    Refused when this side's disk images are not, or may not be, the pair's newest. The arbiter's directory must be one
    that both hosts share. When its backup is lost this side goes on alone and takes another one.
    """
    from ftvm.config import load
    from ftvm.pair.cold_start import last_term_for
    from ftvm.pair.foreground import check_address, run_foreground
    from ftvm.pair.prepare import prepare
    from ftvm.pair.side import Options
    from ftvm.say import Say

    state, config = prepare(load(machine), state_dir, foreground=True)
    check_address(listen, "--listen", config)
    options = Options(
        member,
        listen=listen,
        own_services=True,
        record=record.absolute() if record is not None else None,
        checkpoints=checkpoints,
        open_at_once=unprotected,
        last_term=last_term_for(member, config, state),
    )
    raise click.exceptions.Exit(run_foreground(state, config, options, Say(member, log_json)))
