# SPDX-License-Identifier: GPL-2.0-or-later
"""A log is a preamble with its header, then records. This file is the framing: bytes of one record, and their checks.

    preamble   8s magic, u16 format, u32 length of the header, u32 check of these 14 bytes (the same in every format)
    header     msgpack map (replay/header.py), u32 check
    record     u8 kind: bits 0-3 kind, 4 LONG, 5 COMPRESSED, 6 KEY, 7 zero
               u8 count of entries
               u16 (LONG: u32) length of the body
               u64 sequence, only with KEY: of the first entry; of the last entry for states and the end
               u32 header check = crc32 of the above, started with the sequence of the record's first entry
               body; COMPRESSED: varint of its size, then one LZ4 block
               u32 body check = crc32 of the body, started with the header check

The two checks tell a flipped bit from a torn tail: a length is believed only when its own check holds, so a record that
reaches past the end of the file was really cut there. Starting a check with what came before makes a lost or moved
record as visible as a flipped bit. No body is shorter than 4 bytes: so when a flipped LONG or KEY bit makes a header
look up to 8 bytes longer than it is, that still lies inside the record, and its check fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final
from zlib import crc32

import lz4.block

from replay.errors import LogError
from replay.varint import put, take

MAGIC: Final = b"\x89ftvmlog"
FORMAT: Final = 1
LONG, COMPRESSED, KEY, KIND_MASK = 0x10, 0x20, 0x40, 0x8F
CHECK: Final = Struct("<I")
PREAMBLE: Final = Struct("<8sHI")
HEADER_MAX: Final = 16 << 20
BODY_MAX: Final = 80 << 20  # one entry with all the events it may have, and a little
BODY_MIN: Final = 4
COMPRESS_FROM: Final = 32  # shorter bodies never get smaller
LZ4_RATIO_MAX: Final = 256

_FORMS: Final = {
    0: Struct("<BBH"),
    LONG: Struct("<BBI"),
    KEY: Struct("<BBHQ"),
    LONG | KEY: Struct("<BBIQ"),
}


class Kind(IntEnum):
    """What a record's body is."""

    ENTRIES = 1  # replay/batch.py
    STATE = 2  # a piece of a checkpoint: replay/state.py
    STATE_END = 3  # the checkpoint is whole
    END = 4  # the recorder closed the log; nothing follows (going on with a log cuts this off)


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The head of a record that has passed its check."""

    kind: Kind
    compressed: bool
    key: bool
    count: int
    length: int
    sequence: int  # of its first entry
    check: int
    size: int  # of this header


def header_size(first_byte: int) -> int:
    """Bytes of a record's header, check included, by its first byte."""
    return _FORMS[first_byte & (LONG | KEY)].size + CHECK.size


def frame(kind: Kind, body: bytes, *, count: int = 0, sequence: int, key: bool) -> bytes:
    """The bytes of one record. `sequence` is that of its first entry."""
    assert BODY_MIN <= len(body) <= BODY_MAX, f"a record's body of {len(body)} bytes"
    flags = KEY if key else 0
    if len(body) >= COMPRESS_FROM:
        packed = bytearray()
        put(packed, len(body))
        packed += lz4.block.compress(body, store_size=False)
        if len(packed) < len(body):
            body, flags = bytes(packed), flags | COMPRESSED
    if len(body) > 0xFFFF:
        flags |= LONG
    fields = (kind | flags, count, len(body), sequence) if key else (kind | flags, count, len(body))
    head = _FORMS[flags & (LONG | KEY)].pack(*fields)
    check = crc32(head, sequence & 0xFFFF_FFFF)
    return b"".join((head, CHECK.pack(check), body, CHECK.pack(crc32(body, check))))


def parse_header(data: bytes, sequence: int) -> RecordHeader:
    """The header in `data`, which is as long as its first byte says; `sequence` is the one that must follow."""
    form = _FORMS[data[0] & (LONG | KEY)]
    key = bool(data[0] & KEY)
    kind_byte, count, length, *rest = form.unpack_from(data)
    if key:
        sequence = rest[0]
    check = CHECK.unpack_from(data, form.size)[0]
    if crc32(data[: form.size], sequence & 0xFFFF_FFFF) != check:
        raise LogError("its header's check does not hold")
    if not BODY_MIN <= length <= BODY_MAX:
        raise LogError(f"its body's length {length} is impossible")
    try:
        kind = Kind(kind_byte & KIND_MASK)
    except ValueError:
        raise LogError(f"kind {kind_byte & KIND_MASK} is not known in format {FORMAT}") from None
    return RecordHeader(kind, bool(kind_byte & COMPRESSED), key, count, length, sequence, check, form.size + CHECK.size)


def body_holds(header: RecordHeader, stored: bytes) -> bool:
    """Whether the bytes behind a header (body and check) are those that were written."""
    check: int = CHECK.unpack_from(stored, header.length)[0]
    return crc32(memoryview(stored)[: header.length], header.check) == check


def expand(header: RecordHeader, stored: bytes) -> bytes:
    """The body out of the bytes behind a header, decompressed."""
    if not header.compressed:
        return stored[: header.length]
    size, at = take(stored, 0)
    if not BODY_MIN <= size <= min(BODY_MAX, LZ4_RATIO_MAX * header.length):
        raise LogError(f"its body of {header.length} bytes says that it expands to {size}")
    try:
        body: bytes = lz4.block.decompress(stored[at : header.length], uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise LogError(f"its body cannot be decompressed: {error}") from None
    if len(body) != size:
        raise LogError(f"its body expands to {len(body)} bytes, not to {size}")
    return body


def frame_preamble(header: bytes, magic: bytes = MAGIC) -> bytes:
    """The start of a log (or of what begins like one): preamble, header and checks."""
    assert len(header) <= HEADER_MAX
    preamble = PREAMBLE.pack(magic, FORMAT, len(header))
    return b"".join((preamble, CHECK.pack(crc32(preamble)), header, CHECK.pack(crc32(header))))
