# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm demo`: a pair under load whose primaries and drivers are killed, and a report of what its clients noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftvm.commands.options import json_option, log_json_option, print_json

if TYPE_CHECKING:
    from ftvm.say import Say


@click.command()
@click.option("--kill", type=click.Choice(["host", "driver", "both"]), default="both", show_default=True)
@click.option("--count", type=click.IntRange(1, 20), default=4, show_default=True, help="Kills of each kind.")
@click.option("--seed", type=int, default=None, help="Repeat the plan of an earlier demo.")
@click.option("--clients", type=click.IntRange(2, 8), default=2, show_default=True)
@click.option("--depth", type=click.IntRange(4, 64), default=8, show_default=True, help="In flight per client.")
@click.option(
    "--guest",
    type=click.Choice(["blockd", "linux"]),
    default="blockd",
    show_default=True,
    help="The driver VM: the bundled one, or Debian's stock kernel.",
)
@click.option(
    "--guests",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --guest linux: where the stock guests are, or are fetched to.  [default: ~/.cache/ftvm/guests]",
)
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep the pair's state there.")
@json_option
@log_json_option
def command(
    kill: str,
    count: int,
    seed: int | None,
    clients: int,
    depth: int,
    guest: str,
    guests: Path | None,
    keep: Path | None,
    as_json: bool,
    log_json: bool,
) -> None:
    """Start a pair with a driver VM, load it over NBD, kill it again and again, and verify every block.

    Exit code 0 only if every planned kill hit under load, was followed by a protected pair, and nothing was lost or
    doubled. Takes at most 90 seconds; with `--guest linux`, whose restarts are boots, at most ten minutes, and 120 MB
    are fetched the first time, as `ftvm guest fetch` does.
    """
    import secrets
    import tempfile

    from ftvm.demo.pair import MACHINE, linux_machine, linux_options, run
    from ftvm.demo.run import Options
    from ftvm.say import Say

    say = Say("demo", log_json)
    options = Options(
        seed=secrets.randbits(31) if seed is None else seed, kill=kill, count=count, clients=clients, depth=depth
    )
    machine = MACHINE
    if guest == "linux":
        machine, options = linux_machine(_fetched(guests, say)), linux_options(options)
    with tempfile.TemporaryDirectory(prefix="ftvm-demo-") as scratch:
        report = run(keep if keep is not None else Path(scratch), options, say, machine)
    if as_json:
        print_json(report.as_json())
    else:
        from rich.console import Console

        Console().print(report.table())
    raise click.exceptions.Exit(0 if report.passed else 1)


def _fetched(guests: Path | None, say: Say) -> Path:
    """The directory of the stock guests, which are fetched when they are not there."""
    from ftvm.linux.fetch import Wanted, fetch

    if guests is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        guests = cache / "ftvm" / "guests"
    fetch(guests, Wanted(), say)
    return guests
