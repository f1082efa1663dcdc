# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm report`: a recording as a page."""

from __future__ import annotations

from pathlib import Path

import click

from ftvm.commands.log_show import progress, range_options
from ftvm.commands.options import json_option, log_argument, machine_option, print_json


@click.command()
@log_argument
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to; else LOG.html.")
@click.option("--replay/--no-replay", default=True, show_default=True, help="Run the guest again, to have its outputs.")
@range_options
@machine_option
@json_option
def command(
    log: Path, output: Path | None, replay: bool, first: int, last: int | None, machine: Path | None, as_json: bool
) -> None:
    """Write a recording as one HTML page: a timeline to zoom, rates, events, and what was verified.

    The page needs nothing but a browser, asks nothing of any network, and is of bounded size: what there is too much of
    is told in sums over guest time, with a part of the events; --from and --to make a page of a part, with more of
    them. Exit code 1 at damage or divergence, which the page tells too, with all that was before.
    """
    from ftvm.cli import Failed
    from ftvm.records.recording import Recording
    from ftvm.report.collect import collect, facts
    from ftvm.report.page import page

    target = log.with_name(log.name + ".html") if output is None else output
    with Recording.open(log, machine) as recording:
        with progress(recording, replay, always=True) as (_, tell):
            found = collect(recording, first, last, replay=replay, progress=tell)
        try:
            size = target.write_text(page(found, facts(recording, found)), encoding="utf-8")
        except OSError as error:
            raise Failed(f"cannot write {target}: {error.strerror}") from None
    counted = {"path": str(target), "characters": size, "entries": found.entries, "sound": found.sound}
    if as_json:
        print_json(counted)
    else:
        click.echo(f"{target}: {found.entries:,} entries")
    if not found.sound:
        raise Failed(found.divergence or found.damage)
