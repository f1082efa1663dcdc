# SPDX-License-Identifier: GPL-2.0-or-later
"""Where two recordings part: the first entry, then the first instruction, and what differs there.

    entries        the inputs of an entry differ: that event or number is the answer
    results        the inputs agree, the results of an entry do not: what happened in it?
                   registers differ at its end: bisect its clock by registers, to one instruction
                   they agree throughout: RAM, devices or outputs differ; RAM is traced to its writer
    neither        the recordings agree, as far as both go

Each side replays itself, so both must be replayable here. Registers at a clock are compared exactly; what is told is
the last place where both sides are the same, and the instruction there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from devices.event import Event
from ftvm.board import RAM_BASE
from ftvm.debugger import Debugger
from ftvm.disassembly import Disassembler, Instruction
from ftvm.hart import PAGE_SIZE
from replay.divergence import FIELD_ORDER, Divergence, event_words
from replay.entry import Entry, RecordedResult
from replay.position import Position

SHOWN: Final = 8  # differences of a kind that are told
CHUNK: Final = 1 << 20
LOAD_BYTES: Final = 8
Tell = Callable[[str], None]


@dataclass(slots=True)
class Difference:
    """What was found. `position` is the last place where both sides are the same, if that is in an entry."""

    kind: str  # entry, instruction, memory, state, length, recorder
    sequence: int
    summary: str
    position: Position | None = None
    instructions: tuple[Instruction, Instruction] | None = None
    details: list[str] = field(default_factory=list)
    event: str = ""

    def words(self) -> str:
        """For people."""
        lines = [self.summary]
        if self.instructions is not None:
            one, other = self.instructions
            both = [f"instruction in A {one}", f"instruction in B {other}"]
            lines += [f"instruction {one}"] if one == other else both
        lines += [f"  {detail}" for detail in self.details]
        return "\n".join([*lines, self.event] if self.event else lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "sequence": self.sequence,
            "summary": self.summary,
            "clock": None if self.position is None else self.position.clock,
            "instructions": None if self.instructions is None else [str(each) for each in self.instructions],
            "details": self.details,
            "event": self.event or None,
        }


class Comparison:
    """Two recordings, each opened in a debugger that does not verify."""

    def __init__(self, one: Debugger, other: Debugger, tell: Tell = lambda words: None) -> None:
        self.one = one
        self.other = other
        self._tell = tell
        self._disassembler = Disassembler()

    def first_difference(self) -> Difference | None:
        """None when they agree as far as both go, and go equally far."""
        start = self._memory_differences()
        pairs = zip(self.one.timeline.entries, self.other.timeline.entries, strict=False)
        for (entry, result), (entry_too, result_too) in pairs:
            if entry != entry_too:
                return self._with_start(start, self._of_entries(entry, entry_too))
            if result != result_too:
                return self._with_start(start, self._of_results(entry, result, result_too))
        lengths = len(self.one.timeline.entries), len(self.other.timeline.entries)
        if lengths[0] != lengths[1]:
            words = f"the first {min(lengths)} entries agree; A has {lengths[0]}, B has {lengths[1]}"
            return self._with_start(start, Difference("length", self.one.timeline.start.sequence + min(lengths), words))
        if start:
            words = "RAM differs at the beginning, which no result shows"
            return Difference("memory", self.one.timeline.start.sequence, words, details=start)
        return None

    # -- entries ----------------------------------------------------------------------------------------------------

    def _of_entries(self, one: Entry, other: Entry) -> Difference:
        found = Difference("entry", one.sequence, f"entry {one.sequence} differs: other input")
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

    def _of_results(self, entry: Entry, one: RecordedResult, other: RecordedResult) -> Difference:
        names = [name for name in FIELD_ORDER if getattr(one, name) != getattr(other, name)]
        told = ", ".join(f"{name} A {getattr(one, name):#x}, B {getattr(other, name):#x}" for name in names)
        self._tell(f"entry {entry.sequence} gives other results ({', '.join(names)}); looking into it")
        found = self._of_recorders(entry.sequence) or self._bisect(entry, min(one.clock, other.clock))
        found = found or self._of_states(entry)
        found.summary = f"entry {entry.sequence} gives other results: {told}\n{found.summary}"
        found.event = self._event_before(entry.sequence)
        return found

    def _of_recorders(self, sequence: int) -> Difference | None:
        """Whether a side's own replay does not give what it has recorded: then its recorder, or its file, is wrong."""
        for name, side in (("A", self.one), ("B", self.other)):
            side.timeline.verify = True
            try:
                side.timeline.seek(Position(sequence, side.timeline.entries[sequence][1].clock))
            except Divergence as divergence:
                words = f"{name} does not replay as it was recorded: its entry is not what its guest does"
                return Difference("recorder", divergence.sequence, words, details=[str(divergence)])
            finally:
                side.timeline.verify = False
        return None

    def _bisect(self, entry: Entry, end: int) -> Difference | None:
        """The instruction after which registers differ; None when they do not in this entry."""
        low, high = entry.clock, end
        if self._same_at(Position(entry.sequence, end)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._same_at(Position(entry.sequence, middle)):
                low = middle
            else:
                high = middle
        return self._around(Position(entry.sequence, low))

    def _same_at(self, place: Position) -> bool:
        for side in (self.one, self.other):
            side.timeline.seek(place)
        same_place = self.one.timeline.position == self.other.timeline.position
        return same_place and self.one.hart.registers() == self.other.hart.registers()

    def _around(self, place: Position) -> Difference:
        """The registers are the same at this place and differ behind the instruction there."""
        self._same_at(place)
        place = self.one.timeline.position
        before = dict(self.one.registers())
        pair = tuple(self._disassembler.at(before["pc"], side.read) for side in (self.one, self.other))
        found = Difference("instruction", place.sequence, f"the first instruction that differs is at {place}", place)
        found.instructions = (pair[0], pair[1])
        if (address := pair[0].address(before)) is not None:
            found.details += self._of_operand(address)
            self._same_at(place)
        for side in (self.one, self.other):
            side.timeline.step()
        found.details += _register_differences(self.one.hart.registers(), self.other.hart.registers())
        return found

    def _of_operand(self, address: int) -> list[str]:
        """The memory that the instruction means, and who made it different."""
        contents = [side.read(address, LOAD_BYTES) for side in (self.one, self.other)]
        if contents[0] == contents[1]:
            return []
        told = [f"memory at {address:#x}: A {contents[0].hex()}, B {contents[1].hex()}"]
        physical = self.one.to_physical(address)
        if physical is not None:
            told += self._writers(physical)
        return told

    def _writers(self, physical: int) -> list[str]:
        """Who wrote a place last, on either side."""
        sides = (("A", self.one), ("B", self.other))
        return [f"  written last in {name} {self._writer(side, physical)}" for name, side in sides]

    def _writer(self, side: Debugger, physical: int) -> str:
        here = side.timeline.position
        stop = side.last_write(physical, LOAD_BYTES)
        if stop is None:
            return "before the recording begins"
        insn = self._disassembler.at(side.registers()["pc"], side.read)
        side.timeline.seek(here)
        return f"at {stop.position} by {insn}"

    def _of_states(self, entry: Entry) -> Difference:
        """Registers are the same throughout the entry: memory, devices or outputs are not."""
        sides = (self.one, self.other)
        end = min(side.timeline.entries[entry.sequence][1].clock for side in sides)
        self._same_at(Position(entry.sequence, end))
        found = Difference("state", entry.sequence, "registers are the same throughout; this differs behind the entry:")
        found.details += self._memory_differences(trace=True) + self._device_differences()
        if not found.details:
            found.details.append("nothing that is left at its end: what was sent out, or read from devices, differed")
        return found

    def _memory_differences(self, trace: bool = False) -> list[str]:
        """Where RAM differs now; with `trace`, who wrote the first such place."""
        told: list[str] = []
        count = 0
        for page in self._pages_that_differ():
            count += 1
            if count <= SHOWN:
                offset, one, other = self._bytes_that_differ(page)
                told.append(f"RAM at {RAM_BASE + offset:#x}: A {one.hex()}, B {other.hex()}")
                if trace and count == 1:
                    told += self._writers(RAM_BASE + offset)
        if count > SHOWN:
            told.append(f"and {count - SHOWN} more pages")
        return told

    def _pages_that_differ(self) -> Iterator[int]:
        one, other = self.one.hart.ram, self.other.hart.ram
        for start in range(0, min(len(one), len(other)), CHUNK):
            if bytes(one[start : start + CHUNK]) == bytes(other[start : start + CHUNK]):
                continue
            for page in range(start // PAGE_SIZE, min(start + CHUNK, len(one)) // PAGE_SIZE):
                span = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
                if one[span] != other[span]:
                    yield page

    def _bytes_that_differ(self, page: int) -> tuple[int, bytes, bytes]:
        span = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
        one, other = bytes(self.one.hart.ram[span]), bytes(self.other.hart.ram[span])
        first = next(index for index in range(PAGE_SIZE) if one[index] != other[index])
        first -= first % LOAD_BYTES
        return page * PAGE_SIZE + first, one[first : first + LOAD_BYTES], other[first : first + LOAD_BYTES]

    def _device_differences(self) -> list[str]:
        """Fields of devices, journal and supervisor that differ; only between entries."""
        if self.one.timeline.inside or self.other.timeline.inside:
            return []
        states = [msgpack.unpackb(dict(side.machine.save_state())["machine"]) for side in (self.one, self.other)]
        return [f"{path}: A {one!r:.60}, B {other!r:.60}" for path, one, other in _fields(*states)][:SHOWN]

    def _with_start(self, start: list[str], found: Difference) -> Difference:
        if start:
            found.details += ["RAM differs from the beginning:", *start]
        return found


def _event_difference(one: Event, other: Event) -> str:
    if (one.kind, one.unit) != (other.kind, other.unit):
        return f"A {event_words(one)}, B {event_words(other)}"
    length = min(len(one.data), len(other.data))
    first = next((index for index in range(length) if one.data[index] != other.data[index]), length)
    if first == length:
        return f"A has {len(one.data)} bytes, B {len(other.data)}: {event_words(one)}"
    return f"byte {first} is {one.data[first]:#04x} in A and {other.data[first]:#04x} in B: {event_words(one)}"


def _register_differences(one: dict[str, int], other: dict[str, int]) -> list[str]:
    return [f"{name}: A {one[name]:#x}, B {other[name]:#x}" for name in one if one[name] != other[name]]


def _fields(one: Any, other: Any, path: str = "machine") -> Iterator[tuple[str, Any, Any]]:
    """Leaves of two nested states that differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name in one:
            yield from _fields(one[name], other[name], f"{path}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (item, item_too) in enumerate(zip(one, other, strict=True)):
            yield from _fields(item, item_too, f"{path}[{index}]")
    elif one != other:
        yield path, one, other
