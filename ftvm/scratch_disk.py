# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk in memory, for replays and tests: chunks of 64 KiB, those never written are zero.

Also the form in which a recording keeps the disks that it began with: one section `disk/N` each, a msgpack list of
[chunk number, LZ4-compressed chunk], chunks that hold only zeros left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import lz4.block
import msgpack

CHUNK: Final = 64 << 10
SECTION: Final = "disk/"
_ZERO: Final = bytes(CHUNK)

Observer = Callable[[str, int, int], None]
"""(command, offset, length)"""


class Chunked(Protocol):
    """A disk that can be read chunk by chunk."""

    def data_chunks(self) -> list[int]: ...

    def read_chunk(self, index: int) -> bytes: ...


class ScratchDisk:
    """A block backend without a file."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._chunks: dict[int, bytearray | bytes] = {}  # bytes: frozen, to be copied before a write
        self._dirty: set[int] | None = None
        self.flushes = 0
        self.observer: Observer | None = None
        """Hears of every request of the guest."""
        self.before_change: Callable[[int, int], None] | None = None  # see ftvm/chunk_snapshot.py

    @property
    def capacity(self) -> int:
        """Size in bytes."""
        return self._capacity

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`."""
        self._tell("read", offset, length)
        parts = []
        for index, start, end in _spans(offset, length):
            chunk = self._chunks.get(index)
            parts.append(bytes(end - start) if chunk is None else bytes(chunk[start:end]))
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`."""
        self._tell("write", offset, len(data))
        self._about_to_change(offset, len(data))
        done = 0
        for index, start, end in _spans(offset, len(data)):
            self._own(index)[start:end] = data[done : done + end - start]
            done += end - start
            if self._dirty is not None:
                self._dirty.add(index)

    def flush(self) -> None:
        """Nothing is more durable than memory is."""
        self._tell("flush", 0, 0)
        self.flushes += 1

    def discard(self, offset: int, length: int) -> None:
        """Discarded blocks read as zero, so that replicas agree."""
        self._tell("discard", offset, length)
        self._zero(offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Zero `length` bytes at `offset`."""
        self._tell("write_zeroes", offset, length)
        self._zero(offset, length)

    def _zero(self, offset: int, length: int) -> None:
        self._about_to_change(offset, length)
        for index, start, end in _spans(offset, length):
            if end - start == CHUNK:
                self._chunks.pop(index, None)
            elif index in self._chunks:
                self._own(index)[start:end] = bytes(end - start)
            if self._dirty is not None:
                self._dirty.add(index)

    def _tell(self, command: str, offset: int, length: int) -> None:
        if self.observer is not None:
            self.observer(command, offset, length)

    def _about_to_change(self, offset: int, length: int) -> None:
        if self.before_change is not None and length:
            self.before_change(offset // CHUNK, (offset + length - 1) // CHUNK)

    def _own(self, index: int) -> bytearray:
        """A chunk that may be written to."""
        chunk = self._chunks.get(index, _ZERO)
        if isinstance(chunk, bytes):
            chunk = self._chunks[index] = bytearray(chunk)
        return chunk

    # -- chunks -------------------------------------------------------------------------------------------------

    def start_tracking(self) -> None:
        """From now on remember which chunks change."""
        self._dirty = set()

    def stop_tracking(self) -> None:
        """Forget about changes."""
        self._dirty = None

    def take_dirty(self) -> set[int]:
        """Chunks changed since the last call."""
        if self._dirty is None:
            return set()
        dirty, self._dirty = self._dirty, set()
        return dirty

    def data_chunks(self) -> list[int]:
        """Chunks that hold something."""
        return sorted(self._chunks)

    def freeze(self) -> dict[int, bytes]:
        """All chunks that hold something, as they are; what is written later is written to copies."""
        frozen = {index: bytes(chunk[: self._capacity - index * CHUNK]) for index, chunk in self._chunks.items()}
        self._chunks.update(frozen)
        return frozen

    def read_chunk(self, index: int) -> bytes:
        """One chunk; the last may be short."""
        start = index * CHUNK
        return self.read(start, min(CHUNK, self._capacity - start))

    def peek_chunk(self, index: int) -> bytes:
        """The same, in any thread, of a chunk that nobody is changing."""
        return self.read_chunk(index)

    def write_chunk(self, index: int, data: bytes) -> None:
        """Put one chunk in place; ValueError when it does not fit."""
        if not 0 <= index * CHUNK < self._capacity or len(data) != min(CHUNK, self._capacity - index * CHUNK):
            raise ValueError(f"chunk {index} of {len(data)} bytes does not fit a disk of {self._capacity} bytes")
        self.write(index * CHUNK, data)

    def clear(self) -> None:
        """All zero."""
        self._about_to_change(0, self._capacity)
        self._chunks.clear()


def pack_disks(disks: Sequence[Chunked]) -> list[tuple[str, bytes]]:
    """Sections with the contents of disks; none for a disk that is all zero."""
    sections = []
    for unit, disk in enumerate(disks):
        chunks = [(index, disk.read_chunk(index)) for index in disk.data_chunks()]
        kept = [[index, lz4.block.compress(content)] for index, content in chunks if content.strip(b"\0")]
        if kept:
            sections.append((f"{SECTION}{unit}", bytes(msgpack.packb(kept))))
    return sections


def load_disks(sections: Iterable[tuple[str, bytes]], disks: Sequence[ScratchDisk]) -> list[tuple[str, bytes]]:
    """Put `disk/N` sections in place; returns the other sections. ValueError when one fits no disk."""
    others = []
    for name, packed in sections:
        if not name.startswith(SECTION):
            others.append((name, packed))
            continue
        unit = int(name.removeprefix(SECTION))
        if unit >= len(disks):
            raise ValueError(f"the recording holds disk {unit}, the machine has {len(disks)}")
        for index, compressed in msgpack.unpackb(packed):
            try:
                disks[unit].write_chunk(index, lz4.block.decompress(compressed))
            except lz4.block.LZ4BlockError as error:
                raise ValueError(f"chunk {index} of disk {unit} cannot be decompressed: {error}") from None
    return others


def _spans(offset: int, length: int) -> Iterable[tuple[int, int, int]]:
    """(chunk, start in it, end in it) of a range."""
    end = offset + length
    while offset < end:
        index, start = divmod(offset, CHUNK)
        stop = min(CHUNK, start + end - offset)
        yield index, start, stop
        offset += stop - start
