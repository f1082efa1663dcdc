# SPDX-License-Identifier: GPL-2.0-or-later
"""`Stills`: whole states of a machine between entries, by the sequence of the entry before them; not too many.

When there is one too many, the one goes whose absence makes the least difference: the gap it leaves, measured against
how far it lies from the newest. So they are dense near the end, and thin out towards the past by powers.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Still = TypeVar("Still")


@dataclass(frozen=True, slots=True)
class Kept(Generic[Still]):
    """One of them."""

    sequence: int
    clock: int
    state: Still


class Stills(Generic[Still]):
    """Sorted by sequence. The first is never dropped: without it nothing before the second could be reached."""

    def __init__(self, room: int, drop: Callable[[Still], None]) -> None:
        assert room >= 2
        self._room = room
        self._drop = drop
        self._kept: list[Kept[Still]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(tuple(self._kept))

    def add(self, sequence: int, clock: int, state: Still) -> None:
        """Keep one; a second of the same entry is dropped at once."""
        if self.at(sequence) is not None:
            self._drop(state)
            return
        insort(self._kept, Kept(sequence, clock, state), key=lambda kept: kept.sequence)
        if len(self._kept) > self._room:
            self.thin_out(sequence)

    def at(self, sequence: int) -> Kept[Still] | None:
        """The one behind exactly this entry."""
        found = self.before(sequence)
        return found if found is not None and found.sequence == sequence else None

    def before(self, sequence: int) -> Kept[Still] | None:
        """The latest one behind this entry or an earlier one."""
        index = bisect_right(self._kept, sequence, key=lambda kept: kept.sequence)
        return self._kept[index - 1] if index else None

    def thin_out(self, newest: int) -> bool:
        """Drop one, but not the newest; False when there is none to be dropped."""
        last = self._kept[-1].clock if self._kept else 0
        best, price = 0, float("inf")
        for index in range(1, len(self._kept) - 1):
            if self._kept[index].sequence == newest:
                continue
            gap = self._kept[index + 1].clock - self._kept[index - 1].clock
            cost = gap / (last - self._kept[index].clock + 1)
            if cost < price:
                best, price = index, cost
        if best:
            self._drop(self._kept.pop(best).state)
        return bool(best)
