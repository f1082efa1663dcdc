# SPDX-License-Identifier: GPL-2.0-or-later
"""`Session`: the whole server side of one NBD connection without any I/O, in the manner of h11.

    session.receive(bytes from the socket)
    session.next() -> ClientRequest | None (needs more bytes) | DISCONNECT      raises ClientError: close the socket
    session.outgoing() -> bytes for the socket (the handshake's answers)

A WRITE longer than 1 MiB is handed out in parts as its payload arrives, so that no more than one part of it is ever
buffered; `start` and `total` say which range the client asked for. Every other request is handed out whole.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from ftvm.service.export import Export
from ftvm.service.handshake import Handshake, State
from ftvm.service.nbd import DISC, LENGTH_MAX, PART_MAX, REQUEST, REQUEST_MAGIC, WRITE, ClientError


class ClientRequest(NamedTuple):
    """A request, or one part of a long WRITE: bytes offset..offset+length of the start..start+total asked for."""

    cookie: int
    kind: int
    flags: int
    offset: int
    length: int
    data: bytes
    start: int
    total: int


class Disconnect:
    """The client has said that it is done: answer what is outstanding, then close."""


DISCONNECT: Final = Disconnect()
Header = tuple[int, int, int, int, int, int]
Phase = Literal["handshake", "transmission", "closed"]


class Session:
    """One client's connection, from the greeting on."""

    def __init__(self, export: Export) -> None:
        self._buffer = bytearray()
        self._handshake = Handshake(export)
        self._header: Header | None = None  # of a WRITE whose payload has not arrived
        self._taken = 0  # bytes of that payload handed out in parts
        self.phase: Phase = "handshake"

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes that the client has sent."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """Bytes received and not handed out yet."""
        return len(self._buffer)

    def outgoing(self) -> bytes:
        """What the handshake wants to send; empties it."""
        if not self._handshake.outgoing:
            return b""
        data = bytes(self._handshake.outgoing)
        self._handshake.outgoing.clear()
        return data

    def next(self) -> ClientRequest | Disconnect | None:
        """The next thing the client wants; None when that takes more bytes."""
        if self.phase == "transmission":
            return self._request()
        if self.phase == "closed":
            return DISCONNECT
        while self._handshake.advance(self._buffer):
            pass
        if self._handshake.state is State.DONE:
            self.phase = "transmission"
            return self._request()
        if self._handshake.state is State.CLOSED:
            return self._disconnect()
        return None

    def _disconnect(self) -> Disconnect:
        self.phase = "closed"
        self._buffer.clear()
        return DISCONNECT

    def _request(self) -> ClientRequest | Disconnect | None:
        if self._header is not None:
            return self._payload(self._header)
        buffer = self._buffer
        if len(buffer) < REQUEST.size:
            return None
        header: Header = REQUEST.unpack_from(buffer)
        magic, flags, kind, cookie, offset, length = header
        if magic != REQUEST_MAGIC:
            raise ClientError(f"request has magic {magic:#x}")
        del buffer[: REQUEST.size]
        if kind == WRITE and length:
            if length > LENGTH_MAX:  # answered with an error; its payload is not waited for
                self._disconnect()
                return ClientRequest(cookie, kind, flags, offset, length, b"", offset, length)
            self._header, self._taken = header, 0
            return self._payload(header)
        if kind == DISC:
            return self._disconnect()
        return ClientRequest(cookie, kind, flags, offset, length, b"", offset, length)

    def _payload(self, header: Header) -> ClientRequest | None:
        _, flags, kind, cookie, offset, total = header
        taken = self._taken
        length = min(total - taken, PART_MAX)
        buffer = self._buffer
        if len(buffer) < length:
            return None
        with memoryview(buffer) as view:
            data = bytes(view[:length])
        del buffer[:length]
        self._taken = taken + length
        if self._taken == total:
            self._header = None
        return ClientRequest(cookie, kind, flags, offset + taken, length, data, offset, total)
