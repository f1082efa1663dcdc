# SPDX-License-Identifier: GPL-2.0-or-later
"""A checkpoint on its way to a joiner: disks while the guest runs, then the machine at one epoch boundary.

    precopy   every chunk of every disk that holds something, then what was written meanwhile, and again, until little
              is left; the guest runs on. After ROUNDS_MAX rounds it is slowed (`holds_guest`): it may write to as many
              chunks as a snapshot may copy, spread over the round; after twice as many it waits for the round to end
    snapshot  at an epoch boundary N: the machine's sections and the contents of the chunks that are still dirty are
              copied into memory (this pauses the guest; the pause is measured)
    tail      those bytes are sent while the guest runs on; entries N+1, N+2, ... follow in the same stream

Disk chunks are compressed one by one. The joiner grants credit (`logging_channel.state_transfer`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import lz4.block
import msgpack

from ftvm.machine import Sections
from ftvm.scratch_disk import CHUNK
from logging_channel.errors import ChannelError
from logging_channel.messages import StateBegin, StateChunk, StateCredit, StateEnd
from logging_channel.state_transfer import StateReceiver, StateSender

PIECE: Final = 1 << 20  # bytes of a section in one chunk message
ROUNDS_MAX: Final = 6
FEW_CHUNKS: Final = 64  # 4 MiB: copied while the guest waits
MANY_CHUNKS: Final = 256  # 16 MiB: the same, when the guest writes faster than its disks are copied
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


Piece = tuple[str, int, bytes]


class StateSource:
    """The primary's half. `next()` yields messages to send, as credit allows."""

    def __init__(self, disks: Sequence[TransferDisk]) -> None:
        self.snapshot_taken = False
        self._disks = disks
        self._round = 0
        self._round_size = 0  # chunks of this round
        self._fresh: dict[tuple[int, int], None] = {}  # some of the chunks written to in this round
        self._begun = False
        self._work: deque[tuple[int, int]] = deque()
        self._tail: deque[Piece] = deque()
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

    def grant(self, credit: StateCredit) -> None:
        """The joiner can take more."""
        self._sender.grant(credit)

    def ready_for_snapshot(self) -> bool:
        """Precopy has done what it can: call `snapshot` at this epoch boundary."""
        if self.snapshot_taken or self._work or not self._begun:
            return False
        self._work.extend(dict.fromkeys([*self._fresh, *self._dirty()]))
        self._fresh.clear()
        self._round += 1
        self._round_size = len(self._work)
        return self._round_size <= self._snapshot_max

    @property
    def _snapshot_max(self) -> int:
        return FEW_CHUNKS if self._round < ROUNDS_MAX else MANY_CHUNKS

    def holds_guest(self) -> bool:
        """The guest has written more than the joiner can keep up with: it has to wait for more of the round to go."""
        if self.snapshot_taken or self._round < ROUNDS_MAX:
            return False
        if self._round >= 2 * ROUNDS_MAX:
            return True
        self._fresh.update(dict.fromkeys(self._dirty()))
        sent = self._round_size - len(self._work)
        return len(self._fresh) * self._round_size > MANY_CHUNKS // 2 * sent

    def snapshot(self, save: Callable[[], Sections]) -> None:
        """Copy the machine and the chunks that are still dirty; the guest may go on afterwards."""
        last = dict.fromkeys([*self._work, *self._dirty()])
        assert len(last) <= self._snapshot_max, "the guest has run since it was ready for the snapshot"
        for unit, chunk in last:
            self._tail.append(self._disk_piece(unit, chunk))
        self._work.clear()
        self.close()
        for name, content in save():
            for offset in range(0, max(1, len(content)), PIECE):
                self._tail.append(("section/" + name, offset, content[offset : offset + PIECE]))
        self.snapshot_taken = True

    def next(self) -> StateBegin | StateChunk | StateEnd | None:
        """The next message, or None when there is nothing to send now."""
        if not self._begun:
            self._begun = True
            sizes = [disk.capacity for disk in self._disks]
            return StateBegin(sum(sizes), msgpack.packb(sizes))
        if not self._work and not self.snapshot_taken:
            return None
        return self._sender.next()

    def close(self) -> None:
        """No more changes of the disks are of interest."""
        for disk in self._disks:
            disk.stop_tracking()

    def _dirty(self) -> list[tuple[int, int]]:
        return [(unit, chunk) for unit, disk in enumerate(self._disks) for chunk in sorted(disk.take_dirty())]

    def _take(self) -> Piece | None:
        if self._work:
            return self._disk_piece(*self._work.popleft())
        return self._tail.popleft() if self._tail else None

    def _disk_piece(self, unit: int, chunk: int) -> Piece:
        return f"disk/{unit}", chunk, lz4.block.compress(self._disks[unit].read_chunk(chunk))


class StateSink:
    """The joiner's half: writes disks as chunks come, collects the machine's sections."""

    def __init__(self, begin: StateBegin, disks: Sequence[TransferDisk]) -> None:
        """A checkpoint follows; the disks are emptied. ChannelError when the disks are not alike."""
        self._disks = disks
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
        else:
            raise ChannelError(f"the checkpoint has a part called {chunk.name!r} that this side does not know")
        return self._receiver.consumed(len(chunk.data))

    def end(self, end: StateEnd) -> Sections:
        """The checkpoint is complete; returns the machine's sections."""
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

    def _append(self, name: str, chunk: StateChunk) -> None:
        part = self._parts.setdefault(name, bytearray())
        if chunk.offset != len(part) or len(part) + len(chunk.data) > STATE_MAX:
            raise ChannelError(f"a piece of section {name!r} at {chunk.offset} does not follow {len(part)}")
        part += chunk.data
