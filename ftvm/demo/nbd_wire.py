# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's half of the NBD protocol without I/O: bytes in, messages out.

Source: the NBD protocol specification (doc/proto.md of the NetworkBlockDevice project), fixed newstyle negotiation with
NBD_OPT_GO, simple replies. All integers are big-endian.

    greeting   "NBDMAGIC" "IHAVEOPT" flags:16               server, then the client's flags:32
    option     "IHAVEOPT" option:32 length:32 data          client
    answer     magic:64 option:32 type:32 length:32 data    server; type with bit 31 is an error
    request    magic:32 flags:16 type:16 cookie:64 offset:64 length:32 [data of a write]
    reply      magic:32 error:32 cookie:64 [data of a read without error]

The one idea: the handshake is an object that is fed bytes and returns bytes to send; when it is done it holds the
export, and what it has not consumed belongs to the transmission phase, whose replies `ReplyParser` cuts out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

GREETING: Final = struct.Struct(">8s8sH")
OPTION: Final = struct.Struct(">8sII")
ANSWER: Final = struct.Struct(">QIII")
INFO_EXPORT: Final = struct.Struct(">HQH")
REQUEST: Final = struct.Struct(">IHHQQI")
REPLY: Final = struct.Struct(">IIQ")

INIT_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
ANSWER_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
REPLY_MAGIC: Final = 0x67446698

FIXED_NEWSTYLE: Final = 1  # the server's and the client's handshake flags share these two bits
NO_ZEROES: Final = 2
OPTION_GO: Final = 7
ANSWER_ACK: Final = 1
ANSWER_INFO: Final = 3
ANSWER_ERROR: Final = 1 << 31
INFO_TYPE_EXPORT: Final = 0
ANSWER_LENGTH_MAX: Final = 65_536  # nothing that answers NBD_OPT_GO is longer

FUA: Final = 1  # command flag


class Command(IntEnum):
    """Request types of the transmission phase."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class ExportFlag(IntEnum):
    """Transmission flags: what the export can do."""

    READ_ONLY = 2
    FLUSH = 4
    FUA = 8
    TRIM = 32
    WRITE_ZEROES = 64


OPTION_ERRORS: Final = {
    1: "does not know the option",
    2: "forbids it by policy",
    3: "finds the request malformed",
    4: "does not support it on its platform",
    5: "wants TLS first",
    6: "has no such export",
    7: "is shutting down",
    8: "wants block sizes to be asked for",
    9: "finds the request too large",
}
ERRORS: Final = {
    1: "EPERM (not permitted)",
    5: "EIO (input/output error)",
    12: "ENOMEM (out of memory)",
    22: "EINVAL (invalid request)",
    28: "ENOSPC (no space left)",
    75: "EOVERFLOW (too large)",
    95: "ENOTSUP (not supported)",
    108: "ESHUTDOWN (server is shutting down)",
}


class NbdError(Exception):
    """The server or the wire failed: what was wrong, in words."""


def error_text(error: int) -> str:
    """An NBD error number in words."""
    return ERRORS.get(error, f"error {error}")


@dataclass(frozen=True, slots=True)
class Export:
    """What the server offers: size in bytes and transmission flags."""

    size: int
    flags: int

    def can(self, flag: ExportFlag) -> bool:
        """Whether the export announces this ability."""
        return bool(self.flags & flag)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `command` may be a vendor's own number; `data` is a write's payload and then sets the length."""

    command: int
    offset: int = 0
    length: int = 0
    data: bytes = b""
    flags: int = 0

    def encode(self, cookie: int) -> bytes:
        """The bytes on the wire, under this cookie."""
        length = len(self.data) or self.length
        return REQUEST.pack(REQUEST_MAGIC, self.flags, self.command, cookie, self.offset, length) + self.data


@dataclass(frozen=True, slots=True)
class Reply:
    """One simple reply; `error` 0 is success."""

    cookie: int
    error: int
    data: bytes


