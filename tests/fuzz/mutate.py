# SPDX-License-Identifier: GPL-2.0-or-later
"""`Mutator`: makes a new case out of a corpus. All its chance comes from one seeded `Random`.

Bytes are changed by a few operations in a row: flipped bits, numbers that parsers trip over (in any width and order),
pieces cut out, repeated, moved or taken from another case, and words of the format (`words`). When the case is msgpack
(`packed_at` says from which byte on), half of the time its tree is changed instead, so that what comes out is msgpack
again: a value of another type, out of range, missing, doubled, nested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack

NUMBERS = [0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 4095, 4096, 65535, 65536]
NUMBERS += [(1 << n) + d for n in (20, 24, 26, 31, 32, 40, 62, 63, 64) for d in (-1, 0, 1)]
VALUES: list[Any] = [None, True, False, -1, -(1 << 63), 1.5, "", "x" * 300, b"", b"\0", b"\xff" * 300, [], {}, [[[[]]]]]
SIZE_MAX = 1 << 20


class Mutator:
    """Operations on cases."""

    def __init__(self, chance: Random, words: Sequence[bytes] = (), packed_at: int | None = None) -> None:
        self.chance = chance
        self.words = list(words)
        self.packed_at = packed_at
        self._operations: list[Callable[[bytearray, bytes], None]] = [
            self._flip, self._flip, self._byte, self._number, self._number, self._number, self._cut, self._repeat,
            self._splice, self._swap, self._noise, self._word,
        ]  # fmt: skip

    def new(self, corpus: Sequence[bytes]) -> bytes:
        """A case like those of the corpus."""
        chance = self.chance
        data, other = chance.choice(corpus), chance.choice(corpus)
        if self.packed_at is not None and chance.random() < 0.5 and (changed := self._repack(data)) is not None:
            return changed
        out = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            chance.choice(self._operations)(out, other)
        return bytes(out[:SIZE_MAX])

    # Bytes

    def _at(self, out: bytearray) -> int:
        return self.chance.randrange(len(out) + 1)

    def _flip(self, out: bytearray, _: bytes) -> None:
        if out:
            out[self.chance.randrange(len(out))] ^= 1 << self.chance.randrange(8)

    def _byte(self, out: bytearray, _: bytes) -> None:
        if out:
            value = self.chance.choice((0, 1, 0x7F, 0x80, 0xFF, self.chance.randrange(256)))
            out[self.chance.randrange(len(out))] = value

    def _number(self, out: bytearray, _: bytes) -> None:
        width = self.chance.choice((1, 2, 4, 4, 8, 8))
        value = self.chance.choice(NUMBERS) * self.chance.choice((1, 1, 1, -1)) & (1 << 8 * width) - 1
        at = self._at(out)
        if self.chance.random() < 0.5:
            at -= at % width
        out[at : at + width] = value.to_bytes(width, self.chance.choice(("little", "big")))  # type: ignore[arg-type]

    def _cut(self, out: bytearray, _: bytes) -> None:
        at = self._at(out)
        if self.chance.random() < 0.3:
            del out[at:]
        else:
            del out[at : at + self.chance.choice((1, 2, 4, 8, 16, 64))]

    def _repeat(self, out: bytearray, _: bytes) -> None:
        at = self._at(out)
        piece = bytes(out[at : at + self.chance.choice((1, 4, 8, 32, 256))])
        out[at:at] = piece * self.chance.choice((1, 1, 2, 16))

    def _splice(self, out: bytearray, other: bytes) -> None:
        at, start = self._at(out), self.chance.randrange(len(other) + 1)
        size = self.chance.choice((4, 16, 64, 1 << 20))
        out[at : at + self.chance.choice((0, size))] = other[start : start + size]

    def _swap(self, out: bytearray, _: bytes) -> None:
        size = self.chance.choice((1, 4, 8, 16))
        one, two = self._at(out), self._at(out)
        out[one : one + size], out[two : two + size] = out[two : two + size], out[one : one + size]

    def _noise(self, out: bytearray, _: bytes) -> None:
        at = self._at(out)
        out[at:at] = self.chance.randbytes(self.chance.choice((1, 3, 16, 100)))

    def _word(self, out: bytearray, _: bytes) -> None:
        if self.words:
            at = self._at(out)
            out[at : at + self.chance.choice((0, 0, 4))] = self.chance.choice(self.words)

    # Trees

    def _repack(self, data: bytes) -> bytes | None:
        assert self.packed_at is not None
        try:
            tree = msgpack.unpackb(data[self.packed_at :], strict_map_key=False)
            return data[: self.packed_at] + bytes(msgpack.packb(self._change(tree)))
        except Exception:  # it is not msgpack any more, or the change cannot be packed
            return None

    def _change(self, node: Any) -> Any:
        """The tree with one node changed, somewhere below or here."""
        chance = self.chance
        if isinstance(node, dict) and node and chance.random() < 0.9:
            key = chance.choice(list(node))
            if chance.random() < 0.05:
                del node[key]
            else:
                node[key] = self._change(node[key])
            return node
        if isinstance(node, list) and node and chance.random() < 0.9:
            index = chance.randrange(len(node))
            kind = chance.random()
            if kind < 0.05:
                del node[index]
            elif kind < 0.1:
                node.insert(index, node[index])
            else:
                node[index] = self._change(node[index])
            return node
        return self._leaf(node)

    def _leaf(self, node: Any) -> Any:
        chance = self.chance
        if chance.random() < 0.15:
            return chance.choice(VALUES)
        if type(node) is int:
            return chance.choice((node + 1, node - 1, node ^ 1 << chance.randrange(64), chance.choice(NUMBERS)))
        if isinstance(node, bytes):
            out = bytearray(node)
            chance.choice(self._operations)(out, node)
            return bytes(out)
        return chance.choice(VALUES)
