# SPDX-License-Identifier: GPL-2.0-or-later
"""`SimulatedDisk`: a disk in memory that loses power as unkindly as a real one may. For tests.

At a crash every sector written since the last sync is, independently, kept or lost: writes are dropped, torn between
sectors, and durable out of order. What was synced is kept. Nothing happens by itself: `work` does one queued operation.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from ftvm.disk.barrier import BarrierDisk
from ftvm.disk.storage import SECTOR


class SimulatedStorage:
    """Storage with a volatile cache. `fail_at` makes the operation with that count raise OSError(`errno`)."""

    def __init__(self, size: int, chance: random.Random) -> None:
        self.size = size
        self.operations = 0
        self.fail_at = -1
        self.errno = 28
        self.syncs = 0
        self._chance = chance
        self._cache = bytearray(size)
        self._stable = bytearray(size)
        self._unsynced: list[tuple[int, bytes]] = []

    def _count(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            raise OSError(self.errno, "simulated failure")

    def read(self, offset: int, length: int) -> bytes:
        """See Storage."""
        self._count()
        return bytes(self._cache[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """See Storage."""
        self._count()
        self._cache[offset : offset + len(data)] = data
        self._unsynced.append((offset, data))

    def zero(self, offset: int, length: int) -> None:
        """See Storage."""
        self.write(offset, bytes(length))

    def discard(self, offset: int, length: int) -> None:
        """See Storage."""
        self.write(offset, bytes(length))

    def sync(self) -> None:
        """See Storage."""
        self._count()
        self._stable[:] = self._cache
        self._unsynced.clear()
        self.syncs += 1

    def crash(self) -> None:
        """Power fails, and comes back."""
        for offset, data in self._unsynced:
            for at in range(0, len(data), SECTOR):
                if self._chance.random() < 0.5:
                    self._stable[offset + at : offset + at + SECTOR] = data[at : at + SECTOR]
        self._unsynced.clear()
        self._cache[:] = self._stable

    def extents(self) -> Iterator[tuple[int, int]]:
        """See Storage."""
        yield 0, self.size

    def close(self) -> None:
        """See Storage."""


class SimulatedDisk(BarrierDisk):
    """A BarrierDisk whose queue moves only when told to; `seed` decides what a crash destroys."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.storage = SimulatedStorage(size, random.Random(seed))
        super().__init__(self.storage, "simulated disk")

    @property
    def queued(self) -> int:
        """Operations that wait, syncs included."""
        return len(self._queue)

    def work(self) -> bool:
        """Do the oldest queued operation; False when there is none."""
        if not self._queue or self._failure is not None:
            return False
        self._work()
        return True

    def drain(self) -> None:
        """Do everything that is queued. Raises DiskFailure."""
        while self.work():
            pass
        self.check()

    def crash(self) -> None:
        """Power fails: the queue is gone, and of what was not synced some sectors too. The disk can be used again."""
        self._queue.clear()
        self._queued_bytes = 0
        self._marks.clear()
        self._unsynced = True
        self._failure = None
        self.storage.crash()

    def close(self) -> None:
        """Nothing to release."""
