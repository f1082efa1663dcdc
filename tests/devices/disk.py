# SPDX-License-Identifier: GPL-2.0-or-later
"""`MemoryDisk`: a disk in a bytearray that remembers what was asked of it, for tests of block devices."""

from __future__ import annotations

from devices.virtio.blk import HEADER, BlockIOError, RequestType


class MemoryDisk:
    """`bad` sectors fail with BlockIOError."""

    def __init__(self, sectors: int) -> None:
        self.data = bytearray(512 * sectors)
        self.calls: list[tuple[str, int, int]] = []
        self.bad: set[int] = set()

    @property
    def capacity(self) -> int:
        """Bytes."""
        return len(self.data)

    def _note(self, call: str, offset: int, length: int) -> None:
        self.calls.append((call, offset, length))
        if self.bad.intersection(range(offset // 512, (offset + length) // 512)):
            raise BlockIOError

    def read(self, offset: int, length: int) -> bytes:
        """Reads."""
        self._note("read", offset, length)
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Writes."""
        self._note("write", offset, len(data))
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Notes the flush."""
        self._note("flush", 0, 0)

    def discard(self, offset: int, length: int) -> None:
        """Discarded sectors read as zeroes here."""
        self._note("discard", offset, length)
        self.data[offset : offset + length] = bytes(length)

    def zero(self, offset: int, length: int) -> None:
        """Zeroes."""
        self._note("zero", offset, length)
        self.data[offset : offset + length] = bytes(length)


def header(kind: RequestType | int, sector: int = 0) -> bytes:
    """A request's header."""
    return HEADER.pack(kind, 0, sector)
