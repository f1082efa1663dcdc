# SPDX-License-Identifier: GPL-2.0-or-later
"""A side's disk as the simulation sees it: `SimulatedStorage` outlives processes, and changes are counted throughout.

    submitted   changes that the guest has made, in the whole history (part of the tracked machine's saved state)
    flushed     those of them that were made before the guest's last flush (saved, too)
    applied     changes that have reached this side's storage, in order
    stable      changes that a sync has made durable

So whether a durable output may leave is checked against what the storage really holds, not against what the disk says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from ftvm.disk.operation import Operation
from ftvm.disk.simulated import SimulatedDisk, SimulatedStorage
from ftvm.disk.storage import SECTOR

DISK_BYTES: Final = 512 << 10


class CountingStorage(SimulatedStorage):
    """Storage of one side; outlives its processes."""

    def __init__(self, size: int, chance: random.Random) -> None:
        super().__init__(size, chance)
        self.applied = 0
        self.stable = 0

    def write(self, offset: int, data: bytes) -> None:
        """See Storage."""
        super().write(offset, data)
        self.applied += 1

    def sync(self) -> None:
        """See Storage."""
        super().sync()
        self.stable = self.applied

    def rebase(self, changes: int) -> None:
        """What was copied in stands for so many changes of the history."""
        self.applied = changes


class SideDisk(SimulatedDisk):
    """One process's view of its side's storage. `schedule` is called when a sync waits to be worked off."""

    def __init__(self, storage: CountingStorage, schedule: Callable[[], None]) -> None:
        super().__init__(SECTOR)
        self.storage: CountingStorage = storage
        self._storage = storage  # in place of the one of its own
        self.submitted = 0
        self.flushed = 0
        self.copying = False
        self._schedule = schedule

    def flush(self) -> None:
        """See BarrierDisk."""
        self.flushed = self.submitted
        super().flush()

    def sync(self) -> None:
        """See BarrierDisk; this flush is not the guest's."""
        flushed = self.flushed
        super().sync()
        self.flushed = flushed

    def _change(self, operation: Operation) -> None:
        if not self.copying:
            self.submitted += 1
        super()._change(operation)

    def _enqueue(self, operation: Operation) -> None:
        super()._enqueue(operation)
        self._schedule()

    def write_chunk(self, index: int, data: bytes) -> None:
        """A chunk of a checkpoint: no change of the guest's."""
        self.copying = True
        super().write_chunk(index, data)
        self.copying = False

    def clear(self) -> None:
        """The beginning of a checkpoint."""
        self.copying = True
        super().clear()
        self.copying = False

    def rebase(self, submitted: int, flushed: int) -> None:
        """The checkpoint that was taken over includes so many changes."""
        self.drain()
        self.submitted, self.flushed = submitted, flushed
        self.storage.rebase(submitted)

    def sector(self, number: int) -> bytes:
        """A sector's content, as the guest would read it."""
        return self.read(number * SECTOR, SECTOR)

    @property
    def sync_is_next(self) -> bool:
        """Whether the oldest queued operation is a sync, which takes its time."""
        return self._queue[0].kind == "sync"

    @property
    def failed(self) -> bool:
        """Whether the storage has failed."""
        return self._failure is not None

    def kill(self) -> None:
        """The process dies: what it had queued is gone, the storage keeps its cache."""
        self._queue.clear()
        self._marks.clear()
        self._queued_bytes = 0
