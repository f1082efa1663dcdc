# SPDX-License-Identifier: GPL-2.0-or-later
"""`Entries`: a log's entries by their number, and found by clock or guest time; for whoever moves in both directions.

They are read once, in order, and kept: some 300 bytes each beside the data of their events. A log that is still being
written is read on by `refresh`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from replay.batch import Recorded
from replay.errors import LogError
from replay.log_reader import LogReader
from replay.position import Position


class Entries:
    """All entries of a log that are whole, with what was recorded of their results."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._items: list[Recorded] = []
        self.base = reader.state_sequence or 0
        """The sequence of the checkpoint that the log starts from, or 0: the first entry's is one more."""
        self.refresh()

    def refresh(self) -> int:
        """Read what has been added to the log; how many entries that was."""
        before = len(self._items)
        for recorded in self._reader.entries(self.last + 1):
            if recorded[0].sequence != self.last + 1:
                raise LogError(f"{self._reader.path}: entry {self.last} is followed by {recorded[0].sequence}")
            self._items.append(recorded)
        return len(self._items) - before

    @property
    def first(self) -> int:
        """Sequence of the first entry."""
        return self.base + 1

    @property
    def last(self) -> int:
        """Sequence of the last entry; `base` when there is none."""
        return self.base + len(self._items)

    @property
    def start(self) -> Position:
        """Where the log begins; its clock is 0 when there is no entry to tell it."""
        return Position(self.base, self._items[0][0].clock if self._items else 0)

    @property
    def end(self) -> Position:
        """Where it ends."""
        return self.behind(self.last)

    def behind(self, sequence: int) -> Position:
        """The place behind an entry; the start for those that the log does not have any more."""
        return self.start if sequence <= self.base else Position(sequence, self[sequence][1].clock)

    def place_of(self, clock: int) -> Position:
        """The place at a clock value: before the first instruction that begins there or later."""
        return self.start if clock <= self.start.clock else min(Position(self.at_clock(clock), clock), self.end)

    @property
    def rate(self) -> int:
        """Clock per tick of guest time."""
        return self._reader.header.rate

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, sequence: int) -> Recorded:
        if not self.first <= sequence <= self.last:
            raise IndexError(f"the log has entries {self.first} to {self.last}, not {sequence}")
        return self._items[sequence - self.first]

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self._items)

    def __reversed__(self) -> Iterator[Recorded]:
        return reversed(self._items)

    def since(self, sequence: int) -> Iterator[Recorded]:
        """From this entry on."""
        for index in range(max(0, sequence - self.first), len(self._items)):
            yield self._items[index]

    def at_clock(self, clock: int) -> int:
        """The entry in which this clock is reached: the first that ends at it or later; the last, when none does."""
        index = bisect_left(self._items, clock, key=lambda recorded: recorded[1].clock)
        return min(self.first + index, self.last)

    def at_time(self, time: int) -> int:
        """The entry in which this guest time (ticks) is reached: the first that ends at it or later; or the last."""
        index = bisect_left(self._items, time, key=lambda recorded: recorded[1].time)
        return min(self.first + index, self.last)
