# SPDX-License-Identifier: GPL-2.0-or-later
"""`Layers`: what many pieces (pages, chunks) were at several moments, each moment storing only what changed before it.

    moment   1: all that holds something    4: {7: ..., 9: ...}    6: {9: ...}
    piece 7 at 6 is found in 4, piece 8 in 1, or it is all zero

A moment may be put between two others: the later one then stores more than it would have to, which does no harm. One
that is taken out leaves to its successor what that does not have. Pieces are compressed, an all-zero one is empty.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping

import lz4.block


class Layers:
    """Moments are numbers; pieces of `size` bytes are numbered too."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._zero = bytes(size)
        self._order: list[int] = []
        self._layers: dict[int, dict[int, bytes]] = {}
        self.stored = 0
        """Bytes of all pieces, compressed."""

    def add(self, moment: int, pieces: Iterable[tuple[int, bytes]]) -> None:
        """What has changed since the moment before (of the first moment: everything)."""
        self.put(moment, {number: self._packed(content) for number, content in pieces})

    def put(self, moment: int, packed: dict[int, bytes]) -> None:
        """The same, with pieces as `touched` gives them."""
        assert moment not in self._layers
        insort(self._order, moment)
        self._layers[moment] = packed
        self.stored += sum(map(len, packed.values()))

    def drop(self, moment: int) -> None:
        """Forget a moment; what is there at the others stays as it is."""
        index = self._order.index(moment)
        del self._order[index]
        layer = self._layers.pop(moment)
        heir = self._layers[self._order[index]] if index < len(self._order) else {}
        for number, packed in layer.items():
            if heir.setdefault(number, packed) is not packed or index == len(self._order):
                self.stored -= len(packed)

    def before(self, moment: int) -> int:
        """The moment before this one."""
        return self._order[self._order.index(moment) - 1]

    def changed(self, one: int, other: int) -> set[int]:
        """Pieces that may differ between two moments."""
        first, last = sorted((one, other))
        found: set[int] = set()
        for moment in self._order[bisect_right(self._order, first) : bisect_right(self._order, last)]:
            found |= self._layers[moment].keys()
        return found

    def touched(self, moment: int) -> Mapping[int, bytes]:
        """Pieces that may differ between this moment and the one before."""
        return self._layers[moment]

    def at(self, moment: int, numbers: Iterable[int]) -> dict[int, bytes]:
        """The contents of these pieces at a moment; empty for one that is all zero."""
        wanted, found = set(numbers), {}
        for each in reversed(self._order[: bisect_right(self._order, moment)]):
            here = self._layers[each].keys() & wanted
            for number in here:
                found[number] = self._unpacked(self._layers[each][number])
            wanted -= here
            if not wanted:
                break
        return found | dict.fromkeys(wanted, b"")

    def _packed(self, content: bytes) -> bytes:
        if not content or content == self._zero[: len(content)]:
            return b""
        packed: bytes = lz4.block.compress(content)
        return packed

    def _unpacked(self, packed: bytes) -> bytes:
        if not packed:
            return b""
        content: bytes = lz4.block.decompress(packed)
        return content
