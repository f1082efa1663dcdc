# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm last-write`: who wrote this?"""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.options import json_option, log_argument, log_json_option, print_json, symbols_option


@click.command()
@log_argument
@click.argument("address")
@click.option("--length", type=click.IntRange(1, 4096), default=8, show_default=True, help="Bytes at the address.")
@click.option("--before", metavar="PLACE", help="The last write before this place (a clock, ENTRY:CLOCK, 1.5s, ...).")
@click.option("--physical", is_flag=True, help="The address is a physical one.")
@symbols_option
@json_option
@log_json_option
def command(
    log: Path,
    address: str,
    length: int,
    before: str | None,
    physical: bool,
    symbols: Path | None,
    as_json: bool,
    log_json: bool,
) -> None:
    """Find the last write to an address of a recorded guest: when, by which instruction, the bytes before and after.

    ADDRESS is a number or a symbol of the kernel, as the page tables at that place map it. Exit code 1: nothing has
    written there since the recording began, or the address is not mapped.
    """
    from ftvm.debugger import Debugger
    from ftvm.say import Say
    from ftvm.writer import find_writer

    say = Say("last-write", log_json)
    with Debugger.open(log) as debugger, say.progress(log.name, len(debugger.timeline.entries)) as display:
        debugger.tell_progress(display.advance)
        debugger.take_symbols(symbols)
        try:
            found = find_writer(debugger, address, length, before, physical)
        except ValueError as error:
            say.error(str(error))
            raise click.exceptions.Exit(1) from None
    if as_json:
        print_json(found.as_dict())
    else:
        click.echo(found.words())
