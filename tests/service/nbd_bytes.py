# SPDX-License-Identifier: GPL-2.0-or-later
"""What an NBD client says, as bytes; and a client that says it over a socket while a test steps the server by hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from ftvm.service.nbd import READ, REPLY, REPLY_MAGIC, request_frame

CLIENT_FLAGS = struct.pack(">I", 3)
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY = 1, 2, 3, 5, 6, 7, 8


def option(number: int, data: bytes = b"") -> bytes:
    """One option."""
    return struct.pack(">8sII", b"IHAVEOPT", number, len(data)) + data


def info_data(name: bytes = b"", wanted: tuple[int, ...] = ()) -> bytes:
    """The data of INFO and GO."""
    return struct.pack(f">I{len(name)}sH{len(wanted)}H", len(name), name, len(wanted), *wanted)


HELLO = CLIENT_FLAGS + option(GO, info_data())


def split_option_replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """(option, reply type, data) of each option reply."""
    replies = []
    while data:
        magic, number, kind, length = struct.unpack_from(">QIII", data)
        assert magic == 0x3E889045565A9
        replies.append((number, kind, data[20 : 20 + length]))
        assert len(data) >= 20 + length
        data = data[20 + length :]
    return replies


class RawClient:
    """A connected client in transmission phase; `step` lets the server work whenever the client would have to wait."""

    def __init__(self, sock: socket.socket, step: Callable[[], object], hello: bytes = HELLO) -> None:
        self.sock = sock
        self.step = step
        self.received = bytearray()
        self.asked: dict[int, int] = {}
        sock.setblocking(False)
        self.take(18)
        if hello:
            self.send(hello)
            while True:
                head = self.take(20)
                _, _, kind, length = struct.unpack(">QIII", head)
                self.take(length)
                if kind == 1:
                    break

    def send(self, data: bytes) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                self.step()

    def pull(self) -> bool:
        """Take what has arrived; False at the end of the stream."""
        try:
            data = self.sock.recv(1 << 20)
        except BlockingIOError:
            return True
        self.received += data
        return bool(data)

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        for _ in range(100_000):
            if len(self.received) >= count:
                data = bytes(self.received[:count])
                del self.received[:count]
                return data
            self.step()
            assert self.pull(), "the server closed the connection"
        raise AssertionError(f"no {count} bytes came")

    def ask(self, kind: int, cookie: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> None:
        """Send one request."""
        self.asked[cookie] = length if kind == READ else 0
        self.send(request_frame(kind, flags, cookie, offset, length or len(data), data))

    def reply(self) -> tuple[int, int, bytes]:
        """The next reply: cookie, error, data."""
        magic, error, cookie = REPLY.unpack(self.take(REPLY.size))
        assert magic == REPLY_MAGIC
        length = self.asked.pop(cookie)
        return cookie, error, self.take(length) if not error else b""

    def call(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> tuple[int, bytes]:
        """One request and its reply: error, data."""
        self.ask(kind, 0xC0FFEE, offset, length, data, flags)
        cookie, error, content = self.reply()
        assert cookie == 0xC0FFEE
        return error, content

    def at_end(self) -> bool:
        """Has the server closed the connection (and nothing is left to read)?"""
        for _ in range(50):
            self.step()
            try:
                if not self.pull():
                    return not self.received
            except ConnectionError:
                return not self.received
        return False

    def close(self) -> None:
        """Hang up."""
        self.sock.close()
