# SPDX-License-Identifier: GPL-2.0-or-later
"""`Request`: one client request as the driver sees it, and its form as an event in the log.

    BLOCK_REQUEST   varint connection | u8 flags << 4 | type | varint offset | varint length     (READ, TRIM, ...)
                    varint connection | u8 flags << 4 | type | varint offset | data                     (WRITE)
                    varint connection | u8 flags << 4 | type                                            (FLUSH)
    BLOCK_CLOSE     varint connection

Offsets and lengths count sectors of 512 bytes, except in vendor requests (type 15 here), whose numbers mean what the
driver wants. The journal's number is not in the event: host and journal both count. A connection is named by the
number of its first request, so names are unique in the pair's whole history without a counter of their own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ftvm.service.nbd import FLUSH, PART_MAX, READ, SECTOR, TRIM, VENDOR, WRITE, WRITE_ZEROES
from replay.errors import LogError
from replay.varint import put, take

VENDOR_CODE: Final = 15
KINDS: Final = frozenset({READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, VENDOR_CODE})


class Request(NamedTuple):
    """One request of at most 1 MiB; offset and length in bytes; `data` only when it is a WRITE."""

    connection: int
    kind: int
    flags: int
    offset: int
    length: int
    data: bytes = b""


def encode_request(connection: int, kind: int, flags: int, offset: int, length: int, data: bytes) -> bytes:
    """The data of a BLOCK_REQUEST event."""
    out = bytearray()
    put(out, connection)
    if kind == VENDOR:
        out.append(flags << 4 | VENDOR_CODE)
        put(out, offset)
        put(out, length)
        return bytes(out)
    out.append(flags << 4 | kind)
    if kind != FLUSH:
        put(out, offset >> 9)
        if kind == WRITE:
            out += data
        else:
            put(out, length >> 9)
    return bytes(out)


def decode_request(data: bytes) -> Request:
    """The inverse of `encode_request`; LogError when no host could have written it."""
    connection, at = take(data, 0)
    if at >= len(data):
        raise LogError("block request ends before its type")
    code = data[at]
    kind, flags = code & 15, code >> 4
    if kind not in KINDS:
        raise LogError(f"block request has unknown type {kind}")
    at += 1
    offset = length = 0
    payload = b""
    if kind == WRITE:
        offset, at = take(data, at)
        offset *= SECTOR
        payload = data[at:]
        at = len(data)
        length = len(payload)
    elif kind != FLUSH:
        offset, at = take(data, at)
        length, at = take(data, at)
        if kind == VENDOR_CODE:
            kind = VENDOR
        else:
            offset, length = offset * SECTOR, length * SECTOR
    if at != len(data):
        raise LogError(f"block request has {len(data) - at} bytes too many")
    if kind != VENDOR and (length > PART_MAX or length % SECTOR):
        raise LogError(f"block request has impossible length {length}")
    if offset >= 1 << 64 or length >= 1 << 32:
        raise LogError(f"block request has impossible range {offset}+{length}")
    return Request(connection, kind, flags, offset, length, payload)


def encode_close(connection: int) -> bytes:
    """The data of a BLOCK_CLOSE event."""
    out = bytearray()
    put(out, connection)
    return bytes(out)


def decode_close(data: bytes) -> int:
    """The inverse of `encode_close`."""
    connection, at = take(data, 0)
    if at != len(data):
        raise LogError(f"end of a block connection has {len(data) - at} bytes too many")
    return connection
