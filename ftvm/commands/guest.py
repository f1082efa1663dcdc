# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm guest`: the guests that come with the package."""

from __future__ import annotations

import click

from ftvm.commands.options import json_option, print_json


@click.group()
def command() -> None:
    """List the bundled guests."""


@command.command(name="list")
@json_option
def list_guests(as_json: bool) -> None:
    """List the bundled guests: names for `machine.kernel`, and the boot arguments that each understands."""
    from ftvm.guests.catalog import GUESTS

    if as_json:
        print_json(
            [{"name": guest.name, "description": guest.description, "arguments": guest.arguments} for guest in GUESTS]
        )
        return
    for guest in GUESTS:
        click.echo(f"{guest.name:<10}{guest.description}")
        if guest.arguments:
            click.echo(f"{'':<10}cmdline: {guest.arguments}")