class Handshake:
    """Fixed newstyle negotiation of one export: feed it what comes, send what it returns, until `export` is set."""

    def __init__(self, export_name: str = "") -> None:
        self.export: Export | None = None
        self._name = export_name.encode()
        self._buffer = bytearray()
        self._greeted = False
        self._offer: Export | None = None

    @property
    def rest(self) -> bytes:
        """Bytes that came after the negotiation's end."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """Consume bytes of the server; the bytes to send in return (often none). Raises NbdError."""
        self._buffer += data
        out = b"" if self._greeted else self._greeting()
        while self._greeted and self.export is None and self._answer():
            pass
        return out

    def _greeting(self) -> bytes:
        if len(self._buffer) < GREETING.size:
            return b""
        magic, style, flags = GREETING.unpack_from(self._buffer)
        if magic != INIT_MAGIC or style != OPTION_MAGIC:
            raise NbdError(f"no newstyle NBD server: the greeting begins with {bytes(self._buffer[:16])!r}")
        if not flags & FIXED_NEWSTYLE:
            raise NbdError("the server does not speak fixed newstyle, which this client needs")
        del self._buffer[: GREETING.size]
        self._greeted = True
        body = struct.pack(">I", len(self._name)) + self._name + struct.pack(">H", 0)
        client_flags = struct.pack(">I", flags & (FIXED_NEWSTYLE | NO_ZEROES))
        return client_flags + OPTION.pack(OPTION_MAGIC, OPTION_GO, len(body)) + body

    def _answer(self) -> bool:
        """Consume one answer to the option; False when it is not whole yet."""
        if len(self._buffer) < ANSWER.size:
            return False
        magic, option, kind, length = ANSWER.unpack_from(self._buffer)
        if magic != ANSWER_MAGIC or option != OPTION_GO or length > ANSWER_LENGTH_MAX:
            raise NbdError(f"the answer to NBD_OPT_GO is malformed: magic {magic:#x}, option {option}, {length} bytes")
        if len(self._buffer) < ANSWER.size + length:
            return False
        body = bytes(self._buffer[ANSWER.size : ANSWER.size + length])
        del self._buffer[: ANSWER.size + length]
        self._take(kind, body)
        return True

    def _take(self, kind: int, body: bytes) -> None:
        if kind & ANSWER_ERROR:
            why = OPTION_ERRORS.get(kind & ~ANSWER_ERROR, f"answers with error {kind:#x}")
            said = body.decode(errors="replace")
            raise NbdError(f"the server refuses export {self._name.decode()!r}: it {why} {said}".rstrip())
        if kind == ANSWER_INFO and len(body) >= 2 and body[:2] == b"\0\0":
            if len(body) != INFO_EXPORT.size:
                raise NbdError(f"NBD_INFO_EXPORT has {len(body)} bytes, not {INFO_EXPORT.size}")
            _, size, flags = INFO_EXPORT.unpack(body)
            self._offer = Export(size, flags)
        elif kind == ANSWER_ACK:
            if self._offer is None:
                raise NbdError("the server acknowledges NBD_OPT_GO without having told the export's size")
            self.export = self._offer


class ReplyParser:
    """Cuts simple replies out of a stream; `payload_length` tells a cookie's data length, None when it is unknown."""

    def __init__(self, payload_length: Callable[[int], int | None]) -> None:
        self._payload_length = payload_length
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are whole now. Raises NbdError on anything else than replies to open requests."""
        self._buffer += data
        replies: list[Reply] = []
        answered: set[int] = set()
        at = 0
        while len(self._buffer) - at >= REPLY.size:
            magic, error, cookie = REPLY.unpack_from(self._buffer, at)
            if magic != REPLY_MAGIC:
                raise NbdError(f"a reply begins with {magic:#010x} instead of {REPLY_MAGIC:#010x}")
            length = self._payload_length(cookie)
            if length is None or cookie in answered:
                raise NbdError(f"a reply to request {cookie}, which is not open")
            end = at + REPLY.size + (0 if error else length)
            if len(self._buffer) < end:
                break
            replies.append(Reply(cookie, error, bytes(self._buffer[at + REPLY.size : end])))
            answered.add(cookie)
            at = end
        del self._buffer[:at]
        return replies
