# SPDX-License-Identifier: GPL-2.0-or-later
"""`Places`: places in words (replay/position.py) as positions of one recording.

Clocks, entries, times and events are read off the log's entries. Outputs are not in a log: they are found by running
the recording (replay/outputs.py). Where in its entry one was made is found by bisection: the machine is brought to half
of the way and says how much it has made by then, and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from replay.entries import Entries
from replay.outputs import Made, OutputIndex
from replay.position import AtClock, AtEntry, AtTime, Edge, Nth, Place, Position, parse_place
from replay.timeline import Timeline

T = TypeVar("T")


def find_in_entries(place: Place, entries: Entries) -> Position:
    """A place that needs no machine; ValueError for one that does, and where there is none."""
    if isinstance(place, Position):
        return place
    if isinstance(place, Edge):
        return entries.start if place is Edge.START else entries.end
    if not len(entries):
        raise ValueError("the recording has no entries")
    if isinstance(place, AtClock) and not place.relative:
        return entries.place_of(place.clock)
    if isinstance(place, AtEntry):
        if not entries.first <= place.sequence <= entries.last:
            raise ValueError(f"the recording has entries {entries.first} to {entries.last}, not {place.sequence}")
        return _before(entries, place.sequence)
    if isinstance(place, AtTime):
        return _at_time(entries, place.ticks)
    if isinstance(place, Nth) and not (place.output or place.relative):
        return _chosen(_events(place, entries), place)
    raise ValueError("this place can only be found by running the recording, or from where one stands in it")


class Places:
    """Of one timeline."""

    def __init__(self, timeline: Timeline[Any, Any]) -> None:
        self.timeline = timeline
        self.outputs = OutputIndex(timeline)

    def parse(self, text: str) -> Position:
        """The position of a place in words; ValueError. The machine may stand elsewhere afterwards."""
        return self.find(parse_place(text))

    def find(self, place: Place) -> Position:
        """The same, of a place that was parsed."""
        timeline = self.timeline
        if place is Edge.LIVE:
            timeline.entries.refresh()
        if isinstance(place, AtClock) and place.relative:
            return timeline.place_of(max(0, timeline.position.clock + place.clock))
        if isinstance(place, Nth) and place.output:
            return self.exactly(_chosen(self._outputs(place, timeline.position), place))
        if isinstance(place, Nth) and place.relative:
            here, back = timeline.position, place.number < 0
            found = (each for each in _events(place, timeline.entries) if (each < here if back else each > here))
            return _chosen(found, place)
        return find_in_entries(place, timeline.entries)

    def _outputs(self, place: Nth, here: Position) -> Iterator[Made]:
        """In the order in which they are counted; of the entries around `here`, only those behind, or before it."""
        back = place.number < 0
        first = max(here.sequence, self.timeline.entries.first) if place.relative and not back else None
        last = here.sequence + 1 if place.relative and back else None
        for made in self.outputs.matching(place.kind, place.content, first, last, backwards=back):
            if place.relative and made.sequence in (here.sequence, here.sequence + 1):
                exact = self.exactly(made)
                if exact >= here if back else exact <= here:
                    continue
            yield made

    def exactly(self, made: Made) -> Position:
        """In front of the instruction that made it; or of the entry, when it was an answer to an event."""
        timeline, sequence = self.timeline, made.sequence
        entry, result = timeline.entries[sequence]
        timeline.seek(Position(sequence, entry.clock))
        if not timeline.inside or timeline.machine.made(made.kind) >= made.number:
            return _before(timeline.entries, sequence)
        low, high = entry.clock, result.clock  # less than its number is made at `low`, and not at `high`
        while high - low > 1:
            half = (low + high) // 2
            reached = timeline.seek(Position(sequence, half))
            if reached.clock < result.clock and timeline.machine.made(made.kind) < made.number:
                low = reached.clock
            else:
                high = half
        return Position(sequence, low)


def _before(entries: Entries, sequence: int) -> Position:
    return Position(sequence - 1, entries[sequence][0].clock)


def _at_time(entries: Entries, ticks: int) -> Position:
    """Inside an entry time goes by with the clock, and stands still at the entry's `time_max`; between two it jumps."""
    sequence = entries.at_time(ticks)
    entry, result = entries[sequence]
    if ticks <= entry.time:
        return _before(entries, sequence)
    return Position(sequence, min(entry.clock + (ticks - entry.time) * entries.rate, result.clock))


def _events(place: Nth, entries: Entries) -> Iterator[Position]:
    """Before the entries with such events, once for each, in the order in which they are counted."""
    for entry, _ in reversed(entries) if place.number < 0 else entries:
        for event in entry.events:
            if place.kind in (None, event.kind) and (place.content is None or place.content in event.data):
                yield Position(entry.sequence - 1, entry.clock)


def _chosen(found: Iterator[T], place: Nth) -> T:
    count = abs(place.number)
    chosen = list(islice(found, count - 1, count))
    if not chosen:
        what = "output" if place.output else "event"
        raise ValueError(f"there is no such {what}" + (f": fewer than {count}" if count > 1 else ""))
    return chosen[0]
