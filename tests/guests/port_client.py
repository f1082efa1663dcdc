# SPDX-License-Identifier: GPL-2.0-or-later
"""`PortClient`: speaks the NBD transmission phase with blockd over the console port's Unix socket."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698

READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES, CRASH = 0, 1, 2, 3, 4, 6, 0x4654
FUA, NO_HOLE = 1, 2
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW = 1, 5, 22, 28, 75

CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply."""

    magic: int
    error: int
    cookie: int
    data: bytes


class PortClient:
    """A socket to the port, and which READs are on their way (a reply does not say how long it is)."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self.socket = self._connect(path)
        self.socket.settimeout(timeout)
        self._cookies = count(0x1122334455667788)
        self._reads: dict[int, int] = {}

    @staticmethod
    def _connect(path: Path) -> socket.socket:
        end = time.monotonic() + CONNECT_S
        while True:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                stream.connect(str(path))
                return stream
            except OSError:
                stream.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def frame(self, kind: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> tuple[int, bytes]:
        """A request's cookie and bytes, not yet sent."""
        cookie = next(self._cookies)
        if kind == READ:
            self._reads[cookie] = length
        return cookie, REQUEST.pack(REQUEST_MAGIC, flags, kind, cookie, offset, length) + data

    def send(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> int:
        """Sends one request; returns its cookie."""
        cookie, frame = self.frame(kind, offset, length or len(data), data, flags)
        self.socket.sendall(frame)
        return cookie

    def _exactly(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self.socket.recv(length - len(parts))
            if not part:
                raise EOFError(f"the port closed after {len(parts)} of {length} bytes")
            parts += part
        return bytes(parts)

    def expect_no_data(self, cookie: int) -> None:
        """The READ's reply will carry none, though it says no error."""
        self._reads.pop(cookie)

    def answer(self) -> Answer:
        """The next reply."""
        magic, error, cookie = REPLY.unpack(self._exactly(REPLY.size))
        length = self._reads.pop(cookie, 0)
        return Answer(magic, error, cookie, self._exactly(length) if not error else b"")

    def call(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> Answer:
        """One request alone, and its reply."""
        cookie = self.send(kind, offset, length, data, flags)
        answer = self.answer()
        assert (answer.magic, answer.cookie) == (REPLY_MAGIC, cookie)
        return answer

    def read(self, offset: int, length: int) -> bytes:
        """A READ that must succeed."""
        answer = self.call(READ, offset, length)
        assert answer.error == 0
        return answer.data

    def silent(self, seconds: float) -> bool:
        """Does nothing come for so long?"""
        self.socket.settimeout(seconds)
        try:
            return not self.socket.recv(1)
        except TimeoutError:
            return True

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
