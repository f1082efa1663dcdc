# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD protocol's numbers and frames (github.com/NetworkBlockDevice/nbd, doc/proto.md). No I/O.

    request  u32 0x25609513 | u16 flags | u16 type | u64 cookie | u64 offset | u32 length | length bytes when WRITE
    reply    u32 0x67446698 | u32 error | u64 cookie | length bytes when READ and error is 0

The same two frames are spoken twice: between client and host (the client's cookie) and between the journal and the
driver (the journal's number as the cookie).
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

REQUEST_MAGIC: Final = 0x25609513
REPLY_MAGIC: Final = 0x67446698
REQUEST: Final = struct.Struct(">IHHQQI")
REPLY: Final = struct.Struct(">IIQ")

SECTOR: Final = 512
LENGTH_MAX: Final = 32 << 20  # payload of one client request that this server takes
PART_MAX: Final = 1 << 20  # payload of one request that the driver sees
VENDOR: Final = 0x4654  # "FT": a command for the driver alone, without payload either way


class TransmissionFlag(IntFlag):
    """What an export can do, "Transmission flags"."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    CAN_MULTI_CONN = 1 << 8


class Errno(IntEnum):
    """The error values that a reply may carry, "Error values"."""

    OK = 0
    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


# Request types and flags ("Transmission phase", "Command flags") are plain integers, not enumerations: the path of
# every request compares with these, at a tenth of the cost.
READ: Final = 0
WRITE: Final = 1
DISC: Final = 2
FLUSH: Final = 3
TRIM: Final = 4
WRITE_ZEROES: Final = 6
FUA: Final = 1
NO_HOLE: Final = 2
ERRORS: Final = frozenset(int(error) for error in Errno)


class ClientError(Exception):
    """A client broke the NBD protocol so that its connection cannot go on; the message says how."""


def reply_head(cookie: int, error: int) -> bytes:
    """The head of a simple reply."""
    return REPLY.pack(REPLY_MAGIC, error, cookie)


def request_frame(kind: int, flags: int, cookie: int, offset: int, length: int, data: bytes = b"") -> bytes:
    """A whole request."""
    return REQUEST.pack(REQUEST_MAGIC, flags, kind, cookie, offset, length) + data
