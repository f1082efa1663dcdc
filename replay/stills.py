# SPDX-License-Identifier: GPL-2.0-or-later
"""`Stills`: whole states of a machine between entries, by the sequence of the entry before them; not too many.

When there is one too many, the one goes whose absence makes the least difference: the gap it leaves, measured against
how far it lies from the newest. So they are dense near the end, and thin out towards the past by powers.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
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
        spared = next((index for index, kept in enumerate(self._kept) if kept.sequence == newest), 0)
        best = cheapest([kept.clock for kept in self._kept], spared)
        if best:
            self._drop(self._kept.pop(best).state)
        return bool(best)

    def remove(self, kept: Kept[Still]) -> None:
        """Drop this one, which is not the first."""
        assert kept is not self._kept[0]
        self._kept.remove(kept)
        self._drop(kept.state)


def cheapest(clocks: Sequence[int], spared: int = 0) -> int:
    """Which of these (neither the first nor the last, nor `spared`) is missed least; 0 when there is none to be."""
    best, price = 0, float("inf")
    for index in range(1, len(clocks) - 1):
        cost = (clocks[index + 1] - clocks[index - 1]) / (clocks[-1] - clocks[index] + 1)
        if index != spared and cost < price:
            best, price = index, cost
    return best
