# SPDX-License-Identifier: GPL-2.0-or-later
"""`LOG.ckpt`: states of a recording's machine, so that a timeline need not start from the beginning.

    file         preamble and header as in a log, with another magic; then checkpoints in the order of their entries
    checkpoint   head, blobs, index
    head         u32 flags (1: full), u32 zero, u64 sequence of the entry before it, u64 clock, u32 that entry's digest
                 (as a log keeps it), u32 size and u32 check of the index, u64 size of blobs and index, u32 check of it
    blob         one LZ4 block: a section of the machine's state, or a group of pieces (pages, chunks of a disk)
    index        one LZ4 block of msgpack: what the blobs are (`_index`), with a check of each

A checkpoint holds the pieces that have changed since the one before it in the file (the first: since the log's
beginning), a *full* one all that hold something. It is appended, its head last: so a recorder that was killed leaves
whole checkpoints, and whoever opens the file reads heads and indices only. Blobs are read when they are needed; one
that is damaged then costs what depends on it (`StateLost`), never a wrong state.

The file is never needed: it can be deleted, and made again by replaying.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct, error
from typing import Any, Final
from zlib import crc32

import lz4.block
import msgpack

from replay.errors import LogError, StateLost
from replay.header import LogHeader
from replay.log_scan import read_header
from replay.pack import CHECKPOINTS, Pack
from replay.record import CHECK

SUFFIX: Final = ".ckpt"
MAGIC: Final = b"\x89ftvmckp"
HEAD: Final = Struct("<IIQQIIIQ")
HEAD_SIZE: Final = HEAD.size + CHECK.size
FULL: Final = 1
BLOB: Final = Struct("<QII")  # offset behind the head, stored size, check
INDEX_MAX: Final = 16 << 20  # bytes, expanded
INDICES_MAX: Final = 256 << 20  # all of a file
SECTION_MAX: Final = 256 << 20
GROUP_MAX: Final = 1 << 20
NO_INDEX: Final = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, error, msgpack.UnpackException, RecursionError,
)  # fmt: skip
"""What bytes that are no index make its readers stumble over."""
NONE: Final = 0xFFFF_FFFF
"""In the place of a piece's number: another checkpoint has a later one."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Which state a checkpoint is: behind entry `sequence`, at `clock`; `digest` is that entry's, as a log keeps it."""

    sequence: int
    clock: int
    digest: int
    full: bool = False


@dataclass(frozen=True, slots=True)
class Blob:
    """Where a block is in the file."""

    offset: int
    length: int
    check: int


@dataclass(slots=True)
class Layer:
    """The pieces of one kind that a checkpoint holds: piece i of `numbers` is the (i % per)th of blob i // per."""

    size: int  # of a piece; the last one there is may be shorter
    per: int  # pieces in a group
    numbers: array[int] = field(default_factory=lambda: array("I"))
    zeros: array[int] = field(default_factory=lambda: array("I"))  # pieces that are all zero
    groups: list[Blob] = field(default_factory=list)

    def pieces(self) -> Iterator[int]:
        """Their numbers."""
        yield from (number for number in self.numbers if number != NONE)
        yield from self.zeros


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One of them, as its index tells."""

    mark: Mark
    offset: int
    size: int
    sections: Sequence[tuple[str, Blob, int]]  # name, where, expanded size
    layers: dict[str, Layer]


def path_of(log: Path) -> Path:
    """Where a log's checkpoints are."""
    return log.with_name(log.name + SUFFIX)


