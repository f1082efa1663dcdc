# SPDX-License-Identifier: GPL-2.0-or-later
"""`Files`: the one file that a debugger can fetch from here: the guest's symbols (GDB manual, E.7, "Host I/O").

    qXfer:exec-file:read    its name, which GDB asks for when it was started without a file of its own
    vFile:open pread fstat close setfs

There is nothing else to be had: any other name is one of a file that does not exist.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from replay.gdb.packet import number

NAME: Final = "/guest"
_STAT: Final = Struct(
    ">IIIIIIIQQQIII"
)  # device, inode, mode, links, owner, group, rdev, size, block size, blocks, times
_MODE: Final = 0o100444
_FD: Final = 3
_ENOENT, _EBADF, _EROFS = 2, 9, 30


class Files:
    """Replies to what is behind `vFile:`; `content` is empty where there are no symbols."""

    def __init__(self, content: bytes, piece_max: int) -> None:
        self.content = content
        self._piece_max = piece_max
        self._open = False

    def name_part(self, span: str) -> bytes:
        """The file's name, as qXfer reads it; empty when there is no file."""
        if not self.content:
            return b""
        start, length = map(number, span.split(","))
        return b"l" + NAME.encode()[start : start + length]

    def handle(self, rest: str) -> bytes:
        """`operation:arguments`; ValueError when they are not such."""
        operation, _, arguments = rest.partition(":")
        words = arguments.split(",")
        if operation == "setfs":
            return b"F0"
        if operation == "open":
            return self._opened(bytes.fromhex(words[0]).decode("utf-8", "replace"), number(words[1]))
        if operation in ("close", "fstat", "pread"):
            if number(words[0]) != _FD or not self._open:
                return _failed(_EBADF)
            if operation == "pread":
                return self._read(number(words[1]), number(words[2]))
            return self._closed() if operation == "close" else self._status()
        return _failed(_EROFS) if operation in ("pwrite", "unlink") else b""

    def _opened(self, name: str, flags: int) -> bytes:
        if name != NAME or not self.content:
            return _failed(_ENOENT)
        if flags & 3:
            return _failed(_EROFS)
        self._open = True
        return b"F%x" % _FD

    def _closed(self) -> bytes:
        self._open = False
        return b"F0"

    def _status(self) -> bytes:
        size = len(self.content)
        return b"F%x;" % _STAT.size + _STAT.pack(0, 1, _MODE, 1, 0, 0, 0, size, 4096, -(-size // 512), 0, 0, 0)

    def _read(self, count: int, offset: int) -> bytes:
        piece = self.content[offset : offset + min(count, self._piece_max)]
        return b"F%x;" % len(piece) + piece


def _failed(number: int) -> bytes:
    return b"F-1,%x" % number
