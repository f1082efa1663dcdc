# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm demo`: a pair under load whose primaries and drivers are killed, and a report of what its clients noticed."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import json_option, log_json_option, print_json


@click.command()
@click.option("--kill", type=click.Choice(["host", "driver", "both"]), default="both", show_default=True)
@click.option("--count", type=click.IntRange(1, 20), default=4, show_default=True, help="Kills of each kind.")
@click.option("--seed", type=int, default=None, help="Repeat the plan of an earlier demo.")
@click.option("--clients", type=click.IntRange(2, 8), default=2, show_default=True)
@click.option("--depth", type=click.IntRange(4, 64), default=8, show_default=True, help="In flight per client.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep the pair's state there.")
@json_option
@log_json_option
def command(
    kill: str, count: int, seed: int | None, clients: int, depth: int, keep: Path | None, as_json: bool, log_json: bool
) -> None:
    """Start a pair with the bundled driver VM, load it over NBD, kill it again and again, and verify every block.

    Exit code 0 only if every planned kill hit under load, was followed by a protected pair, and nothing was lost or
    doubled. Takes at most 90 seconds.
    """
    import secrets
    import tempfile

    from ftvm.demo.pair import run
    from ftvm.demo.run import Options
    from ftvm.say import Say

    say = Say("demo", log_json)
    options = Options(
        seed=secrets.randbits(31) if seed is None else seed, kill=kill, count=count, clients=clients, depth=depth
    )
    with tempfile.TemporaryDirectory(prefix="ftvm-demo-") as scratch:
        report = run(keep if keep is not None else Path(scratch), options, say)
    if as_json:
        print_json(report.as_json())
    else:
        from rich.console import Console

        Console().print(report.table())
    raise click.exceptions.Exit(0 if report.passed else 1)
