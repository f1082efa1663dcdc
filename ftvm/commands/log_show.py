# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm log show` and `ftvm log grep`: a recording as lines, all of it or what is looked for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftvm.commands.options import Function, log_argument, machine_option

if TYPE_CHECKING:
    from ftvm.records.happening import Happening
    from ftvm.records.query import Query
    from ftvm.records.recording import Recording

ERASE = "\r\x1b[2K"  # a progress bar that stands on the terminal where a line is about to be printed


def range_options(function: Function) -> Function:
    """--from, --to: entries."""
    last = click.option("--to", "last", type=click.IntRange(min=0), help="Last entry.")
    return click.option("--from", "first", type=click.IntRange(min=0), default=0, help="First entry.")(last(function))


replay_option = click.option("--replay", is_flag=True, help="Run the guest again, and tell its outputs too.")
lines_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line, for programs.")


@click.command()
@log_argument
@range_options
@replay_option
@machine_option
@lines_option
def show(log: Path, first: int, last: int | None, replay: bool, machine: Path | None, as_json: bool) -> None:
    """Print a recording's entries, and what they brought to the guest, one a line.

    With --replay, the guest is run again from the beginning (or the last checkpoint before), and what it sent out is
    told too. Text of the guest is escaped. Exit code 1 at damage or divergence, behind what is before it.
    """
    from ftvm.records.lines import epoch_lines
    from ftvm.records.recording import Recording

    with Recording.open(log, machine) as recording, told_divergence(), progress(recording, replay) as (echo, tell):
        for each in recording.walk(first, last, replay=replay, progress=tell):
            if as_json:
                happened = [happening.as_dict() for happening in each.happenings]
                echo(json.dumps(each.epoch.as_dict() | {"happenings": happened}))
                continue
            for line in epoch_lines(each.epoch, each.happenings):
                echo(line)
        if recording.tail and not as_json:
            echo(f"({recording.tail})")


@click.command()
@log_argument
@click.argument("pattern", required=False)
@click.option("-k", "--kind", "kinds", multiple=True, metavar="KIND", help="Only of this kind; may be given again.")
@range_options
@click.option("--since", type=float, metavar="S", help="Not before this guest time in seconds.")
@click.option("--until", type=float, metavar="S", help="Not behind this guest time in seconds.")
@click.option("-x", "--hex", "in_hex", is_flag=True, help="PATTERN is in hexadecimal: de ad (..){2} be|bf.")
@click.option("-i", "--ignore-case", is_flag=True, help="Letters of PATTERN stand for both cases.")
@click.option("-v", "--invert-match", "inverted", is_flag=True, help="Those in which PATTERN is not.")
@click.option("-m", "--max-count", type=click.IntRange(min=1), help="Stop behind so many.")
@click.option("-c", "--count", is_flag=True, help="Print only how many there are.")
@replay_option
@machine_option
@lines_option
def grep(
    log: Path, pattern: str | None, kinds: tuple[str, ...], first: int, last: int | None, since: float | None,
    until: float | None, in_hex: bool, ignore_case: bool, inverted: bool, max_count: int | None, count: bool,
    replay: bool, machine: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Find what happened in a recording, by its kind, when it was, or what was in it.

    Kinds into the guest: console_input, packet, entropy, block_request, block_close, control, link. Out of it:
    console_output, packet_out, block_reply, port_output, notice. In it: interrupt, disk_request. Those two groups are
    not in the log: asked for one of them, or with --replay, the guest is run again. Console output is searched line
    by line.

    PATTERN, a regular expression, is searched in what was moved (a packet's frame, a write's data, text) and in the
    line that is printed for it. Exit code 0: found, 1: nothing found, 2: trouble, which standard error tells.
    """
    from ftvm.records.query import Query
    from ftvm.records.recording import Recording

    wanted = Query(
        frozenset(known_kind(kind) for kind in kinds), first, last, since, until,
        None if pattern is None else compiled(pattern, in_hex, ignore_case), not in_hex, inverted,
    )  # fmt: skip
    replay = replay or wanted.needs_replay
    found = 0
    try:
        with (
            Recording.open(log, machine) as recording,
            told_divergence(),
            progress(recording, replay, always=True) as (echo, tell),
        ):
            for happening in matches(recording, wanted, replay, tell):
                found += 1
                if not count:
                    echo(as_line(happening, as_json))
                if found == max_count:
                    break
    except Exception as error:
        if isinstance(error, OSError):
            raise
        trouble(error)
    if count:
        click.echo(json.dumps({"count": found}) if as_json else found)
    raise click.exceptions.Exit(0 if found else 1)


def matches(
    recording: Recording, wanted: Query, replay: bool, tell: Callable[[int], None] = lambda entries: None
) -> Iterator[Happening]:
    """What a query finds, in order."""
    from ftvm.records.query import with_whole_lines

    happenings = recording.happenings(
        wanted.first,
        wanted.last,
        replay=replay,
        interrupts=wanted.needs_interrupts,
        disks=wanted.needs_disks,
        progress=tell,
    )
    until = takewhile(lambda happening: not wanted.is_behind(happening), happenings)
    return filter(wanted.wants, with_whole_lines(until))


def as_line(happening: Happening, as_json: bool) -> str:
    """For people, or for programs."""
    from ftvm.records.lines import line

    return json.dumps(happening.as_dict()) if as_json else line(happening)


def known_kind(kind: str) -> str:
    """The kind's name; a usage error when there is no such kind."""
    from ftvm.records.query import KINDS

    name = kind.replace("-", "_")
    if name not in KINDS:
        raise click.UsageError(f"there is no kind {kind!r}; kinds are {', '.join(KINDS)}")
    return name


def compiled(pattern: str, in_hex: bool, ignore_case: bool) -> re.Pattern[bytes]:
    """The pattern; a usage error when it is none."""
    from ftvm.records.query import PatternError, hex_pattern, text_pattern

    try:
        return hex_pattern(pattern) if in_hex else text_pattern(pattern, ignore_case=ignore_case)
    except PatternError as error:
        raise click.UsageError(str(error)) from None


def trouble(error: Exception) -> None:
    """As grep does: an error has an exit code of its own."""
    from ftvm.cli import Failed, is_told

    if isinstance(error, click.exceptions.Exit | click.UsageError):
        raise error
    if not isinstance(error, Failed) and not is_told(error):
        raise error
    click.echo(f"ftvm: {error}", err=True)
    raise click.exceptions.Exit(2) from None


@contextmanager
def told_divergence() -> Iterator[None]:
    """A guest that does not do what was recorded is a failure, told in words."""
    from ftvm.cli import Failed
    from replay.divergence import Divergence

    try:
        yield
    except Divergence as divergence:
        raise Failed(str(divergence)) from None


@contextmanager
def progress(
    recording: Recording, replay: bool, *, always: bool = False
) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """(prints a line, hears of entries done); a display on standard error for what may print nothing for long."""
    from ftvm.replaying import entries_in
    from ftvm.say import Say

    if not (replay or always):
        yield click.echo, lambda entries: None
        return
    erase = ERASE if sys.stdout.isatty() and sys.stderr.isatty() else ""
    with Say("log").progress(recording.path.name, entries_in(recording.path)) as display:
        yield (lambda line: click.echo(erase + line)), display.advance
