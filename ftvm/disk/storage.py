# SPDX-License-Identifier: GPL-2.0-or-later
"""`Storage`: where an image's bytes are kept; and `FileStorage`, a sparse file that one process owns.

A file's owner holds flock(2) on it, so that two processes never write one image. Ranges are zeroed by fallocate(2)
where the file system can, and by writing zeroes where it cannot.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from ftvm.disk.errors import DiskRefused

SECTOR: Final = 512
COPY_BYTES: Final = 1 << 20
FALLOC_FL_KEEP_SIZE: Final = 1
FALLOC_FL_PUNCH_HOLE: Final = 2
FALLOC_FL_ZERO_RANGE: Final = 16
UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV})
_ZEROES: Final = bytes(COPY_BYTES)


class Storage(Protocol):
    """Bytes with a cache above them: `sync` makes durable what was written before. Everything may raise OSError."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""

    def write(self, offset: int, data: bytes) -> None:
        """All of `data`."""

    def zero(self, offset: int, length: int) -> None:
        """The range reads as zeroes and stays allocated where that is possible."""

    def discard(self, offset: int, length: int) -> None:
        """The range reads as zeroes and is given back where that is possible."""

    def sync(self) -> None:
        """What was written before this call began is durable when it returns."""

    def extents(self) -> Iterator[tuple[int, int]]:
        """Ranges (offset, end) that may hold something other than zeroes, in order."""

    def close(self) -> None:
        """Release it."""


class FileStorage:
    """A file of exactly `size` bytes; made sparse when it is missing. Raises DiskRefused when it cannot be used."""

    def __init__(self, path: Path, size: int, create: bool = True) -> None:
        assert size > 0 and size % SECTOR == 0, f"a disk of {size} bytes is not whole sectors"
        self.path = path
        self.size = size
        self._fallocate = _fallocate()
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise DiskRefused(f"disk image {path} cannot be opened: {error.strerror}") from error
        try:
            self._take(size)
        except BaseException:
            os.close(self._fd)
            raise

    def _take(self, size: int) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DiskRefused(f"disk image {self.path} is in use by another process; stop that first") from error
        found = os.fstat(self._fd).st_size
        if found == 0:
            os.ftruncate(self._fd, size)
            os.fsync(self._fd)
            sync_directory(self.path.parent)
        elif found != size:
            raise DiskRefused(
                f"disk image {self.path} has {found} bytes, the machine file says {size}; correct the size or the image"
            )

    def read(self, offset: int, length: int) -> bytes:
        """See Storage."""
        data = os.pread(self._fd, length, offset)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise OSError(errno.EIO, f"{self.path} ends at {offset + len(data)}: it was truncated behind our back")
            data += more
        return data

    def write(self, offset: int, data: bytes) -> None:
        """See Storage."""
        done = os.pwrite(self._fd, data, offset)
        while done < len(data):
            done += os.pwrite(self._fd, memoryview(data)[done:], offset + done)

    def zero(self, offset: int, length: int) -> None:
        """See Storage."""
        if not self._range(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length):
            self.discard(offset, length)

    def discard(self, offset: int, length: int) -> None:
        """See Storage."""
        if not self._range(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length):
            for start in range(offset, offset + length, COPY_BYTES):
                self.write(start, _ZEROES[: min(COPY_BYTES, offset + length - start)])

    def _range(self, mode: int, offset: int, length: int) -> bool:
        if not length:
            return True
        if self._fallocate(self._fd, mode, offset, length) == 0:
            return True
        number = ctypes.get_errno()
        if number in UNSUPPORTED:
            return False
        raise OSError(number, os.strerror(number), str(self.path))

    def sync(self) -> None:
        """See Storage."""
        os.fdatasync(self._fd)

    def extents(self) -> Iterator[tuple[int, int]]:
        """See Storage."""
        return data_extents(self._fd, self.size)

    def close(self) -> None:
        """See Storage; gives the lock back."""
        os.close(self._fd)


def _fallocate() -> Callable[[int, int, int, int], int]:
    """fallocate(2) of the C library, which Python does not wrap with its modes."""
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int
    call: Callable[[int, int, int, int], int] = function
    return call


def data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of an open file that are not holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start >= size:
            return
        end = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        yield start, end


def copy_sparse(source: Path, target: Path, size: int) -> None:
    """Copy an image to a new file of `size` bytes, durably and without filling holes. DiskRefused when too big."""
    with open(source, "rb") as read:
        found = os.fstat(read.fileno()).st_size
        if found > size:
            raise DiskRefused(f"disk image {source} has {found} bytes, the machine file says {size}; raise the size")
        temporary = target.with_name(target.name + ".part")
        with open(temporary, "wb") as write:
            os.ftruncate(write.fileno(), size)
            for start, end in data_extents(read.fileno(), found):
                for offset in range(start, end, COPY_BYTES):
                    data = os.pread(read.fileno(), min(COPY_BYTES, end - offset), offset)
                    os.pwrite(write.fileno(), data, offset)
            os.fsync(write.fileno())
    os.replace(temporary, target)
    sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Make renames and new files in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
