# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes `LOG.ckpt` (replay/checkpoint_file.py), one checkpoint at a time: `begin`, `section` and `pieces`, `commit`.

A new file is written beside, and appears under its name with its first checkpoint or at `close`; a recorder appends to
it from then on. `CheckpointWriter.go_on` continues one that is there, cut where its recording was cut. Whoever writes a
file holds flock(2) on it. A write that fails takes back what it has begun, and raises LogError.
"""

from __future__ import annotations

import fcntl
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self
from zlib import crc32

import lz4.block

from replay.checkpoint_file import (
    FULL,
    HEAD,
    HEAD_SIZE,
    MAGIC,
    Blob,
    Checkpoint,
    CheckpointFile,
    Layer,
    Mark,
    pack_index,
)
from replay.errors import LogBusy, LogError
from replay.header import LogHeader
from replay.record import CHECK, frame_preamble

ACCELERATION = 4  # of LZ4: a tenth larger, twice as fast


class CheckpointWriter:
    """For one thread."""

    def __init__(self, path: Path, header: LogHeader) -> None:
        """A new file, in the place of one that is there. LogError when it cannot be made."""
        self.path = path
        self.count = 0  # of whole checkpoints
        self.last: int | None = None  # the sequence of the last of them
        self._part: Path | None = path.with_name(path.name + ".part")
        try:
            self._fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LogError(f"cannot make {self._part}: {error.strerror}") from None
        self.size = self._at = 0
        self._fresh()
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._put(frame_preamble(header.encode(), MAGIC))
        except (OSError, LogError) as error:
            os.close(self._fd)
            raise LogError(f"{self._part}: {error}") from None
        self.size = self._at

    @classmethod
    def go_on(cls, path: Path, header: LogHeader, last: int) -> Self | None:
        """An existing file, cut behind the checkpoints of entries up to `last`; None when there is none of use.

        LogBusy when another process writes it, LogError when it cannot be written.
        """
        try:
            found = CheckpointFile(path, header)
        except LogError:
            return None
        found.close()
        writer = cls.__new__(cls)
        writer.path, writer._part = path, None
        kept = [each for each in found.checkpoints if each.mark.sequence <= last]
        writer.count, writer.last = len(kept), kept[-1].mark.sequence if kept else None
        writer.size = writer._at = kept[-1].offset + kept[-1].size if kept else found.start
        writer._fresh()
        try:
            writer._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise LogError(f"cannot open {path}: {error.strerror}") from None
        try:
            fcntl.flock(writer._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(writer._fd, writer.size)
        except BlockingIOError:
            os.close(writer._fd)
            raise LogBusy(f"{path}: another process writes it") from None
        except OSError as error:
            os.close(writer._fd)
            raise LogError(f"{path}: {error.strerror}") from None
        return writer

    # -- one checkpoint -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The next one."""
        self._fresh()
        self._at = self.size + HEAD_SIZE

    def section(self, name: str, data: bytes) -> None:
        """A part of the machine's state."""
        self._sections.append((name, self._blob(data), len(data)))

    def pieces(self, name: str, size: int, per: int, numbers: Sequence[int], content: bytes | memoryview) -> None:
        """Pieces of a layer, `per` to a group. Only the last one of a layer may be short, unless each is a group."""
        layer = self._layer(name, size, per)
        layer.numbers.extend(numbers)
        rest = self._rest.setdefault(name, bytearray())
        rest += content
        whole = len(rest) if per == 1 else len(rest) // (size * per) * (size * per)
        for start in range(0, whole, size * per):
            layer.groups.append(self._blob(rest[start : min(start + size * per, whole)]))
        del rest[:whole]

    def group(self, name: str, size: int, per: int, numbers: Sequence[int], stored: bytes) -> None:
        """A whole group as another file has stored it; `numbers` are `per`, some NONE."""
        assert len(numbers) == per and not self._rest.get(name)
        layer = self._layer(name, size, per)
        layer.numbers.extend(numbers)
        layer.groups.append(self._append(stored))

    def zeros(self, name: str, size: int, per: int, numbers: Iterable[int]) -> None:
        """Pieces of a layer that are all zero."""
        self._layer(name, size, per).zeros.extend(numbers)

    def commit(self, mark: Mark) -> int:
        """It is whole; its size in the file."""
        for name, rest in self._rest.items():
            if rest:
                self._layers[name].groups.append(self._blob(rest))
        index = pack_index(self._sections, self._layers)
        self._put(index)
        size = self._at - self.size - HEAD_SIZE
        flags = FULL if mark.full else 0
        head = HEAD.pack(flags, 0, mark.sequence, mark.clock, mark.digest, len(index), crc32(index), size)
        end, self._at = self._at, self.size
        self._put(head + CHECK.pack(crc32(head)))
        grown, self.size, self._at = end - self.size, end, end
        self.count, self.last = self.count + 1, mark.sequence
        self.appear()
        return grown

    def copy(self, file: CheckpointFile, checkpoint: Checkpoint) -> None:
        """A whole checkpoint of another file, behind those that it builds upon, or what amounts to them."""
        self._at = self.size
        self._put(file.whole(checkpoint))
        self.size = self._at
        self.count, self.last = self.count + 1, checkpoint.mark.sequence
        self.appear()

    def reader(self) -> CheckpointFile:
        """What is whole so far, whatever has been put in the file's place since."""
        return CheckpointFile(self.path, fd=os.dup(self._fd))

    def close(self) -> None:
        """What is whole stays."""
        try:
            if os.fstat(self._fd).st_size > self.size:
                os.ftruncate(self._fd, self.size)
            self.appear()
        except OSError as error:
            raise LogError(f"{self.path}: {error.strerror}") from None
        finally:
            os.close(self._fd)

    def discard(self) -> None:
        """Nothing of a new file that has not appeared yet stays."""
        os.close(self._fd)
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def appear(self) -> None:
        """A new file takes its place, whatever is in it yet."""
        if self._part is not None:
            try:
                self._part.replace(self.path)
            except OSError as error:
                raise LogError(f"{self.path}: {error.strerror}") from None
            self._part = None

    def _fresh(self) -> None:
        self._sections: list[tuple[str, Blob, int]] = []
        self._layers: dict[str, Layer] = {}
        self._rest: dict[str, bytearray] = {}  # pieces that do not fill a group yet

    def _layer(self, name: str, size: int, per: int) -> Layer:
        return self._layers.setdefault(name, Layer(size, per, array("I"), array("I")))

    def _blob(self, data: bytes | bytearray) -> Blob:
        return self._append(lz4.block.compress(data, mode="fast", acceleration=ACCELERATION, store_size=False))

    def _append(self, stored: bytes) -> Blob:
        place = Blob(self._at - self.size - HEAD_SIZE, len(stored), crc32(stored))
        self._put(stored)
        return place

    def _put(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:] if done else data, self._at + done)
        except OSError as error:
            self._take_back()
            raise LogError(f"{self.path}: {error.strerror}") from None
        self._at += len(data)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self.size)
        except OSError:
            return
