# SPDX-License-Identifier: GPL-2.0-or-later
"""`Spill`: what waits behind a sync, kept in a file as well, so that it outlives its process.

    disk0.img.waiting     header      magic, generation, boot id; nothing waits when the magic is not there
                          records     one an operation: checksum, kind, offset, length, then a write's data

A write that waits in memory may have been acknowledged to a client already: when both sides are killed, it must not be
lost. So it goes to this file by write(2) before anything else happens, and whoever opens the image next does what is
still in the file, in order. That is for killed processes only, and the file is never synced: after a power failure
writes behind an unfinished sync may be missing, only their order counts, so a file of another boot is ignored.

A record that was cut short by the kill was never acknowledged; it is recognised by its checksum and left out. The file
is used from its beginning again and again; the checksum covers the generation, so that older records end the list too.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ftvm.disk.operation import Kind, Operation
from ftvm.process import boot_id

MAGIC: Final = b"ftvmwai1"
SUFFIX: Final = ".waiting"
BYTES_MAX: Final = 64 << 20  # of one file; its owner waits for an empty queue then
_HEADER: Final = struct.Struct("<8sQ40s")
_RECORD: Final = struct.Struct("<IIQQ")
_KINDS: Final[tuple[Kind, ...]] = ("write", "zero", "discard", "sync")
_NUMBERS: Final = {kind: number for number, kind in enumerate(_KINDS)}


class Spill:
    """The file beside `image`. All methods may raise OSError."""

    def __init__(self, image: Path) -> None:
        path = image.with_name(image.name + SUFFIX)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = 0  # of the last record; 0 while nothing waits
        self._generation = 0

    @property
    def full(self) -> bool:
        """Whether its owner should let the queue become empty."""
        return self._end >= BYTES_MAX

    def append(self, operation: Operation) -> None:
        """The operation survives this process when this returns."""
        if self._end:
            self._write(self._end, _encode(operation, self._generation))
            return
        self._generation += 1
        self._write(_HEADER.size, _encode(operation, self._generation))
        # The header comes last: before it the file is not valid.
        os.pwrite(self._fd, _HEADER.pack(MAGIC, self._generation, boot_id().encode()), 0)

    def clear(self) -> None:
        """Everything was done: forget it, before anything newer is done."""
        if self._end:
            os.pwrite(self._fd, bytes(len(MAGIC)), 0)
            self._end = 0

    def recover(self, apply: Callable[[Operation], None]) -> int:
        """Do what a killed owner has left; returns how many operations that were."""
        count = 0
        for operation in self._records():
            apply(operation)
            count += 1
        os.ftruncate(self._fd, 0)
        self._end = 0
        return count

    def close(self) -> None:
        """Release the file; what is in it stays."""
        os.close(self._fd)

    def _write(self, start: int, parts: tuple[bytes, bytes]) -> None:
        size = sum(map(len, parts))
        written = os.pwritev(self._fd, parts, start)
        if written < size:
            rest = b"".join(parts)
            while written < size:
                written += os.pwrite(self._fd, rest[written:], start + written)
        self._end = start + size

    def _records(self) -> Iterator[Operation]:
        magic, generation, boot = _HEADER.unpack(os.pread(self._fd, _HEADER.size, 0).ljust(_HEADER.size, b"\0"))
        if magic != MAGIC or boot.rstrip(b"\0") != boot_id().encode():
            return
        position = _HEADER.size
        while len(head := os.pread(self._fd, _RECORD.size, position)) == _RECORD.size:
            check, number, offset, length = _RECORD.unpack(head)
            has_data = number == _NUMBERS["write"]
            data = os.pread(self._fd, length, position + _RECORD.size) if has_data and length < BYTES_MAX else b""
            if _check(head[4:], data, generation) != check or number >= len(_KINDS):
                return
            yield Operation(_KINDS[number], offset, length, data)
            position += _RECORD.size + len(data)


def _encode(operation: Operation, generation: int) -> tuple[bytes, bytes]:
    head = _RECORD.pack(0, _NUMBERS[operation.kind], operation.offset, operation.length)[4:]
    return _check(head, operation.data, generation).to_bytes(4, "little") + head, operation.data


def _check(head: bytes, data: bytes, generation: int) -> int:
    return zlib.crc32(data, zlib.crc32(head, generation & 0xFFFFFFFF))
