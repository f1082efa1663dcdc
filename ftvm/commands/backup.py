# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm backup`: the side of a pair that follows, on a host of its own."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import listen_option, log_json_option, machine_argument, state_dir_option


@click.command()
@machine_argument
@state_dir_option
@click.option("--join", metavar="ADDRESS", required=True, help="The primary's logging channel, HOST:PORT.")
@click.option("--member", type=click.Choice(["a", "b"]), default="b", show_default=True, help="Which side this is.")
@listen_option
@log_json_option
def command(machine: Path, state_dir: Path | None, join: str, member: str, listen: str | None, log_json: bool) -> None:
    """Join a pair's primary and follow it, in the foreground; go live when it dies.

    What this side's disk images held is replaced by the primary's. The arbiter's directory must be one that both hosts
    share. Once live, this side opens the services on its own host and takes a backup at --listen.
    """
    from ftvm.config import load
    from ftvm.pair.foreground import await_arbiter, check_address, run_foreground
    from ftvm.pair.prepare import prepare
    from ftvm.pair.side import Options
    from ftvm.say import Say

    state, config = prepare(load(machine), state_dir, foreground=True)
    check_address(listen, "--listen", config)
    check_address(join, "--join", config)
    say = Say(member, log_json)
    await_arbiter(config, state, say)
    say.info(f"joining the primary at {join}")
    options = Options(member, join=join, listen=listen, own_services=True)
    raise click.exceptions.Exit(run_foreground(state, config, options, say))
