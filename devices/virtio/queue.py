# SPDX-License-Identifier: GPL-2.0-or-later
"""`Virtqueue`: the device's side of one split virtqueue (virtio 1.2, section 2.7).

| area       | at               | layout                                                         | section |
|------------|------------------|----------------------------------------------------------------|---------|
| descriptor | desc + 16 i      | le64 address, le32 length, le16 flags, le16 next               | 2.7.5   |
| available  | avail            | le16 flags, le16 idx, le16 ring[num], le16 used_event          | 2.7.6   |
| used       | used             | le16 flags, le16 idx, (le32 id, le32 len)[num], le16 avail_event | 2.7.8 |

The areas are checked once, when the queue starts, and then addressed by RAM offset. A chain is
(head, readable segments, writable segments), a segment (RAM offset, length), all checked to be RAM.

The device works in batches: `available` looks at the driver's index once, each chain is taken and pushed back, `flush`
publishes all of them with one write of the used index and says whether one interrupt is due. Nothing a driver
writes makes a batch touch more than num * (size_max + 1) descriptors: a chain is at most as long as the largest queue.

Notifications are suppressed both ways. `listen` says whether the device wants to hear of new buffers: always on queues
that carry requests, on receive queues only while input waits for buffers.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from devices.guest_error import GuestError
from devices.memory import Bytes, GuestMemory

DESCRIPTOR = Struct("<QIHH")
U16 = Struct("<H")
USED_ELEMENT = Struct("<II")

F_NEXT = 1
F_WRITE = 2
F_INDIRECT = 4

AVAIL_F_NO_INTERRUPT = 1
USED_F_NO_NOTIFY = 1

Segment = tuple[int, int]
Chain = tuple[int, list[Segment], list[Segment]]


class RingViolation(GuestError):
    """The driver put something on a ring that the specification forbids."""


def length_of(segments: Iterable[Segment]) -> int:
    """Bytes in `segments`."""
    return sum([length for _, length in segments])


class Virtqueue:
    """One queue; the transport sets `num`, `desc`, `avail` and `used` (guest addresses), then calls `start`."""

    __slots__ = (
        "_announced",
        "_avail_event",
        "_avail_idx",
        "_base",
        "_event_idx",
        "_indirect",
        "_last",
        "_listening",
        "_mask",
        "_memory",
        "_pushed",
        "_ram",
        "_ring",
        "_seen",
        "_size",
        "_table",
        "_used",
        "_used_event",
        "_used_idx",
        "avail",
        "desc",
        "num",
        "ready",
        "size_max",
        "used",
    )

    def __init__(self, memory: GuestMemory, size_max: int) -> None:
        """`size_max`: the largest size that the driver may choose, a power of two."""
        self._memory = memory
        self._ram = memory.buffer
        self._base = memory.base
        self._size = memory.size
        self.size_max = size_max
        self.reset()

    def reset(self) -> None:
        """Back to before any setup."""
        self.num = self.desc = self.avail = self.used = 0
        self.ready = False
        self._event_idx = self._indirect = False
        self._rewind()

    def _rewind(self) -> None:
        self._last: int = 0  # index of the next available chain
        self._seen: int = 0  # the driver's index when last looked at
        self._used_idx = 0
        self._announced = -1  # last value written to avail_event
        self._listening = True
        self._pushed = bytearray()  # used elements not yet published

    def negotiate(self, event_idx: bool, indirect: bool) -> None:
        """Which of VIRTIO_F_EVENT_IDX and VIRTIO_F_INDIRECT_DESC are in force."""
        self._event_idx = event_idx
        self._indirect = indirect

    def start(self) -> None:
        """Checks the setup and begins at index 0; RingViolation when a ring cannot lie there."""
        self._check()
        self._rewind()
        self._locate()
        self.ready = True

    def _check(self) -> None:
        num = self.num
        if not 0 < num <= self.size_max or num & (num - 1):
            raise RingViolation(f"queue size {num} is not a power of two up to {self.size_max}")
        for name, address, length, alignment in (
            ("descriptor table", self.desc, 16 * num, 16),
            ("available ring", self.avail, 6 + 2 * num, 2),
            ("used ring", self.used, 6 + 8 * num, 4),
        ):
            if address % alignment:
                raise RingViolation(f"{name} at {address:#x} is not aligned to {alignment} bytes")
            if not 0 <= address - self._base <= self._size - length:
                raise RingViolation(f"{name} of {length} bytes at {address:#x} is not in RAM")

    def _locate(self) -> None:
        num = self.num
        avail, self._used = self.avail - self._base, self.used - self._base
        self._mask = num - 1
        self._table = self.desc - self._base
        self._avail_idx = avail + 2
        self._ring = avail + 4
        self._used_event = avail + 4 + 2 * num
        self._avail_event = self._used + 4 + 8 * num

    def stop(self) -> None:
        """The driver takes the queue back."""
        self.ready = False
        self._pushed = bytearray()

    # Taking chains

    def available(self) -> int:
        """Number of chains that the driver has made available; RingViolation when more than the queue holds."""
        self._seen = U16.unpack_from(self._ram, self._avail_idx)[0]
        count = (self._seen - self._last) & 0xFFFF
        if count > self.num:
            raise RingViolation(f"available index is {count} ahead in a queue of {self.num}")
        return count

    def pop(self) -> Chain:
        """Takes the next chain; only as often as `available` allows."""
        last = self._last
        self._last = (last + 1) & 0xFFFF
        return self._walk(U16.unpack_from(self._ram, self._ring + 2 * (last & self._mask))[0])

    def peek(self, ahead: int) -> Chain:
        """The chain `ahead` places behind the next one, which stays where it is."""
        return self._walk(U16.unpack_from(self._ram, self._ring + 2 * (self._last + ahead & self._mask))[0])

    def advance(self) -> None:
        """Takes a chain that was peeked at."""
        self._last = (self._last + 1) & 0xFFFF

    def _walk(self, head: int) -> Chain:
        """Collects the segments of the chain at `head` (2.7.5, 2.7.5.3)."""
        ram, base, size = self._ram, self._base, self._size
        table, limit, index, total = self._table, self.num, head, 0
        readable: list[Segment] = []
        writable: list[Segment] = []
        for step in range(self.size_max + 1):
            if index >= limit:
                raise RingViolation(f"chain {head}: descriptor {index} in a table of {limit}")
            address, length, flags, index = DESCRIPTOR.unpack_from(ram, table + 16 * index)
            offset = address - base
            if length and (offset < 0 or offset + length > size):
                raise RingViolation(f"chain {head}: {length} bytes at {address:#x} are not in RAM")
            if flags & F_INDIRECT:
                self._check_indirect(head, length, flags, table)
                table, limit, index = offset, length // 16, 0
                continue
            if length:
                total += length
                if flags & F_WRITE:
                    writable.append((offset, length))
                elif writable:
                    raise RingViolation(f"chain {head}: a readable descriptor behind a writable one")
                else:
                    readable.append((offset, length))
            if not flags & F_NEXT:
                if total > size:
                    raise RingViolation(f"chain {head}: {total} bytes are more than RAM")
                self._memory.work += step + 1
                return head, readable, writable
        raise RingViolation(f"chain {head} has more than {self.size_max} descriptors or is a loop")

    def _check_indirect(self, head: int, length: int, flags: int, table: int) -> None:
        if not self._indirect:
            raise RingViolation(f"chain {head}: indirect descriptors were not negotiated")
        if flags & F_NEXT:
            raise RingViolation(f"chain {head}: an indirect descriptor has a next one")
        if table != self._table:
            raise RingViolation(f"chain {head}: an indirect descriptor within an indirect table")
        if not length or length % 16:
            raise RingViolation(f"chain {head}: an indirect table of {length} bytes")

    # Moving bytes

    def gather(self, segments: Iterable[Segment]) -> bytes:
        """The bytes of `segments`, in order."""
        fetch = self._memory.fetch
        return b"".join([fetch(offset, length) for offset, length in segments])

    def scatter(self, segments: Iterable[Segment], data: Bytes) -> int:
        """Stores as much of `data` as fits into `segments`, in order; returns how much."""
        view, done, total = memoryview(data), 0, len(data)
        for offset, length in segments:
            if done == total:
                break
            piece = view[done : done + length]
            self._memory.store(offset, piece)
            done += len(piece)
        return done

    # Giving chains back

    def push(self, head: int, written: int) -> None:
        """Gives chain `head` back with `written` bytes in it, published at the next `flush`."""
        self._pushed += USED_ELEMENT.pack(head, written)

    def flush(self) -> bool:
        """Publishes what was pushed (2.7.8.2); True when the driver wants an interrupt for it (2.7.7, 2.7.10)."""
        pushed, store = self._pushed, self._memory.store
        count = len(pushed) >> 3
        due = False
        if count:
            assert count <= self.num
            old = self._used_idx
            new = self._used_idx = (old + count) & 0xFFFF
            slot = old & self._mask
            room = (self.num - slot) << 3
            at = self._used + 4
            store(at + (slot << 3), pushed[:room])
            if len(pushed) > room:
                store(at, pushed[room:])
            store(self._used + 2, U16.pack(new))
            self._pushed = bytearray()
            due = self._interrupt_due(new, count)
        if self._event_idx and self._listening:
            self._announce()
        return due

    def _interrupt_due(self, new: int, count: int) -> bool:
        if self._event_idx:
            event = U16.unpack_from(self._ram, self._used_event)[0]
            return bool((new - event - 1) & 0xFFFF < count)
        return not U16.unpack_from(self._ram, self._avail_idx - 2)[0] & AVAIL_F_NO_INTERRUPT

    def listen(self, wanted: bool) -> None:
        """Whether the driver shall notify of the next buffers that it adds."""
        if self._event_idx:
            self._listening = wanted  # A stale avail_event is as good as none.
            if wanted:
                self._announce()
        elif wanted != self._listening:
            self._listening = wanted
            self._memory.store(self._used, U16.pack(0 if wanted else USED_F_NO_NOTIFY))

    def _announce(self) -> None:
        """Asks for a notification of the first buffer beyond those seen (2.7.10)."""
        if self._announced != self._seen:
            self._announced = self._seen
            self._memory.store(self._avail_event, U16.pack(self._seen))

    # State, between batches

    def save(self) -> list[int]:
        """The registers and indices; `negotiate` follows from the device's features."""
        assert not self._pushed
        setup = [self.num, self.desc, self.avail, self.used, int(self.ready)]
        return [*setup, self._last, self._seen, self._used_idx, self._announced, int(self._listening)]

    def restore(self, state: list[int]) -> None:
        """Takes over what `save` returned; RingViolation when a running queue's rings cannot lie there."""
        self.num, self.desc, self.avail, self.used, ready = state[:5]
        self._last, seen, self._used_idx, self._announced, listening = state[5:]
        self._seen = seen & 0xFFFF
        self.ready, self._listening = bool(ready), bool(listening)
        self._pushed = bytearray()
        if self.ready:
            self._check()
            self._locate()
