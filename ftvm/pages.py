# SPDX-License-Identifier: GPL-2.0-or-later
"""The digest of all RAM, kept up to date from dirty pages.

The digest is the sum (modulo 2**64) over all non-zero pages of `xxh3(page, seed=page number)`. It is a function of
RAM's contents alone: a caller may report too many dirty pages (a page table walk, a restored snapshot), never too
few, and two replicas whose engines dirtied different supersets still agree.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import xxhash

PAGE = 4096
_ZERO = bytes(PAGE)
_MASK = (1 << 64) - 1


class PageDigest:
    """`update(dirty pages)` returns the digest of the whole of RAM."""

    def __init__(self, ram: memoryview) -> None:
        self._ram = ram
        self._parts = array("Q", bytes(8 * (len(ram) // PAGE)))
        self._total = 0

    def update(self, pages: Iterable[int]) -> int:
        """Rehash `pages` (page numbers in RAM) and return the digest of all pages."""
        total, parts, ram = self._total, self._parts, self._ram
        for page in pages:
            content = bytes(ram[page * PAGE : page * PAGE + PAGE])
            part = 0 if content == _ZERO else xxhash.xxh3_64_intdigest(content, page)
            total += part - parts[page]
            parts[page] = part
        self._total = total & _MASK
        return self._total

    def zeroed(self) -> None:
        """All of RAM is zero now."""
        self._parts = array("Q", bytes(8 * len(self._parts)))
        self._total = 0


def pages_of(bitmap: bytes) -> Iterator[int]:
    """Page numbers of the bits that are set, lowest bit first."""
    for index, byte in enumerate(bitmap):
        if byte:
            for bit in range(8):
                if byte >> bit & 1:
                    yield index * 8 + bit
