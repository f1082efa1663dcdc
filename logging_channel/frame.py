# SPDX-License-Identifier: GPL-2.0-or-later
"""One frame as bytes. A frame is one ZeroMQ message (single part): boundaries are the transport's, the rest is here.

Layout, little endian, 44 bytes of header and then the body:

    offset  size  field
         0     4  magic     b"FTVM"
         4     1  version   2
         5     1  kind      FrameKind
         6     2  flags     meaning depends on the kind
         8     4  length    bytes of body, at most 64 MiB
        12     8  pair      id of the pair
        20     4  term      reign in which the frame was sent
        24     8  session   connection id, chosen anew by the joiner for every hello
        32     8  sequence  of the entry, where the kind has one
        40     4  check     low half of the body's XXH3-64, seeded with that of the 40 bytes before

The one idea: any bytes decode to a Frame or raise ChannelError. The checksum lets one damaged frame in four billion
pass, behind that of TCP, and costs a tenth of CRC-32's time, which with packets as the load was the dearest step of
all between the two sides. It is no defence against malice, that is what CURVE is for.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from logging_channel.errors import ChannelError

MAGIC = b"FTVM"
VERSION = 2
BODY_MAX = 64 << 20

_HEADER = struct.Struct("<4sBBHIQIQQ")
_CHECK = struct.Struct("<I")
_WHOLE = struct.Struct("<4sBBHIQIQQI")
HEADER_SIZE = _WHOLE.size
FRAME_MAX = HEADER_SIZE + BODY_MAX


class FrameKind(IntEnum):
    """What a frame's body means."""

    HELLO = 1  # joiner: who I am and what I hold
    WELCOME = 2  # primary: you are in; session, term, next sequence
    REFUSE = 3  # primary: you are not, and why
    ENTRY = 4  # primary: released u64 and one opaque entry
    ACK = 5  # backup: received, executed with its digest, durable
    HEARTBEAT = 6  # both: progress
    STATE_BEGIN = 7  # primary: a checkpoint follows
    STATE_CHUNK = 8  # primary: a piece of it
    STATE_END = 9  # primary: that was all
    STATE_CREDIT = 10  # joiner: so many more bytes may come
    GOODBYE = 11  # both: a planned end


_KINDS = {int(kind): kind for kind in FrameKind}


class Frame(NamedTuple):
    """One decoded frame. A named tuple because it is made once per message on the hot path."""

    kind: FrameKind
    pair: int
    term: int
    session: int
    sequence: int
    body: bytes
    flags: int = 0


def checksum(header: bytes, body: bytes) -> int:
    """What a frame carries behind its `header` of 40 bytes."""
    return xxh3_64_intdigest(body, xxh3_64_intdigest(header)) & 0xFFFF_FFFF


def encode(
    kind: FrameKind, pair: int, term: int, session: int, sequence: int = 0, body: bytes = b"", flags: int = 0
) -> bytes:
    """Return the frame's bytes. The caller keeps every number in its field's range and the body under BODY_MAX."""
    assert len(body) <= BODY_MAX, f"a body of {len(body)} bytes is over the limit of {BODY_MAX}"
    header = _HEADER.pack(MAGIC, VERSION, kind, flags, len(body), pair, term, session, sequence)
    return header + _CHECK.pack(checksum(header, body)) + body


def decode(data: bytes) -> Frame:
    """Return the frame that `data`, one whole message, carries; raise ChannelError for anything else."""
    if len(data) < HEADER_SIZE:
        raise ChannelError(f"a frame of {len(data)} bytes is shorter than its header of {HEADER_SIZE}; dropped")
    magic, version, kind, flags, length, pair, term, session, sequence, check = _WHOLE.unpack_from(data)
    body = data[HEADER_SIZE:]
    if checksum(data[:40], body) != check:
        raise ChannelError(_explain(data, magic, version, length))
    found = _KINDS.get(kind)
    if magic != MAGIC or version != VERSION or length != len(body) or length > BODY_MAX or found is None:
        raise ChannelError(_explain(data, magic, version, length, kind))
    return Frame(found, pair, term, session, sequence, body, flags)


def _explain(data: bytes, magic: bytes, version: int, length: int, kind: int | None = None) -> str:
    """Say in words what is wrong with a frame that was not taken."""
    if magic != MAGIC:
        return f"a frame begins with {magic!r} instead of {MAGIC!r}: the peer does not speak this protocol"
    if version != VERSION:
        return f"a frame has format version {version}, this side speaks {VERSION}: run the same release on both sides"
    if length > BODY_MAX:
        return f"a frame announces a body of {length} bytes, the limit is {BODY_MAX}"
    if length != len(data) - HEADER_SIZE:
        return f"a frame announces a body of {length} bytes and carries {len(data) - HEADER_SIZE}"
    if kind is not None:
        return f"a frame has the unknown kind {kind}: run the same release on both sides"
    return f"a frame of {len(data)} bytes fails its checksum: it was damaged on the way"
