# SPDX-License-Identifier: GPL-2.0-or-later
"""`Bisection`: two runs that are open in debuggers, down to the first instruction after which they are not the same.

Inside one entry, where registers are the same at its beginning and not at its end, its clock is halved until one
instruction is left: some twenty-three times two steps of an epoch. Where the memory of the two is known to differ
before anything else does, the instructions that read just that are tried one by one: that also finds a difference that
was lost again before the end of its entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ftvm.debugger import Debugger
from ftvm.disassembly import Disassembler
from ftvm.finding import Finding
from ftvm.state_diff import MEMORY, WORD, Spot, differences, registers, told
from replay.position import Position
from replay.timeline import Why

READ: Final = 1
READERS_MAX: Final = 64  # instructions that read what differs, and are tried
WATCHED_MAX: Final = 64  # words


class Bisection:
    """Two debuggers whose timelines have the same entries, as far as they are looked at."""

    def __init__(self, one: Debugger, other: Debugger, names: tuple[str, str] = ("A", "B")) -> None:
        self.one = one
        self.other = other
        self.names = names
        self._disassembler = Disassembler()

    def same_at(self, place: Position) -> bool:
        """Whether registers are; both stand there then."""
        self.go_to(place)
        return self.one.timeline.position == self.other.timeline.position and not self._registers()

    def go_to(self, place: Position) -> None:
        """Both."""
        for side in (self.one, self.other):
            side.timeline.seek(place)

    def spots(self) -> list[Spot]:
        """All that differs where both stand."""
        inside = self.one.timeline.inside or self.other.timeline.inside
        return differences(self.one, self.other, fields=not inside)

    def told(self, spots: Sequence[Spot]) -> list[str]:
        """The first few in words."""
        return told(spots, *self.names)

    def in_entry(self, sequence: int, end: int) -> Finding | None:
        """The instruction of this entry, before clock `end`, after which registers differ; None when they do not."""
        low, high = self.one.timeline.entries[sequence][0].clock, end
        if self.same_at(Position(sequence, end)):
            return None
        if not self.same_at(Position(sequence, low)):
            return Finding("state", sequence, f"registers differ before entry {sequence} begins", names=self.names)
        while high - low > 1:
            middle = (low + high) // 2
            if self.same_at(Position(sequence, middle)):
                low = middle
            else:
                high = middle
        return self.around(Position(sequence, low))

    def first_reader(self, spots: Sequence[Spot], start: Position, before: Position) -> Finding | None:
        """The first instruction between two places that reads what differs in RAM, and does something else for it."""
        words = [at for spot in spots if spot.kind == MEMORY for at, _ in spot.pieces]
        if not words or len(words) > WATCHED_MAX:
            return None
        for place in self._readers(words, start, before):
            if not self.same_at(place):
                return self.in_entry(place.sequence, place.clock)
            for side in (self.one, self.other):
                side.timeline.step()
            if self._registers():
                return self.around(place)
        return None

    def _readers(self, words: Sequence[int], start: Position, before: Position) -> Iterator[Position]:
        timeline = self.one.timeline
        timeline.seek(start)
        for _ in range(READERS_MAX):
            timeline.set_watched([(at, WORD, READ) for at in words])
            try:
                stop = timeline.run(behind=False, until=before)
            finally:
                timeline.set_watched(())
            if stop.why is not Why.WATCH or stop.position >= before:
                return
            yield stop.position

    def around(self, place: Position) -> Finding:
        """The registers are the same at this place and differ behind the instruction there."""
        self.go_to(place)
        place = self.one.timeline.position
        before = dict(self.one.registers())
        pair = tuple(self._disassembler.at(before["pc"], side.read) for side in (self.one, self.other))
        name = self.one.symbols.name(before["pc"])
        where = f"{place}, in {name}" if name else str(place)
        found = Finding("instruction", place.sequence, f"the first instruction that differs is at {where}", place)
        found.names = self.names
        found.instructions = (pair[0], pair[1])
        if (address := pair[0].address(before)) is not None:
            found.details += self._of_operand(address)
            self.go_to(place)
        for side in (self.one, self.other):
            side.timeline.step()
        found.details += self.told(self._registers())
        return found

    def _registers(self) -> list[Spot]:
        return list(registers(self.one.machine, self.other.machine))

    def _of_operand(self, address: int) -> list[str]:
        """The memory that the instruction means, and who made it different."""
        contents = [side.read(address, WORD) for side in (self.one, self.other)]
        if contents[0] == contents[1]:
            return []
        one, other = self.names
        found = [f"memory at {address:#x}: {one} {contents[0].hex()}, {other} {contents[1].hex()}"]
        physical = self.one.to_physical(address)
        return found if physical is None else found + self.writers(physical)

    def writers(self, physical: int) -> list[str]:
        """Who wrote a place last before here, on either side."""
        sides = zip(self.names, (self.one, self.other), strict=True)
        return [f"  written last in {name} {self.writer(side, physical)}" for name, side in sides]

    def writer(self, side: Debugger, physical: int) -> str:
        """The same of one side, in words."""
        here = side.timeline.position
        stop = side.last_write(physical, WORD)
        if stop is None:
            side.timeline.seek(here)
            return "before the recording begins"
        pc = side.registers()["pc"]
        insn = self._disassembler.at(pc, side.read)
        name = side.symbols.name(pc)
        side.timeline.seek(here)
        return f"at {stop.position} by {insn}" + (f" in {name}" if name else "")
