# SPDX-License-Identifier: GPL-2.0-or-later
"""Walks a log record by record, checks each, and tells a torn tail from damage.

Three things can be found where a record should be:

    a whole record              its header's and body's checks hold
    a torn tail                 the file ends inside the record (its recorder was killed), or everything from a sector
                                boundary of the record to the end is zero (the host crashed before it was on the disk)
    anything else               damage: `LogDamaged`, after all records before it have been handed out

Reading is by position, one record at a time, so that many scans may share a file and none needs memory for the whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

from replay.errors import LogDamaged, LogError
from replay.header import LogHeader, decode_header
from replay.pack import Pack
from replay.record import (
    CHECK,
    FORMAT,
    HEADER_MAX,
    MAGIC,
    PREAMBLE,
    Kind,
    RecordHeader,
    body_holds,
    expand,
    header_size,
    parse_header,
)

END_BODY: Final = Struct("<Q")  # entries in the whole log
SECTOR: Final = 512  # zeros after a crash begin at a multiple of this
ZEROS_MIN: Final = 16  # fewer could be one flipped bit away from data
CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Tail:
    """What was cut from the end of a log: `size` bytes from `offset`; the last whole entry before it."""

    offset: int
    size: int
    last_sequence: int | None
    why: str

    def __str__(self) -> str:
        last = self.last_sequence
        kept = "no whole entry is left" if last is None else f"the last whole entry is {last}"
        return f"{self.why}: {self.size} bytes from offset {self.offset} were cut, {kept}"


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record. `stored` is its body as in the file, with its check behind."""

    index: int
    offset: int
    header: RecordHeader
    stored: bytes

    @property
    def last(self) -> int:
        """Sequence of its last entry."""
        return self.header.sequence + self.header.count - 1

    @property
    def size(self) -> int:
        """Bytes of it in the file."""
        return self.header.size + len(self.stored)


def read_header(fd: int, name: str, base: int = 0, magic: bytes = MAGIC) -> tuple[LogHeader, int]:
    """The header of the log at `base`, and the offset of its first record. `LogError` when there is none to be read."""
    data = os.pread(fd, PREAMBLE.size + CHECK.size, base)
    if not magic.startswith(data[: len(magic)]):
        raise LogError(f"{name}: this file is not an ftvm log" + (" or its checkpoints" if magic != MAGIC else ""))
    if len(data) < PREAMBLE.size + CHECK.size:
        raise LogError(f"{name}: the file ends inside its preamble: nothing was recorded; remove it")
    _, version, length = PREAMBLE.unpack_from(data)
    if crc32(data[: PREAMBLE.size]) != CHECK.unpack_from(data, PREAMBLE.size)[0]:
        raise LogDamaged(name, "the preamble's check does not hold", offset=base, record=0, sequence=None)
    if version > FORMAT:
        raise LogError(f"{name}: format {version} is newer than this ftvm reads ({FORMAT}); use a newer ftvm")
    if version < 1 or length > HEADER_MAX:
        raise LogError(f"{name}: format {version} with a header of {length} bytes is not known")
    start = base + len(data)
    stored = os.pread(fd, length + CHECK.size, start)
    if len(stored) < length + CHECK.size:
        raise LogError(f"{name}: the file ends inside its header: nothing was recorded; remove it")
    if crc32(stored[:length]) != CHECK.unpack_from(stored, length)[0]:
        raise LogDamaged(name, "the header's check does not hold", offset=start, record=0, sequence=None)
    return decode_header(stored[:length]), start + len(stored)


