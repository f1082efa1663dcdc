# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that a side's lines go to when a launcher started it, and how the launcher follows it.

    STATE/a/side.log        what side a's processes say, one after the other; at most LOG_MAX bytes and a little
    STATE/a/side.log.old    what they said before

The side itself turns the file over, since a launcher may be gone for months: it renames it, makes a new one, and puts
that in the place of its standard output and error. Whoever follows the file sees another inode, and reads the rest of
the old one first.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

NAME: Final = "side.log"
OLD: Final = "side.log.old"
LOG_MAX: Final = 4 << 20
STANDARD: Final = (1, 2)  # output and error


def turn_over(directory: Path, descriptors: tuple[int, ...] = STANDARD, size_max: int = LOG_MAX) -> bool:
    """Begin a new log when the present one is long; True when that was done.

    Nothing is done when the last of `descriptors` is not that log (a terminal, another file), or when it fails.
    """
    path = directory / NAME
    with suppress(OSError):
        here, there = os.fstat(descriptors[-1]), path.stat()
        if here.st_size <= size_max or (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            return False
        path.replace(directory / OLD)
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        for descriptor in descriptors:
            os.dup2(fresh, descriptor)
        os.close(fresh)
        return True
    return False


class Tail:
    """What is appended to a side's log, across its turns."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._old = directory / OLD
        self._inode = self._offset = 0
        self.skip()

    def skip(self) -> None:
        """From here on only what is new."""
        with suppress(OSError):
            found = self._path.stat()
            self._inode, self._offset = found.st_ino, found.st_size

    def read(self) -> bytes:
        """Whole lines that have come."""
        with suppress(OSError):
            found = self._path.stat()
            if found.st_ino != self._inode:
                rest = self._rest_of_old()
                self._inode, self._offset = found.st_ino, 0
                return rest + self._lines(self._path)
            if found.st_size > self._offset:
                return self._lines(self._path)
        return b""

    def _rest_of_old(self) -> bytes:
        with suppress(OSError):
            if self._old.stat().st_ino == self._inode:
                return self._content(self._old)
        return b""

    def _content(self, path: Path) -> bytes:
        with path.open("rb") as file:
            file.seek(self._offset)
            return file.read()

    def _lines(self, path: Path) -> bytes:
        lines = self._content(path)
        whole = lines[: lines.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole
