# SPDX-License-Identifier: GPL-2.0-or-later
"""A checkpoint on its way to a joiner: disks and RAM while the guest runs, then the machine at one epoch boundary.

    precopy   rounds: every chunk of every disk that holds something and every page of RAM, then what was written
              meanwhile, and again, until little is left. RAM is read through loose snapshots (`ftvm.ram_snapshot`),
              so a round costs the guest a flush of its TLB. After ROUNDS_MAX rounds a guest that writes to its disks
              too fast is slowed (`holds_guest`): it may write to as many chunks as a snapshot may copy, spread over
              the round; after twice as many it waits for the round to end
    snapshot  at an epoch boundary N: the contents of the chunks that are still dirty and the machine's state without
              RAM are copied into memory, and an exact snapshot of the pages written in the last round begins. This
              pauses the guest; the pause is measured, and depends neither on RAM's size nor on how much of it changes
    tail      all that is sent while the guest runs on: pages that it writes before they went are copied first
              (`copies_wait`: so many that it is to be slowed); entries N+1, N+2, ... follow in the same stream

What a guest changes faster than it can be sent stays a large last round, never a long pause. Pieces are compressed. The
joiner grants credit (`logging_channel.state_transfer`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import lz4.block
import msgpack

from ftvm.machine import Sections
from ftvm.pair.ram_feed import Feed, Snapshot, decode_pages
from ftvm.ram_snapshot import Pages
from ftvm.scratch_disk import CHUNK
from logging_channel.errors import ChannelError
from logging_channel.messages import StateBegin, StateChunk, StateCredit, StateEnd
from logging_channel.state_transfer import StateReceiver, StateSender

PIECE: Final = 1 << 20  # bytes of a section in one chunk message
ROUNDS_MAX: Final = 6
FEW_CHUNKS: Final = 64  # 4 MiB: copied while the guest waits
MANY_CHUNKS: Final = 256  # 16 MiB: the same, when the guest writes faster than its disks are copied
RAM_ROUNDS_MAX: Final = 4
FEW_PAGES: Final = 2048  # 8 MiB: sent in the tail
COPIES_MAX: Final = 16384  # 64 MiB of pages that the guest wrote before they were sent
STATE_MAX: Final = 4 << 30


class TransferDisk(Protocol):
    """What a transfer needs of a disk image."""

    @property
    def capacity(self) -> int: ...

    def start_tracking(self) -> None: ...

    def stop_tracking(self) -> None: ...

    def take_dirty(self) -> set[int]: ...

    def data_chunks(self) -> list[int]: ...

    def read_chunk(self, index: int) -> bytes: ...

    def write_chunk(self, index: int, data: bytes) -> None: ...

    def clear(self) -> None: ...


class TransferSeries(Protocol):
    """See ftvm.ram_snapshot.SnapshotSeries."""

    def begin(self, *, changed: bool = False, exact: bool = True) -> Snapshot: ...

    def changed(self) -> int: ...

    def close(self) -> None: ...


class TransferMachine(Protocol):
    """What a transfer needs of a machine."""

    def snapshots(self) -> TransferSeries: ...

    def save_state(self) -> Sections: ...

    def clear_ram(self) -> None: ...

    def put_pages(self, pages: Pages) -> None: ...


class PageFeed(Protocol):
    """See ftvm.pair.ram_feed.Feed."""

    @property
    def exhausted(self) -> bool: ...

    def begin(self, snapshot: Snapshot, zeros: bool) -> None: ...

    def poll(self) -> bytes | None: ...

    def close(self) -> None: ...


Piece = tuple[str, int, bytes]


class StateSource:
    """The primary's half. `next()` yields messages to send, as credit allows."""

    def __init__(self, disks: Sequence[TransferDisk], machine: TransferMachine, feed: PageFeed | None = None) -> None:
        self.snapshot_taken = False
        self.round = 0
        self._disks = disks
        self._machine = machine
        self._feed = feed or Feed()
        self._series: TransferSeries | None = None
        self._pages: Snapshot | None = None  # that the feed reads from
        self._ram_rounds = 0
        self._ram_size = 0  # pages of the latest round
        self._round_size = 0  # chunks of this round
        self._fresh: dict[tuple[int, int], None] = {}  # some of the chunks written to in this round
        self._begun = False
        self._work: deque[tuple[int, int]] = deque()
        self._last: deque[tuple[int, int, bytes]] = deque()  # chunks of the snapshot
        self._tail: deque[Piece] = deque()
        self._piece: Piece | None = None  # goes next
        self._sender = StateSender(iter(self._take, None))
        for disk in disks:
            disk.start_tracking()
        self._work.extend((unit, chunk) for unit, disk in enumerate(disks) for chunk in disk.data_chunks())

    @property
    def finished(self) -> bool:
        """Everything was handed out."""
        return self._sender.finished

    @property
    def sent_bytes(self) -> int:
        """Bytes of chunks handed out so far."""
        return self._sender.sent_bytes

    @property
    def pages_left(self) -> int:
        """Pages that this round has not read yet."""
        return 0 if self._pages is None else self._pages.left

    @property
    def copies_wait(self) -> bool:
        """Copies of pages that the guest wrote before they were sent fill the memory that they may."""
        return self._pages is not None and self._pages.kept > COPIES_MAX

    def grant(self, credit: StateCredit) -> None:
        """The joiner can take more."""
        self._sender.grant(credit)

    def ready_for_snapshot(self) -> bool:
        """At an epoch boundary: True when precopy has done what it can, and `snapshot` is to be called at once."""
        if self.snapshot_taken or not self._begun:
            return False
        if self._series is None:
            self._series = self._machine.snapshots()
            self._read_ram(changed=False)
        if self._work or not self._feed.exhausted:
            return False
        self._work.extend(dict.fromkeys([*self._fresh, *self._dirty()]))
        self._fresh.clear()
        self.round += 1
        self._round_size = len(self._work)
        little = self._little_ram(self._series.changed())
        if not little:
            self._read_ram(changed=True)
        return little and self._round_size <= self._snapshot_max

    def _little_ram(self, changed: int) -> bool:
        """Another round over RAM would not leave (much) less than this one has."""
        return changed <= FEW_PAGES or self._ram_rounds >= RAM_ROUNDS_MAX or 2 * changed > self._ram_size

    def _read_ram(self, changed: bool, exact: bool = False) -> None:
        assert self._series is not None
        self._pages = self._series.begin(changed=changed, exact=exact)
        self._ram_rounds += 1
        self._ram_size = self._pages.left
        self._feed.begin(self._pages, zeros=changed)

    @property
    def _snapshot_max(self) -> int:
        return FEW_CHUNKS if self.round < ROUNDS_MAX else MANY_CHUNKS

    def holds_guest(self) -> bool:
        """The guest has written more than the joiner can keep up with: it has to wait for more of the round to go."""
        if self.snapshot_taken or self.round < ROUNDS_MAX or not self._round_size:
            return False
        if self.round >= 2 * ROUNDS_MAX:
            return True
        self._fresh.update(dict.fromkeys(self._dirty()))
        sent = self._round_size - len(self._work)
        return len(self._fresh) * self._round_size > MANY_CHUNKS // 2 * sent

    def snapshot(self) -> None:
        """The machine as it is now, and the chunks that are still dirty; the guest may go on afterwards."""
        last = dict.fromkeys([*self._work, *self._dirty()])
        assert len(last) <= self._snapshot_max, "the guest has run since it was ready for the snapshot"
        for unit, chunk in last:
            self._last.append((unit, chunk, self._disks[unit].read_chunk(chunk)))
        self._work.clear()
        self._follow_no_disk()
        self._read_ram(changed=True, exact=True)
        for name, content in self._machine.save_state():
            for offset in range(0, max(1, len(content)), PIECE):
                self._tail.append(("section/" + name, offset, content[offset : offset + PIECE]))
        self.snapshot_taken = True

    def next(self) -> StateBegin | StateChunk | StateEnd | None:
        """The next message, or None when there is nothing to send now. ChannelError: this transfer has failed."""
        if not self._begun:
            self._begun = True
            sizes = [disk.capacity for disk in self._disks]
            return StateBegin(sum(sizes), msgpack.packb(sizes))
        self._piece = self._piece or self._make()
        if self._piece is None and not (self.snapshot_taken and self._feed.exhausted):
            return None
        return self._sender.next()

    def close(self) -> None:
        """No more changes of disks and RAM are of interest."""
        self._follow_no_disk()
        self._feed.close()
        if self._series is not None:
            self._series.close()
        self._series = self._pages = None

    def _follow_no_disk(self) -> None:
        for disk in self._disks:
            disk.stop_tracking()

    def _dirty(self) -> list[tuple[int, int]]:
        return [(unit, chunk) for unit, disk in enumerate(self._disks) for chunk in sorted(disk.take_dirty())]

    def _take(self) -> Piece | None:
        piece, self._piece = self._piece, None
        return piece

    def _make(self) -> Piece | None:
        """Disks, then RAM, then the machine's state; None when nothing is ready."""
        if self._work:
            unit, chunk = self._work.popleft()
            return _disk_piece(unit, chunk, self._disks[unit].read_chunk(chunk))
        if self._last:
            return _disk_piece(*self._last.popleft())
        if (pages := self._feed.poll()) is not None:
            return ("ram", 0, pages)
        return self._tail.popleft() if self._tail and self._feed.exhausted else None