class CheckpointFile:
    """The checkpoints of a file that are whole, in order. Not for several threads at once."""

    def __init__(self, path: Path, log: LogHeader | None = None, fd: int | None = None, packed: bool = False) -> None:
        """StateLost when it cannot be read, LogError when it belongs to another recording than `log`.

        `fd` is the file opened already, to be closed with this; `packed`: it is a pack, which holds them.
        """
        self.path = path
        self._base, self._limit = 0, 1 << 63
        self._room = INDICES_MAX
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if fd is None else fd
        except OSError as failure:
            raise StateLost(f"cannot open {path}: {failure.strerror}") from None
        self.checkpoints: list[Checkpoint] = []
        try:
            if packed:
                self._base, self._limit = self._in_pack()
            self.header, self.start = self._header()
            if log is not None and (wrong := log.differences(self.header)):
                raise LogError(f"{path}: these are not checkpoints of this recording: " + "; ".join(wrong))
        except BaseException:
            os.close(self._fd)
            raise
        self.end = self.start  # behind the last whole one
        self.refresh()

    def _header(self) -> tuple[LogHeader, int]:
        try:
            return read_header(self._fd, str(self.path), self._base, MAGIC)
        except LogError as failure:
            raise StateLost(str(failure)) from None

    def _in_pack(self) -> tuple[int, int]:
        """From where to where they are."""
        pack = Pack.find(self._fd, str(self.path))
        if pack is None or CHECKPOINTS not in pack.members:
            raise StateLost(f"{self.path}: holds no checkpoints")
        member = pack.members[CHECKPOINTS]
        return member.offset, member.offset + member.stored

    def refresh(self) -> int:
        """Find what was added since; how many."""
        count = len(self.checkpoints)
        while (found := self._next()) is not None:
            self.checkpoints.append(found)
            self.end += found.size
        return len(self.checkpoints) - count

    def blob(self, place: Blob, size: int) -> bytes:
        """The content of a block; StateLost when it is not what was written."""
        try:
            data: bytes = lz4.block.decompress(self.stored(place), uncompressed_size=size)
        except lz4.block.LZ4BlockError as failure:
            raise StateLost(f"{self.path}: offset {place.offset}: {failure}") from None
        return data

    def stored(self, place: Blob) -> bytes:
        """The same as it is in the file."""
        data = os.pread(self._fd, place.length, place.offset)
        if len(data) != place.length or crc32(data) != place.check:
            raise StateLost(f"{self.path}: damaged at offset {place.offset}; the checkpoints that need it are not used")
        return data

    def whole(self, checkpoint: Checkpoint) -> bytes:
        """All of it as it is in the file."""
        return os.pread(self._fd, checkpoint.size, checkpoint.offset)

    def sections(self, checkpoint: Checkpoint) -> list[tuple[str, bytes]]:
        """The machine's state, but for the layers; StateLost."""
        return [(name, self.blob(place, size)) for name, place, size in checkpoint.sections]

    def stored_file(self) -> tuple[int, int, int]:
        """The open file, and from where to where in it the whole ones are."""
        return self._fd, self._base, self.end

    def close(self) -> None:
        """What was not read is out of reach."""
        os.close(self._fd)

    def _next(self) -> Checkpoint | None:
        """The checkpoint at the end of what is known, or None where no whole one is."""
        head = os.pread(self._fd, HEAD_SIZE, self.end)
        if len(head) < HEAD_SIZE or CHECK.unpack_from(head, HEAD.size)[0] != crc32(head[: HEAD.size]):
            return None
        flags, _, sequence, clock, digest, index_size, index_check, size = HEAD.unpack_from(head)
        begin, total = self.end + HEAD_SIZE, HEAD_SIZE + size
        if index_size > size or size > min(self._limit, os.fstat(self._fd).st_size) - begin:
            return None
        stored = os.pread(self._fd, index_size, begin + size - index_size)
        if len(stored) < index_size or crc32(stored) != index_check:
            return None
        try:
            index = _expanded(stored, min(INDEX_MAX, self._room))
            sections, layers = _index(msgpack.unpackb(index), begin, size - index_size)
        except NO_INDEX:
            return None
        self._room -= len(index)
        mark = Mark(sequence, clock, digest, bool(flags & FULL))
        return Checkpoint(mark, self.end, total, sections, layers)


def pack_index(sections: Sequence[tuple[str, Blob, int]], layers: dict[str, Layer]) -> bytes:
    """The index, with places counted from behind the head."""
    fields = {
        "sections": [[name, *_fields(place), size] for name, place, size in sections],
        "layers": {
            name: [layer.size, layer.per, layer.numbers.tobytes(), layer.zeros.tobytes(),
                   b"".join(BLOB.pack(*_fields(group)) for group in layer.groups)]
            for name, layer in layers.items()
        },
    }  # fmt: skip
    packed: bytes = lz4.block.compress(msgpack.packb(fields))
    return packed


def _fields(place: Blob) -> tuple[int, int, int]:
    return place.offset, place.length, place.check


def _expanded(stored: bytes, size_max: int) -> bytes:
    if int.from_bytes(stored[:4], "little") > size_max:
        raise ValueError("an index that is too large")
    try:
        index: bytes = lz4.block.decompress(stored)
    except lz4.block.LZ4BlockError as failure:
        raise ValueError(str(failure)) from None
    return index


def _index(fields: Any, begin: int, room: int) -> tuple[list[tuple[str, Blob, int]], dict[str, Layer]]:
    """What `pack_index` packed, checked: no place outside of the checkpoint, no size that is out of proportion."""

    def place(offset: int, length: int, check: int) -> Blob:
        if not 0 <= offset <= offset + length <= room:
            raise ValueError("a block outside of its checkpoint")
        return Blob(begin + offset, length, check)

    sections = [(str(name), place(*where), int(size)) for name, *where, size in fields["sections"]]
    if any(not 0 <= size <= SECTION_MAX for _, _, size in sections):
        raise ValueError("a section that is too large")
    layers = {}
    for name, (size, per, numbers, zeros, groups) in fields["layers"].items():
        if size <= 0 or per <= 0 or size * per > GROUP_MAX:
            raise ValueError("groups that are too large")
        blobs = [place(*each) for each in BLOB.iter_unpack(groups)]
        layers[str(name)] = Layer(size, per, array("I", numbers), array("I", zeros), blobs)
        if len(blobs) != -(-len(layers[str(name)].numbers) // per):
            raise ValueError("a group is missing")
    return sections, layers
