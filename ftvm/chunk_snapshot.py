# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk's chunks as they were between two epochs, read while the guest runs on: what `RamSnapshot` is for RAM.

    series = ChunkSeries(disk)         # from here on it follows what changes
    series.begin(changed=True)         # between two epochs: the chunks written since the one before, as they are now
    while (piece := series.take()):    # in any thread
        ...

A chunk that the guest writes before it was taken is copied first. The disk tells of each change before it makes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class FollowedDisk(Protocol):
    """A disk of chunks of 64 KiB that tells before it changes."""

    before_change: Callable[[int, int], None] | None
    """Hears of the first and the last chunk of each change, before it is made."""

    def data_chunks(self) -> list[int]: ...

    def peek_chunk(self, index: int) -> bytes: ...


class _Several(list[Callable[[int, int], None]]):
    """All who follow one disk."""

    def __call__(self, first: int, last: int) -> None:
        for each in self:
            each(first, last)


class ChunkSeries:
    """A row of snapshots of one disk, one at a time; a disk may have several rows."""

    def __init__(self, disk: FollowedDisk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._dirty: set[int] = set()
        self._pending: set[int] = set()
        self._kept: dict[int, bytes] = {}
        self._trouble: OSError | None = None
        before = disk.before_change
        disk.before_change = _Several([*before, self._before] if isinstance(before, _Several) else [self._before])

    @property
    def kept(self) -> int:
        """Copies that wait to be taken; each is memory."""
        return len(self._kept)

    def begin(self, *, changed: bool) -> int:
        """Between two epochs: only chunks written since the one before began, or all that hold anything; how many."""
        chunks = self._dirty if changed else set(self._disk.data_chunks()) | self._dirty
        with self._lock:
            self._pending, self._dirty, self._trouble = set(chunks), set(), None
            self._kept.clear()
        return len(chunks)

    def changed(self) -> int:
        """How many chunks were written since the latest one began."""
        return len(self._dirty)

    def take(self) -> tuple[int, bytes] | None:
        """One chunk, in any thread; None when none is left. OSError when it could not be read."""
        with self._lock:
            if self._trouble is not None:
                raise self._trouble
            if self._kept:
                return self._kept.popitem()
            if not self._pending:
                return None
            index = self._pending.pop()
            return index, self._disk.peek_chunk(index)

    def close(self) -> None:
        """Follow the disk no longer."""
        before = self._disk.before_change
        others = [each for each in before if each != self._before] if isinstance(before, _Several) else []
        self._disk.before_change = _Several(others) if others else None
        with self._lock:
            self._pending.clear()
            self._kept.clear()

    def _before(self, first: int, last: int) -> None:
        with self._lock:
            for index in [each for each in self._pending if first <= each <= last] if self._pending else ():
                self._keep(index)
            self._dirty.update(range(first, last + 1))

    def _keep(self, index: int) -> None:
        self._pending.discard(index)
        try:
            self._kept[index] = self._disk.peek_chunk(index)
        except OSError as error:  # of whoever takes, not of the guest
            self._trouble = error
