# SPDX-License-Identifier: GPL-2.0-or-later
"""`BarrierDisk`: a guest's disk whose FLUSH returns at once and is durable later, without ever losing order.

The guest must see its requests complete at a deterministic point, so FLUSH cannot wait for the storage. Instead it
becomes a barrier in a queue, which a worker follows:

    queue empty       reads and writes go straight to the storage
    sync pending      writes queue up behind it, so that nothing later is durable before it; reads see them laid over

What queues up may have been acknowledged already, so it also goes to a file that survives the process (`Spill`).
`durable(executed)` tells the output rule up to which entry all flushes have reached the storage. Subclasses say who
works the queue off: a thread (`image.DiskImage`) or a test (`simulated.SimulatedDisk`).

Storage errors become `DiskFailure`, also those that the worker meets: at the guest's next access, and in `check`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import xxhash

from ftvm.disk.errors import DiskFailure
from ftvm.disk.operation import Operation
from ftvm.disk.spill import Spill
from ftvm.disk.storage import Storage

CHUNK: Final = 64 << 10
QUEUE_BYTES_MAX: Final = 16 << 20
QUEUE_LENGTH_MAX: Final = 2048
_ZERO_CHUNK: Final = bytes(CHUNK)


class BarrierDisk:
    """Implements the block device's backend, and what the pair needs of a disk. For one thread beside the worker."""

    def __init__(self, storage: Storage, name: str) -> None:
        """`name` is told with a failure."""
        self._storage = storage
        self._name = name
        self._changed = threading.Condition()
        self._queue: deque[Operation] = deque()
        self._queued_bytes = 0
        self._marks: deque[int] = deque()  # for each pending sync: the last entry that is surely before it
        self._noted = 0
        self._unsynced = True  # an earlier owner of the storage may have been killed before its sync
        self._failure: DiskFailure | None = None
        self._dirty: set[int] | None = None
        self._spill: Spill | None = None
        self.before_change: Callable[[int, int], None] | None = None
        """Hears of the first and the last chunk of each change, before it is made (ftvm/chunk_snapshot.py)."""

    # -- the guest's accesses -------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Bytes."""
        return self._storage.size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        self.check()
        try:
            return self._read(offset, length)
        except OSError as error:
            raise self._fail(error) from error

    def _read(self, offset: int, length: int) -> bytes:
        over = self._overlapping(offset, length) if self._queue else ()
        data = self._storage.read(offset, length)
        return _lay_over(data, offset, over) if over else data

    def write(self, offset: int, data: bytes) -> None:
        """All of `data`."""
        self._change(Operation("write", offset, len(data), data))

    def zero(self, offset: int, length: int) -> None:
        """The range reads as zeroes."""
        self._change(Operation("zero", offset, length))

    def discard(self, offset: int, length: int) -> None:
        """The range reads as zeroes, on every replica, and takes no room where that is possible."""
        self._change(Operation("discard", offset, length))

    def flush(self) -> None:
        """What was written before will be durable before anything written later; `durable` tells when it is."""
        self.check()
        if self._unsynced:
            self._unsynced = False
            self._marks.append(self._noted)
            self._enqueue(Operation("sync"))

    def _change(self, operation: Operation) -> None:
        self.check()
        self._unsynced = True
        if operation.length:
            first, last = operation.offset // CHUNK, (operation.offset + operation.length - 1) // CHUNK
            if self.before_change is not None:
                self.before_change(first, last)
            if self._dirty is not None:
                self._dirty.update(range(first, last + 1))
        if self._queue:
            self._enqueue(operation)
        else:
            self._direct(operation)

    def _direct(self, operation: Operation) -> None:
        try:
            if self._spill is not None:
                self._spill.clear()
            self._apply(operation)
        except OSError as error:
            raise self._fail(error) from error

    def _overlapping(self, offset: int, length: int) -> tuple[Operation, ...]:
        end = offset + length
        with self._changed:
            return tuple(
                waiting
                for waiting in self._queue
                if waiting.offset < end and offset < waiting.offset + waiting.length and waiting.kind != "sync"
            )

    # -- the queue ------------------------------------------------------------------------------------------------

    def _enqueue(self, operation: Operation) -> None:
        if self._queued_bytes > QUEUE_BYTES_MAX or len(self._queue) > QUEUE_LENGTH_MAX:
            self.drain()
        if self._spill is not None:
            self._keep(self._spill, operation)
        with self._changed:
            self._queue.append(operation)
            self._queued_bytes += len(operation.data)
            self._changed.notify_all()

    def _keep(self, spill: Spill, operation: Operation) -> None:
        try:
            if spill.full:
                self.drain()
                spill.clear()
            spill.append(operation)
        except OSError as error:
            raise self._fail(error) from error

    def _work(self) -> bool:
        """Do the oldest operation; True when a sync became durable. The queue is not empty. Never raises."""
        operation = self._queue[0]
        try:
            self._apply(operation)
        except Exception as error:  # also our own bug: a worker that is gone must not leave `drain` waiting
            self._fail(error)
            with self._changed:
                self._changed.notify_all()
            return True
        with self._changed:
            self._queue.popleft()
            self._queued_bytes -= len(operation.data)
            if operation.kind == "sync":
                self._marks.popleft()
            self._changed.notify_all()
        return operation.kind == "sync"

    def _apply(self, operation: Operation) -> None:
        if operation.kind == "write":
            self._storage.write(operation.offset, operation.data)
        elif operation.kind == "sync":
            self._storage.sync()
        elif operation.kind == "zero":
            self._storage.zero(operation.offset, operation.length)
        else:
            self._storage.discard(operation.offset, operation.length)

    def _fail(self, error: Exception) -> DiskFailure:
        if self._failure is None:
            self._failure = DiskFailure(f"this side's disk failed: {self._name}: {error}")
        return self._failure

    def check(self) -> None:
        """Raise DiskFailure when the storage has failed."""
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """Wait until nothing is queued. Raises DiskFailure."""
        raise NotImplementedError

    # -- durability -----------------------------------------------------------------------------------------------

    def durable(self, executed: int) -> int:
        """Every flush in entries up to the result has reached the storage; `executed` is the last whole entry."""
        self._noted = max(self._noted, executed)
        try:
            return min(executed, self._marks[0])
        except IndexError:
            return executed

    def sync(self) -> None:
        """Everything written so far is durable when this returns. Raises DiskFailure."""
        self.flush()
        self.drain()
        self.check()

    # -- copies for a joiner --------------------------------------------------------------------------------------

    def start_tracking(self) -> None:
        """Remember from here on which chunks of 64 KiB change."""
        self._dirty = set()

    def take_dirty(self) -> set[int]:
        """Chunks that changed since tracking started or the last call."""
        dirty, self._dirty = self._dirty or set(), set() if self._dirty is not None else None
        return dirty

    def stop_tracking(self) -> None:
        """Changes are of no interest any more."""
        self._dirty = None

    def data_chunks(self) -> list[int]:
        """Chunks that may hold something other than zeroes."""
        self.drain()
        chunks: dict[int, None] = {}
        try:
            for start, end in self._storage.extents():
                chunks.update(dict.fromkeys(range(start // CHUNK, (end - 1) // CHUNK + 1)))
        except OSError as error:
            raise self._fail(error) from error
        return list(chunks)

    def read_chunk(self, index: int) -> bytes:
        """One chunk; the last one may be short."""
        offset = index * CHUNK
        return self.read(offset, min(CHUNK, self.capacity - offset))

    def peek_chunk(self, index: int) -> bytes:
        """The same for a bystander, in any thread, of a chunk that nobody is changing; OSError, which is only its."""
        offset = index * CHUNK
        return self._read(offset, min(CHUNK, self.capacity - offset))

    def write_chunk(self, index: int, data: bytes) -> None:
        """The inverse of `read_chunk`; keeps the image sparse. ValueError when it does not fit."""
        offset = index * CHUNK
        if not 0 <= offset < self.capacity or len(data) != min(CHUNK, self.capacity - offset):
            raise ValueError(f"chunk {index} of {len(data)} bytes does not fit a disk of {self.capacity} bytes")
        if data == _ZERO_CHUNK[: len(data)]:
            self.discard(offset, len(data))
        else:
            self.write(offset, data)

    def clear(self) -> None:
        """The whole disk reads as zeroes."""
        self.discard(0, self.capacity)

    def digest(self) -> int:
        """The contents in 64 bits, the same for a hole and for zeroes written there. Reads the whole image."""
        total = xxhash.xxh3_64()
        for chunk in self.data_chunks():
            data = self.read_chunk(chunk)
            if data != _ZERO_CHUNK[: len(data)]:
                total.update(chunk.to_bytes(8, "little") + xxhash.xxh3_128_digest(data))
        return total.intdigest()

    def close(self) -> None:
        """Let the worker finish, and release the storage. Raises nothing: `sync` before tells of failures."""
        raise NotImplementedError


def _lay_over(data: bytes, offset: int, changes: tuple[Operation, ...]) -> bytes:
    """What `data`, read at `offset`, is once `changes` are done in order."""
    result = bytearray(data)
    for change in changes:
        start, end = max(offset, change.offset), min(offset + len(data), change.offset + change.length)
        content = change.data[start - change.offset : end - change.offset] if change.data else bytes(end - start)
        result[start - offset : end - offset] = content
    return bytes(result)