def _disk_piece(unit: int, chunk: int, content: bytes) -> Piece:
    return f"disk/{unit}", chunk, lz4.block.compress(content)


class StateSink:
    """The joiner's half: writes disks and RAM as pieces come, collects the machine's sections."""

    def __init__(self, begin: StateBegin, disks: Sequence[TransferDisk], machine: TransferMachine) -> None:
        """A checkpoint follows; disks and RAM are emptied. ChannelError when the disks are not alike."""
        self._disks = disks
        self._machine = machine
        self._parts: dict[str, bytearray] = {}
        self._receiver = StateReceiver(begin)
        sizes = [disk.capacity for disk in disks]
        try:
            announced = msgpack.unpackb(begin.manifest)
        except Exception as error:
            raise ChannelError(f"the checkpoint's manifest is not valid msgpack: {error}") from None
        if announced != sizes:
            raise ChannelError(f"the primary's disks have {announced} bytes, this side's {sizes}: same machine file?")
        for disk in disks:
            disk.clear()
        machine.clear_ram()

    @property
    def received_bytes(self) -> int:
        """Bytes of chunks that have come."""
        return self._receiver.received_bytes

    def first_credit(self) -> StateCredit:
        """The credit that opens the transfer."""
        return self._receiver.first_credit()

    def chunk(self, chunk: StateChunk) -> StateCredit | None:
        """Take one chunk; returns credit to be sent back now and then."""
        self._receiver.accept(chunk)
        kind, _, rest = chunk.name.partition("/")
        if kind == "disk" and rest.isdecimal() and int(rest) < len(self._disks):
            self._write(self._disks[int(rest)], chunk)
        elif kind == "section":
            self._append(rest, chunk)
        elif chunk.name == "ram":
            self._put(chunk.data)
        else:
            raise ChannelError(f"the checkpoint has a part called {chunk.name!r} that this side does not know")
        return self._receiver.consumed(len(chunk.data))

    def end(self, end: StateEnd) -> Sections:
        """The checkpoint is complete; returns the sections of the machine's state, whose RAM is in its place."""
        self._receiver.end(end)
        return [(name, bytes(part)) for name, part in self._parts.items()]

    def _write(self, disk: TransferDisk, chunk: StateChunk) -> None:
        try:
            if (size := int.from_bytes(chunk.data[:4], "little")) > CHUNK:  # before memory for it is asked for
                raise ValueError(f"it says that it has {size} bytes")
            content = lz4.block.decompress(chunk.data)
        except Exception as error:
            raise ChannelError(f"chunk {chunk.offset} of {chunk.name} cannot be decompressed: {error}") from None
        try:
            disk.write_chunk(chunk.offset, content)
        except ValueError as error:
            raise ChannelError(f"a chunk of {chunk.name} does not fit: {error}") from None

    def _put(self, data: bytes) -> None:
        pages = decode_pages(data)
        try:
            self._machine.put_pages(pages)
        except ValueError as error:
            raise ChannelError(f"a piece of RAM does not fit: {error}") from None

    def _append(self, name: str, chunk: StateChunk) -> None:
        part = self._parts.setdefault(name, bytearray())
        if chunk.offset != len(part) or len(part) + len(chunk.data) > STATE_MAX:
            raise ChannelError(f"a piece of section {name!r} at {chunk.offset} does not follow {len(part)}")
        part += chunk.data
