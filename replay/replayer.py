# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a log's entries on a machine again, and compares every recorded field of every result.

The machine is anything with `run(entry)`, freshly reset; when the log starts from a checkpoint, also with
`restore(sections)`. A result that differs raises `Divergence` at once: nothing after it means anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from devices.event import Event
from replay.divergence import Divergence, differences
from replay.entry import Entry, EpochResult
from replay.log_reader import LogReader
from replay.log_scan import Tail
from replay.state import Sections

PROGRESS_EVERY = 256  # entries


class Replayable(Protocol):
    """What a replay drives."""

    def run(self, entry: Entry) -> EpochResult: ...

    def restore(self, sections: Sections) -> None: ...


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """How far a replay came. Clock and time are those at the end of the last entry."""

    entries: int
    last_sequence: int | None
    clock: int
    time: int  # guest time in ticks
    verified: bool
    closed: bool  # the recorder ended the log
    tail: Tail | None  # what was cut from the log's end


Progress = Callable[[int, int, int], None]  # entries done, clock, guest time


def replay(
    machine: Replayable,
    reader: LogReader,
    *,
    verify: bool = True,
    progress: Progress | None = None,
    until: int | None = None,
) -> ReplaySummary:
    """Run all entries (up to and including sequence `until`); `Divergence` at the first that differs when `verify`."""
    state = reader.state()
    if state is not None:
        machine.restore(state.sections)
    entries, last, clock, time = 0, reader.state_sequence, 0, 0
    event: tuple[int, Event] | None = None
    for entry, expected in reader:
        if until is not None and entry.sequence > until:
            break
        if entry.events:
            event = (entry.sequence, entry.events[-1])
        result = machine.run(entry)
        if verify and (found := differences(expected, result)):
            raise Divergence(entry, found, event)
        entries, last, clock, time = entries + 1, entry.sequence, result.clock, result.time
        if progress is not None and entries % PROGRESS_EVERY == 0:
            progress(entries, clock, time)
    if progress is not None:
        progress(entries, clock, time)
    return ReplaySummary(entries, last, clock, time, verify, reader.closed, reader.tail)
