# SPDX-License-Identifier: GPL-2.0-or-later
"""`Layers`: what many pieces (pages, chunks) were at several moments, each moment storing only what changed before it.

    beginning: whatever `base` says     4: {7: ..., 9: ...}    6: {9: ...}     8, full: {8: ..., 9: ...}
    piece 7 at 6 is found in 4, piece 8 in the base; at 8, piece 7 is all zero

A moment may be put between two others: the later one then stores more than it would have to, which does no harm. One
that is taken out leaves to its successor what that does not have. Pieces are compressed, an all-zero one is empty; or
they lie somewhere else (a file), and are read from there when they are needed: then a number stands for each.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Mapping

import lz4.block

Piece = bytes | int
"""Compressed, or where it is."""


class Layers:
    """Moments are numbers; pieces of `size` bytes are numbered too."""

    def __init__(
        self,
        size: int,
        base: Callable[[int], bytes],
        all_of_base: Callable[[], Iterable[int]],
        elsewhere: Callable[[int], bytes] | None = None,
    ) -> None:
        """`base` gives a piece at the first moment, `all_of_base` those that hold something; `elsewhere` reads one."""
        self._size = size
        self._base = base
        self._all_of_base = all_of_base
        self.elsewhere = elsewhere
        self._zero = bytes(size)
        self._order: list[int] = []
        self._layers: dict[int, dict[int, Piece]] = {}
        self._full: set[int] = set()
        self.stored = 0
        """Bytes of all pieces that are kept here, compressed."""

    def begin(self, moment: int) -> None:
        """The first moment: the base."""
        assert not self._order
        self._order.append(moment)
        self._layers[moment] = {}

    def add(self, moment: int, pieces: Iterable[tuple[int, bytes]]) -> None:
        """What has changed since the moment before."""
        self.put(moment, {number: self._packed(content) for number, content in pieces})

    def put(self, moment: int, pieces: dict[int, Piece], *, full: bool = False) -> None:
        """The same, compressed or elsewhere. `full`: whatever is not among them is all zero."""
        assert moment not in self._layers and moment > self._order[0]
        insort(self._order, moment)
        self._layers[moment] = pieces
        self.stored += _bytes_of(pieces.values())
        if full:
            self._full.add(moment)

    def drop(self, moment: int) -> None:
        """Forget a moment, not the first; what is there at the others stays as it is."""
        index = self._order.index(moment)
        assert index
        del self._order[index]
        layer = self._layers.pop(moment)
        gone = set(layer)
        heir = self._order[index] if index < len(self._order) else None
        if heir is not None and heir not in self._full:
            gone &= self._layers[heir].keys()
            self._layers[heir] = layer | self._layers[heir]
            if moment in self._full:
                self._full.add(heir)
        self._full.discard(moment)
        self.stored -= _bytes_of(layer[number] for number in gone)

    def before(self, moment: int) -> int:
        """The moment before this one."""
        return self._order[self._order.index(moment) - 1]

    def changed(self, one: int, other: int) -> set[int]:
        """Pieces that may differ between two moments."""
        first, last = sorted((one, other))
        end = bisect_right(self._order, last)
        moments = self._order[bisect_right(self._order, first) : end]
        found: set[int] = set()
        if not self._full.isdisjoint(moments):  # what is zero from there on is not listed
            moments = self._order[:end]
            found.update(self._all_of_base())
        return found.union(*(self._layers[moment].keys() for moment in moments))

    def touched(self, moment: int) -> Mapping[int, Piece]:
        """Pieces that may differ between this moment and the one before; of a full one, all that hold something."""
        return self._layers[moment]

    def size(self, moment: int) -> int:
        """Bytes of what is kept here of this moment, compressed."""
        return _bytes_of(self._layers[moment].values())

    def is_full(self, moment: int) -> bool:
        """Whether what is not among `touched` is all zero there."""
        return moment in self._full

    def at(self, moment: int, numbers: Iterable[int]) -> dict[int, bytes]:
        """The contents of these pieces at a moment; empty for one that is all zero. StateLost."""
        wanted = set(numbers)
        found: dict[int, bytes] = {}
        far: list[tuple[int, int]] = []
        for each in reversed(self._order[: bisect_right(self._order, moment)]):
            layer = self._layers[each]
            here = layer.keys() & wanted
            for number in here:
                piece = layer[number]
                if isinstance(piece, int):
                    far.append((piece, number))
                else:
                    found[number] = self._unpacked(piece)
            wanted -= here
            if not wanted or each in self._full:
                break
        else:
            found |= {number: self._base(number) for number in sorted(wanted)}
            wanted = set()
        if far:
            assert self.elsewhere is not None
            far.sort()  # neighbours lie in one block
            found |= {number: self.elsewhere(piece) for piece, number in far}
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


def _bytes_of(pieces: Iterable[Piece]) -> int:
    return sum(len(piece) for piece in pieces if isinstance(piece, bytes))