class Scan:
    """One walk over the records. What it knows grows as it goes; `tail` and `closed` are final at the end."""

    def __init__(self, fd: int, path: Path) -> None:
        self.name = str(path)
        pack = Pack.find(fd, self.name)
        self.base = 0 if pack is None else pack.log
        self.header, self.start = read_header(fd, self.name, self.base)
        self.end = self.start  # offset behind the last whole record
        self.index = 0  # records so far
        self.entries = 0
        self.last_sequence: int | None = None  # of the last entry, or of the checkpoint that the log starts from
        self.state_sequence: int | None = None  # of that checkpoint, once it is whole
        self.closed = False
        self.tail: Tail | None = None
        self._fd = fd
        self._state_start: int | None = None  # where an unfinished checkpoint begins

    def __iter__(self) -> Iterator[Record]:
        while (record := self._next()) is not None:
            yield record
        if self._state_start is not None:
            size = os.fstat(self._fd).st_size - self._state_start
            self.end = self._state_start
            self.tail = Tail(self.end, size, None, "the checkpoint that the log starts from is not whole")

    def damage(self, record: Record, why: str) -> LogDamaged:
        """The error that says that `record`, handed out last, is wrong inside."""
        header = record.header
        follows = header.kind == Kind.ENTRIES and (self.entries > header.count or self.state_sequence is not None)
        before = header.sequence - 1 if follows else None
        return LogDamaged(self.name, why, offset=record.offset, record=record.index, sequence=before)

    def body(self, record: Record) -> bytes:
        """The record's body, decompressed."""
        try:
            return expand(record.header, record.stored)
        except LogError as error:
            raise self.damage(record, str(error)) from None

    def _next(self) -> Record | None:
        offset = self.end
        left = os.fstat(self._fd).st_size - offset
        if left <= 0:
            return None
        first = os.pread(self._fd, 1, offset)
        if first[0] == 0 and self._zero_from(offset):
            self._cut("the file ends in zeros")
            return None
        size = header_size(first[0])
        if left < size:
            self._cut(f"the file ends inside record {self.index}")
            return None
        try:
            header = parse_header(os.pread(self._fd, size, offset), self._expected())
        except LogError as error:
            self._failed(offset + size, str(error))
            return None
        if left < size + header.length + CHECK.size:
            self._cut(f"the file ends inside record {self.index}")
            return None
        stored = os.pread(self._fd, header.length + CHECK.size, offset + size)
        if not body_holds(header, stored):
            self._failed(offset + size + len(stored), "its body's check does not hold")
            return None
        record = Record(self.index, offset, header, stored)
        self._accept(record)
        return record

    def _expected(self) -> int:
        return 0 if self.last_sequence is None else self.last_sequence + 1

    def _accept(self, record: Record) -> None:
        header = record.header
        why = self._misplaced(header)
        if why:
            raise self._damage_here(why)
        if header.kind == Kind.ENTRIES:
            self.last_sequence = record.last
            self.entries += header.count
        elif header.kind == Kind.STATE:
            if self._state_start is None:
                self._state_start = record.offset
        elif header.kind == Kind.STATE_END:
            self.state_sequence = self.last_sequence = header.sequence
            self._state_start = None
        else:
            self.closed = True
            if record.stored[: header.length] != END_BODY.pack(self.entries):
                raise self._damage_here(f"it does not end a log of {self.entries} entries")
        self.index += 1
        self.end += record.size

    def _misplaced(self, header: RecordHeader) -> str:
        """Why such a record cannot be here, or nothing."""
        if self.closed:
            return "a record follows the end of the log"
        if header.kind in (Kind.STATE, Kind.STATE_END):
            return "a checkpoint follows entries" if self.last_sequence is not None else ""
        if self._state_start is not None:
            return "the checkpoint before it has no end"
        if header.kind == Kind.ENTRIES:
            if header.count == 0:
                return "it holds no entry"
            if not header.key and self.entries == 0:
                return "the first entries do not stand for themselves"
            if self.last_sequence is not None and header.sequence != self.last_sequence + 1:
                return f"it goes on with sequence {header.sequence}"
        return ""

    def _failed(self, end: int, why: str) -> None:
        """The record here, which reaches to `end`, fails its check: a torn tail if only zeros follow, else damage."""
        zeros = self._zeros_start()
        if zeros < end and os.fstat(self._fd).st_size - zeros >= ZEROS_MIN:
            self._cut("the file ends in zeros")
            return
        raise self._damage_here(why)

    def _cut(self, why: str) -> None:
        size = os.fstat(self._fd).st_size - self.end
        self.tail = Tail(self.end, size, self.last_sequence, why)

    def _damage_here(self, why: str) -> LogDamaged:
        return LogDamaged(self.name, why, offset=self.end, record=self.index, sequence=self.last_sequence)

    def _zero_from(self, offset: int) -> bool:
        while chunk := os.pread(self._fd, CHUNK, offset):
            if chunk.count(0) != len(chunk):
                return False
            offset += len(chunk)
        return True

    def _zeros_start(self) -> int:
        """The first sector boundary from which on the file is all zero (its size when there is none)."""
        end = size = os.fstat(self._fd).st_size
        while end > self.end:
            start = max(end - CHUNK, self.end)
            rest = os.pread(self._fd, end - start, start).rstrip(b"\0")
            end = start + len(rest)
            if rest:
                break
        return min(-(-end // SECTOR) * SECTOR, size)
