# SPDX-License-Identifier: GPL-2.0-or-later
"""RAM as a recording begins with it, page by page: a kernel's image at power-on, or what the log has saved.

For whoever goes back to the beginning, or asks for a page that was never written: nothing of it is kept twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import lz4.block
import msgpack

from ftvm.board import RAM_BASE
from ftvm.ram_image import BLOCK
from ftvm.ram_snapshot import PAGE


class FirstRam(Protocol):
    """Pages by their numbers."""

    def page(self, number: int) -> bytes:
        """All of it, zero or not."""

    def full(self) -> Iterable[int]:
        """Those that may hold something."""


class PowerOnRam:
    """Segments at their addresses, the rest is zero."""

    def __init__(self, segments: Sequence[tuple[int, bytes]]) -> None:
        self._segments = [(address - RAM_BASE, content) for address, content in segments if content]

    def page(self, number: int) -> bytes:
        """See FirstRam."""
        start, page = number * PAGE, bytearray(PAGE)
        for offset, content in self._segments:
            first, last = max(start, offset), min(start + PAGE, offset + len(content))
            if first < last:
                page[first - start : last - start] = content[first - offset : last - offset]
        return bytes(page)

    def full(self) -> Iterable[int]:
        """See FirstRam."""
        for offset, content in self._segments:
            yield from range(offset // PAGE, (offset + len(content) - 1) // PAGE + 1)


class SavedRam:
    """A section `ram` (ftvm/ram_image.py), of which a block is unpacked when a page of it is wanted."""

    def __init__(self, packed: bytes) -> None:
        self._blocks: Mapping[int, bytes] = dict(msgpack.unpackb(packed))
        self._latest, self._content = -1, b""

    def page(self, number: int) -> bytes:
        """See FirstRam."""
        block, start = divmod(number * PAGE, BLOCK)
        if block not in self._blocks:
            return bytes(PAGE)
        if block != self._latest:
            self._content = lz4.block.decompress(self._blocks[block], uncompressed_size=BLOCK)
            self._latest = block
        return self._content[start : start + PAGE]

    def full(self) -> Iterable[int]:
        """See FirstRam."""
        for block in self._blocks:
            yield from range(block * BLOCK // PAGE, (block + 1) * BLOCK // PAGE)


def first_ram(segments: Sequence[tuple[int, bytes]], sections: Sequence[tuple[str, bytes]]) -> FirstRam:
    """Of a machine with these segments at power-on, whose recording begins with these sections."""
    saved = dict(sections).get("ram")
    return PowerOnRam(segments) if saved is None else SavedRam(saved)
