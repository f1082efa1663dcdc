# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm log`: look into a recording; without running its guest, except to compare two."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.log_export import export
from ftvm.commands.log_show import grep, show
from ftvm.commands.log_trim import pack, trim
from ftvm.commands.options import json_option, log_argument, print_json


@click.group()
def command() -> None:
    """Look into a recording, or compare two."""


command.add_command(show)
command.add_command(grep)
command.add_command(export)
command.add_command(trim)
command.add_command(pack)


@command.command()
@log_argument
@json_option
def stat(log: Path, as_json: bool) -> None:
    """Count what is in a recording: entries, events, bytes, guest time."""
    from replay import inspect

    found = inspect.stat(log).as_dict()
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items()) or "-"
        elif isinstance(value, float):
            value = f"{value:.2f}"
        click.echo(f"{name.replace('_', ' '):<26}{'-' if value in (None, '') else value}")


@command.command()
@log_argument
@json_option
def verify(log: Path, as_json: bool) -> None:
    """Check a recording's structure. Exit code 0: whole, or with a torn tail; 1: damaged."""
    from replay import inspect

    verdict = inspect.verify(log)
    if as_json:
        print_json(verdict.as_dict() | {"exit_code": verdict.exit_code})
    else:
        click.echo(verdict.words)
    raise click.exceptions.Exit(verdict.exit_code)


@command.command()
@click.argument("one", metavar="A", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("other", metavar="B", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def diff(one: Path, other: Path, as_json: bool) -> None:
    """Find the first difference of two recordings: the entry, then the very instruction, and what differs there.

    Both are replayed here as far as is needed. Exit code 0: they agree; 1: they differ.
    """
    from ftvm.comparison import Comparison
    from ftvm.debugger import Debugger
    from ftvm.say import Say

    say = Say("diff")
    with Debugger.open(one, verify=False) as a, Debugger.open(other, verify=False) as b:
        found = Comparison(a, b, say.info).first_difference()
    if as_json:
        print_json({"differ": found is not None} | ({} if found is None else found.as_dict()))
    else:
        click.echo("the recordings agree" if found is None else found.words())
    raise click.exceptions.Exit(0 if found is None else 1)
