# SPDX-License-Identifier: GPL-2.0-or-later
"""Where two recordings part: the first entry, then the first instruction, and what differs there.

    entries        the inputs of an entry differ: that event or number is the answer
    results        the inputs agree, the results of an entry do not: what happened in it?
                   registers differ at its end: bisect its clock by registers, to one instruction
                   they agree throughout: RAM, devices or outputs differ; RAM is traced to its writer
    neither        the recordings agree, as far as both go
    beginning      where one begins with a state in mid-life, the other is taken to that entry first, and all that
                   differs there is told: registers, RAM, devices, disks; then what comes of it

Each side replays itself, so both must be replayable here. Registers at a clock are compared exactly; what is told is
the last place where both sides are the same, and the instruction there.
"""

from __future__ import annotations

from collections.abc import Callable

from devices.event import Event
from ftvm.bisection import Bisection
from ftvm.debugger import Debugger
from ftvm.finding import Finding
from ftvm.state_diff import DISK, MEMORY, Spot
from replay.divergence import FIELD_ORDER, Divergence, event_words
from replay.entry import Entry, RecordedResult
from replay.position import Position

Tell = Callable[[str], None]


class Comparison:
    """Two recordings, each opened in a debugger that does not verify."""

    def __init__(self, one: Debugger, other: Debugger, tell: Tell = lambda words: None) -> None:
        self.one = one
        self.other = other
        self._tell = tell
        self._bisection = Bisection(one, other)

    def first_difference(self) -> Finding | None:
        """None when they agree as far as both go, and go equally far."""
        begin = max(self.one.timeline.start.sequence, self.other.timeline.start.sequence)
        lasts = [side.timeline.entries.last for side in (self.one, self.other)]
        if begin > min(lasts):
            return Finding("length", begin, f"no entry is in both: A ends with {lasts[0]}, B with {lasts[1]}")
        start = self._at_the_beginning(begin)
        found = self._first_entry(begin)
        if found is None and lasts[0] != lasts[1] and begin < min(lasts):
            words = f"the first {min(lasts) - begin} entries agree; A has {lasts[0]}, B has {lasts[1]}"
            found = Finding("length", min(lasts), words)
        if not start:
            return found
        return self._from_the_beginning(begin, start, found)

    def _at_the_beginning(self, begin: int) -> list[Spot]:
        for side in (self.one, self.other):
            if side.timeline.start.sequence < begin:
                side.timeline.seek(side.timeline.behind(begin))
        spots = self._bisection.spots()
        bare = not all(_has_disks(side) for side in (self.one, self.other))
        return [spot for spot in spots if not (bare and spot.kind == DISK)]

    def _first_entry(self, begin: int) -> Finding | None:
        """The first entry with other inputs, or other results."""
        sides = (side.timeline.entries.since(begin + 1) for side in (self.one, self.other))
        for (entry, result), (entry_too, result_too) in zip(*sides, strict=False):
            if entry != entry_too:
                return self._of_entries(entry, entry_too)
            if result != result_too:
                return self._of_results(entry, result, result_too)
        return None

    def _from_the_beginning(self, begin: int, start: list[Spot], found: Finding | None) -> Finding:
        """The two were different before the first entry that both have: what came of it, and that."""
        what = "RAM" if all(spot.kind == MEMORY for spot in start) else "the state"
        if found is None or found.kind == "length":
            shows = "which no result shows" if found is None else f"and {found.summary}"
            summary = f"{what} differs at the beginning, {shows}"
            return Finding("memory" if what == "RAM" else "state", begin, summary, details=self._bisection.told(start))
        if found.kind in ("instruction", "state"):
            before = found.position or self.one.timeline.behind(found.sequence)
            origin = self.one.timeline.entries[begin + 1][0].clock
            if earlier := self._bisection.first_reader(start, Position(begin, origin), before):
                earlier.summary = f"{found.summary.splitlines()[0]}\n{earlier.summary}"
                earlier.event = self._event_before(earlier.sequence)
                found = earlier
        found.details += [f"{what} differs from the beginning:", *self._bisection.told(start), *self._of_machines()]
        return found

    def _of_machines(self) -> list[str]:
        words = self.one.reader.header.differences(self.other.reader.header)
        return [f"B beside A: {each}" for each in words]

    # -- entries ----------------------------------------------------------------------------------------------------

    def _of_entries(self, one: Entry, other: Entry) -> Finding:
        found = Finding("entry", one.sequence, f"entry {one.sequence} differs: other input")
        for name in ("clock", "time", "time_max", "budget", "flags"):
            if getattr(one, name) != getattr(other, name):
                found.details.append(f"{name}: A {getattr(one, name)}, B {getattr(other, name)}")
        for number, (event, event_too) in enumerate(zip(one.events, other.events, strict=False)):
            if event != event_too:
                found.details.append(f"event {number}: " + _event_difference(event, event_too))
        if len(one.events) != len(other.events):
            longer, name = (one, "A") if len(one.events) > len(other.events) else (other, "B")
            extra = longer.events[min(len(one.events), len(other.events))]
            counts = f"A {len(one.events)}, B {len(other.events)}"
            found.details.append(f"events: {counts}; only {name} has {event_words(extra)}")
        found.event = self._event_before(one.sequence - 1)
        return found

    def _event_before(self, sequence: int) -> str:
        """The last event up to an entry, in words."""
        entries = self.one.timeline.entries
        for each in range(sequence, entries.base, -1):
            if events := entries[each][0].events:
                return f"the last event before was {event_words(events[-1])} in entry {each}"
        return "no event was delivered before"

    # -- results ----------------------------------------------------------------------------------------------------

    def _of_results(self, entry: Entry, one: RecordedResult, other: RecordedResult) -> Finding:
        names = [name for name in FIELD_ORDER if getattr(one, name) != getattr(other, name)]
        told = ", ".join(f"{name} A {getattr(one, name):#x}, B {getattr(other, name):#x}" for name in names)
        self._tell(f"entry {entry.sequence} gives other results ({', '.join(names)}); looking into it")
        found = self._of_recorders(entry.sequence)
        found = found or self._bisection.in_entry(entry.sequence, min(one.clock, other.clock))
        found = found or self._of_states(entry)
        found.summary = f"entry {entry.sequence} gives other results: {told}\n{found.summary}"
        found.event = self._event_before(entry.sequence)
        return found

    def _of_recorders(self, sequence: int) -> Finding | None:
        """Whether a side's own replay does not give what it has recorded: then its recorder, or its file, is wrong."""
        for name, side in (("A", self.one), ("B", self.other)):
            side.timeline.verify = True
            try:
                side.timeline.seek(side.timeline.behind(sequence))
            except Divergence as divergence:
                words = f"{name} does not replay as it was recorded: its entry is not what its guest does"
                return Finding("recorder", divergence.sequence, words, details=[str(divergence)])
            finally:
                side.timeline.verify = False
        return None

    def _of_states(self, entry: Entry) -> Finding:
        """Registers are the same throughout the entry: memory, devices or outputs are not."""
        end = min(side.timeline.entries[entry.sequence][1].clock for side in (self.one, self.other))
        self._bisection.go_to(Position(entry.sequence, end))
        found = Finding("state", entry.sequence, "registers are the same throughout; this differs behind the entry:")
        spots = self._bisection.spots()
        found.details += self._bisection.told(spots)
        if memory := [spot for spot in spots if spot.kind == MEMORY]:
            found.details += [f"RAM at {memory[0].at:#x}:", *self._bisection.writers(memory[0].at)]
        if not found.details:
            found.details.append("nothing that is left at its end: what was sent out, or read from devices, differed")
        return found


def _event_difference(one: Event, other: Event) -> str:
    if (one.kind, one.unit) != (other.kind, other.unit):
        return f"A {event_words(one)}, B {event_words(other)}"
    length = min(len(one.data), len(other.data))
    first = next((index for index in range(length) if one.data[index] != other.data[index]), length)
    if first == length:
        return f"A has {len(one.data)} bytes, B {len(other.data)}: {event_words(one)}"
    return f"byte {first} is {one.data[first]:#04x} in A and {other.data[first]:#04x} in B: {event_words(one)}"


def _has_disks(side: Debugger) -> bool:
    """Not so the state that a side of a pair keeps when it has diverged: no entries, and its disks lie elsewhere."""
    return bool(len(side.timeline.entries)) or side.reader.state_sequence is None
