# SPDX-License-Identifier: GPL-2.0-or-later
"""`VirtioBlk`: block device (virtio 1.2, section 5.2).

A request is one chain: a 16-byte header (le32 type, le32 reserved, le64 sector), data, and a status byte at the very
end of the writable part; where descriptors begin and end means nothing (2.7.4.1). Requests are completed before the
notification returns, so there is never one in flight and nothing of them in the state.

| type                  | data       | answer                                                                 |
|-----------------------|------------|------------------------------------------------------------------------|
| IN, OUT               | sectors    | IOERR when not whole sectors within the capacity                       |
| FLUSH                 |            | OK once the backend has flushed                                        |
| GET_ID                | 20 bytes   | the serial, padded with zeroes                                         |
| DISCARD, WRITE_ZEROES | 16 n bytes | n ranges (le64 sector, le32 sectors, le32 flags), checked all together |
| others                |            | UNSUPP                                                                 |
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from struct import Struct
from typing import Protocol

from devices.device import Line
from devices.memory import GuestMemory
from devices.virtio.mmio import VirtioDevice
from devices.virtio.queue import RingViolation, Segment, Virtqueue, length_of

SECTOR = 512
QUEUE_SIZE = 256
SEG_MAX = QUEUE_SIZE - 2  # A chain without its header and status.
ID_BYTES = 20

#: Work (`GuestMemory.work`) of one notification: 1 GiB, or so many descriptors and accesses. Chains that name the same
#: buffers again and again could ask for 256 times all of RAM; drivers keep far below, Linux below 320 MiB.
WORK_MAX = 1 << 18

#: Limits of one DISCARD or WRITE_ZEROES request (5.2.4); Linux splits what is larger.
RANGES_MAX = 32
RANGE_SECTORS_MAX = 1 << 21


class Feature(IntEnum):
    """Feature bits (5.2.3)."""

    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class RequestType(IntEnum):
    """Types (5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


S_OK = b"\0"
S_IOERR = b"\1"
S_UNSUPP = b"\2"

F_UNMAP = 1  # flag of a WRITE_ZEROES range

HEADER = Struct("<IIQ")
RANGE = Struct("<QII")
#: The configuration space, in order; each of the reserved bytes between them belongs to none (5.2.4).
CONFIG_FIELDS = (
    *("capacity", "size_max", "seg_max", "geometry.cylinders", "geometry.heads", "geometry.sectors", "blk_size"),
    *("topology.physical_block_exp", "topology.alignment_offset", "topology.min_io_size", "topology.opt_io_size"),
    *("writeback", "unused0", "num_queues"),
    *("max_discard_sectors", "max_discard_seg", "discard_sector_alignment"),
    *("max_write_zeroes_sectors", "max_write_zeroes_seg", "write_zeroes_may_unmap"),
)
CONFIG = Struct("<QIIHBBIBBHIBBHIIIIIB3x")

Answer = tuple[bytes, int]  # status byte, bytes of data written


class BlockIOError(Exception):
    """Raised by a backend: this request shall fail in the guest with IOERR."""


class BlockBackend(Protocol):
    """A disk. Offsets and lengths are bytes, multiples of 512 and within the capacity.

    BlockIOError fails the request; any other exception is not the guest's business and passes through.
    """

    @property
    def capacity(self) -> int:
        """Bytes, a multiple of 512."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""

    def write(self, offset: int, data: bytes) -> None:
        """Writes all of `data`."""

    def flush(self) -> None:
        """What was written before is durable, as far as this replica is concerned."""

    def discard(self, offset: int, length: int) -> None:
        """The range is no longer needed; what it reads as afterwards must be the same on both replicas."""

    def zero(self, offset: int, length: int) -> None:
        """The range reads as zeroes."""


class VirtioBlk(VirtioDevice):
    """One disk with one queue."""

    device_id = 2
    kind = "blk"

    def __init__(
        self,
        memory: GuestMemory,
        line: Line,
        violation: Callable[[str], None],
        backend: BlockBackend,
        serial: str = "",
        read_only: bool = False,
    ) -> None:
        """`serial`: at most 20 bytes, what GET_ID answers."""
        sectors = backend.capacity // SECTOR
        limits = (RANGE_SECTORS_MAX, RANGES_MAX, 1, RANGE_SECTORS_MAX, RANGES_MAX, 1)
        features = Feature.SEG_MAX | Feature.BLK_SIZE | Feature.FLUSH
        features |= Feature.RO if read_only else Feature.DISCARD | Feature.WRITE_ZEROES
        super().__init__(
            memory,
            line,
            violation,
            features=int(features),
            queue_sizes=[QUEUE_SIZE],
            config=CONFIG.pack(sectors, 0, SEG_MAX, 0, 0, 0, SECTOR, 0, 0, 0, 0, 0, 0, 1, *limits),
        )
        self._backend = backend
        self._sectors = sectors
        self._serial = serial.encode()[:ID_BYTES].ljust(ID_BYTES, b"\0")
        self._read_only = read_only
        self._handlers: dict[int, Callable[[int, list[Segment], list[Segment]], Answer]] = {
            RequestType.IN: self._in,
            RequestType.OUT: self._out,
            RequestType.FLUSH: self._flush,
            RequestType.GET_ID: self._get_id,
            RequestType.DISCARD: self._discard,
            RequestType.WRITE_ZEROES: self._write_zeroes,
        }

    def serve(self, index: int, queue: Virtqueue) -> None:
        """Completes every request that waits, with at most one interrupt."""
        memory = self.memory
        work_max = memory.work + WORK_MAX
        for _ in range(queue.available()):
            head, readable, writable = queue.pop()
            queue.push(head, self._request(readable, writable))
            if memory.work > work_max:
                raise RingViolation("requests for more than 1 GiB at once")
        if queue.flush():
            self.interrupt()

    def _request(self, readable: list[Segment], writable: list[Segment]) -> int:
        """Does one request; returns the length for the used ring: leading bytes certainly written (2.7.8.2)."""
        kind, sector = self._header(readable)
        if not writable:
            raise RingViolation("a request without a status byte")
        offset, length = writable.pop()
        if length > 1:
            writable.append((offset, length - 1))
        handler = self._handlers.get(kind)
        try:
            status, written = handler(sector, readable, writable) if handler else (S_UNSUPP, 0)
        except BlockIOError:
            status, written = S_IOERR, 0
        self.memory.store(offset + length - 1, status)
        return written + 1 if written == length_of(writable) else written

    def _header(self, readable: list[Segment]) -> tuple[int, int]:
        """Takes the header off `readable`; returns type and sector."""
        if readable and readable[0][1] == HEADER.size:
            kind, _, sector = HEADER.unpack_from(self.memory.buffer, readable.pop(0)[0])
            return kind, sector
        header = b""
        while len(header) < HEADER.size:
            if not readable:
                raise RingViolation(f"a request header of {len(header)} bytes")
            offset, length = readable.pop(0)
            take = min(length, HEADER.size - len(header))
            header += self.memory.fetch(offset, take)
            if take < length:
                readable.insert(0, (offset + take, length - take))
        kind, _, sector = HEADER.unpack(header)
        return kind, sector

    def _bad_range(self, sector: int, length: int) -> bool:
        return bool(length % SECTOR) or sector + length // SECTOR > self._sectors

    def _in(self, sector: int, readable: list[Segment], writable: list[Segment]) -> Answer:
        length = writable[0][1] if len(writable) == 1 else length_of(writable)
        if self._bad_range(sector, length):
            return S_IOERR, 0
        data = self._backend.read(sector * SECTOR, length)
        assert len(data) == length, f"backend returned {len(data)} bytes of {length}"
        if len(writable) == 1:
            self.memory.store(writable[0][0], data)
        else:
            self.queues[0].scatter(writable, data)
        return S_OK, length

    def _out(self, sector: int, readable: list[Segment], writable: list[Segment]) -> Answer:
        if self._read_only or self._bad_range(sector, length_of(readable)):
            return S_IOERR, 0
        self._backend.write(sector * SECTOR, self.queues[0].gather(readable))
        return S_OK, 0

    def _flush(self, sector: int, readable: list[Segment], writable: list[Segment]) -> Answer:
        self._backend.flush()
        return S_OK, 0

    def _get_id(self, sector: int, readable: list[Segment], writable: list[Segment]) -> Answer:
        return S_OK, self.queues[0].scatter(writable, self._serial)

    def _ranges(self, readable: list[Segment], flags_known: int) -> tuple[bytes, list[tuple[int, int]]]:
        """(status, [(byte offset, byte length)]) of a DISCARD or WRITE_ZEROES request (5.2.6.2)."""
        length = length_of(readable)
        if self._read_only or not length or length % RANGE.size or length > RANGE.size * RANGES_MAX:
            return S_IOERR, []
        ranges = list(RANGE.iter_unpack(self.queues[0].gather(readable)))
        if any(flags & ~flags_known for _, _, flags in ranges):
            return S_UNSUPP, []
        if any(count > RANGE_SECTORS_MAX or sector + count > self._sectors for sector, count, _ in ranges):
            return S_IOERR, []
        found = [(sector * SECTOR, count * SECTOR) for sector, count, _ in ranges if count]
        self.memory.work += sum(1 + (length >> 16) for _, length in found)
        return S_OK, found

    def _discard(self, sector: int, readable: list[Segment], writable: list[Segment]) -> Answer:
        status, ranges = self._ranges(readable, 0)
        for offset, length in ranges:
            self._backend.discard(offset, length)
        return status, 0

    def _write_zeroes(self, sector: int, readable: list[Segment], writable: list[Segment]) -> Answer:
        status, ranges = self._ranges(readable, F_UNMAP)
        for offset, length in ranges:
            self._backend.zero(offset, length)
        return status, 0
