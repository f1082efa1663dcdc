# SPDX-License-Identifier: GPL-2.0-or-later
"""A small virtio driver in Python, for tests: it does to a device what a guest would, by registers and rings in RAM.

    host = Host()                                   # RAM, interrupt line, outputs, violations
    device = VirtioBlk(host.memory, host.line, host.violations.append, backend)
    driver = Driver(device, host)
    driver.start(queues=1)                          # feature negotiation, rings, DRIVER_OK
    request = driver.rings[0].submit([header, data], [1])
    driver.rings[0].kick()                          # notifies unless the device asked not to be
    driver.rings[0].collect()                       # {request: (written, [bytes of each writable buffer])}

The driver keeps its state in Python and looks into RAM only where a guest would, so it can be pointed from a device to
one restored from its state (`driver.device = twin`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from struct import Struct

from devices.device import Device
from devices.event import Output
from devices.memory import Bytes, GuestMemory
from devices.virtio.mmio import Feature, Register, Status
from devices.virtio.queue import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE, U16

BASE = 0x8000_0000
USED = Struct("<II")
RUNNING = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


class CheckedMemory(GuestMemory):
    """Asserts that whoever skips the checks by address stays within RAM."""

    def store(self, offset: int, data: Bytes) -> None:
        """Checked."""
        assert 0 <= offset <= offset + len(data) <= self.size, f"store of {len(data)} at {offset:#x}"
        super().store(offset, data)

    def fetch(self, offset: int, length: int) -> bytes:
        """Checked."""
        assert 0 <= offset <= offset + length <= self.size, f"fetch of {length} at {offset:#x}"
        return super().fetch(offset, length)


class Host:
    """What a device needs around it; everything that it does is kept for the test to look at."""

    def __init__(self, ram_size: int = 1 << 20) -> None:
        self.ram = bytearray(ram_size)
        self.dma: list[tuple[int, int]] = []
        self.memory = CheckedMemory(memoryview(self.ram), BASE, self._writes)
        self.level = False
        self.raised = 0
        self.outputs: list[Output] = []
        self.violations: list[str] = []
        self._top = BASE

    def _writes(self, address: int, length: int) -> None:
        self.dma.append((address, length))

    def line(self, level: bool) -> None:
        """The interrupt line; counts rising edges."""
        self.raised += level and not self.level
        self.level = level

    def emit(self, output: Output) -> None:
        """The sink of outputs."""
        self.outputs.append(output)

    def allocate(self, size: int, alignment: int = 16) -> int:
        """Address of `size` fresh bytes."""
        address = -(-self._top // alignment) * alignment
        if address + size > BASE + len(self.ram):
            raise MemoryError("the test's RAM is full")
        self._top = address + size
        return address

    def release(self) -> None:
        """Forgets all allocations; the driver starts anew."""
        self._top = BASE

    def poke(self, address: int, data: bytes) -> None:
        """The guest stores `data`."""
        self.ram[address - BASE : address - BASE + len(data)] = data

    def peek(self, address: int, size: int) -> bytes:
        """The guest loads `size` bytes."""
        return bytes(self.ram[address - BASE : address - BASE + size])

    def peek16(self, address: int) -> int:
        """The guest loads 16 bits."""
        return int(U16.unpack_from(self.ram, address - BASE)[0])


@dataclass
class Request:
    """Buffers of one chain: (address, length) each, and its descriptors."""

    writable: list[tuple[int, int]]
    descriptors: list[int]
    space: list[tuple[int, int]] = field(default_factory=list)


class Ring:
    """The driver's side of one split virtqueue."""

    def __init__(self, driver: Driver, index: int, num: int) -> None:
        self.driver, self.index, self.num = driver, index, num
        host = driver.host
        self.desc = host.allocate(16 * num, 16)
        self.avail = host.allocate(6 + 2 * num, 2)
        self.used = host.allocate(6 + 8 * num, 4)
        self.free = list(range(num - 1, -1, -1))
        self.pending: dict[int, Request] = {}
        self.avail_idx = self.used_idx = self.kicked_idx = 0
        self._spare: dict[int, list[int]] = {}

    def submit(self, readable: Sequence[bytes], writable: Sequence[int] = (), indirect: bool = False) -> int:
        """Makes one chain available: contents of readable buffers, lengths of writable ones. Returns its head."""
        request = Request([], [])
        buffers: list[tuple[int, int, int]] = []
        for data in readable:
            address = self._space(request, len(data))
            self.driver.host.poke(address, data)
            buffers.append((address, len(data), 0))
        for length in writable:
            address = self._space(request, length)
            request.writable.append((address, length))
            buffers.append((address, length, F_WRITE))
        head = self._put_indirect(request, buffers) if indirect else self._put(request, buffers)
        self.pending[head] = request
        self.offer(head)
        return head

    def _space(self, request: Request, size: int) -> int:
        spare = self._spare.get(size)
        address = spare.pop() if spare else self.driver.host.allocate(size)
        request.space.append((address, size))
        return address

    def _put(self, request: Request, buffers: list[tuple[int, int, int]]) -> int:
        indices = request.descriptors = [self.free.pop() for _ in buffers]
        for position, (address, length, flags) in enumerate(buffers):
            last = position == len(buffers) - 1
            following = 0 if last else indices[position + 1]
            self.describe(indices[position], address, length, flags | (0 if last else F_NEXT), following)
        return indices[0]

    def _put_indirect(self, request: Request, buffers: list[tuple[int, int, int]]) -> int:
        table = self._space(request, 16 * len(buffers))
        for position, (address, length, flags) in enumerate(buffers):
            more = F_NEXT if position < len(buffers) - 1 else 0
            entry = DESCRIPTOR.pack(address, length, flags | more, position + 1 if more else 0)
            self.driver.host.poke(table + 16 * position, entry)
        request.descriptors = [self.free.pop()]
        self.describe(request.descriptors[0], table, 16 * len(buffers), F_INDIRECT, 0)
        return request.descriptors[0]

    def describe(self, index: int, address: int, length: int, flags: int, following: int) -> None:
        """Writes one descriptor."""
        self.driver.host.poke(self.desc + 16 * index, DESCRIPTOR.pack(address, length, flags, following))

    def offer(self, head: int) -> None:
        """Puts `head` on the available ring."""
        self.driver.host.poke(self.avail + 4 + 2 * (self.avail_idx % self.num), U16.pack(head))
        self.avail_idx = (self.avail_idx + 1) & 0xFFFF
        self.driver.host.poke(self.avail + 2, U16.pack(self.avail_idx))

    def kick(self, force: bool = False) -> bool:
        """Notifies the device of what was submitted, unless it does not want to hear; returns whether it did."""
        host = self.driver.host
        old, self.kicked_idx = self.kicked_idx, self.avail_idx
        if self.driver.event_idx:
            event = host.peek16(self.used + 4 + 8 * self.num)
            wanted = (self.avail_idx - event - 1) & 0xFFFF < (self.avail_idx - old) & 0xFFFF
        else:
            wanted = not host.peek16(self.used) & 1
        if wanted or force:
            self.driver.set(Register.QUEUE_NOTIFY, self.index)
        return wanted

    def collect(self) -> dict[int, tuple[int, list[bytes]]]:
        """Takes what the device gave back: {head: (written, contents of the writable buffers)}."""
        host = self.driver.host
        done: dict[int, tuple[int, list[bytes]]] = {}
        while self.used_idx != host.peek16(self.used + 2):
            head, written = USED.unpack(host.peek(self.used + 4 + 8 * (self.used_idx % self.num), 8))
            self.used_idx = (self.used_idx + 1) & 0xFFFF
            request = self.pending.pop(head)
            self.free += reversed(request.descriptors)
            for address, size in request.space:
                self._spare.setdefault(size, []).append(address)
            done[head] = written, [host.peek(address, size) for address, size in request.writable]
        return done

    def call(self, readable: Sequence[bytes], writable: Sequence[int] = (), indirect: bool = False) -> list[bytes]:
        """One request from submit to collect; the contents of its writable buffers."""
        head = self.submit(readable, writable, indirect)
        self.kick()
        return self.collect()[head][1]

    def want_interrupt(self, ahead: int = 0) -> None:
        """Asks for an interrupt after `ahead` more used buffers; without EVENT_IDX, for each."""
        if self.driver.event_idx:
            self.driver.host.poke(self.avail + 4 + 2 * self.num, U16.pack((self.used_idx + ahead) & 0xFFFF))
        else:
            self.driver.host.poke(self.avail, U16.pack(0))


class Driver:
    """Drives one virtio device by its registers."""

    def __init__(self, device: Device, host: Host) -> None:
        self.device = device
        self.host = host
        self.features = 0
        self.rings: dict[int, Ring] = {}

    @property
    def event_idx(self) -> bool:
        """Whether VIRTIO_F_EVENT_IDX was negotiated."""
        return bool(self.features & Feature.EVENT_IDX)

    def get(self, register: int) -> int:
        """Reads a register."""
        return self.device.read(register, 4)

    def set(self, register: int, value: int) -> None:
        """Writes a register."""
        self.device.write(register, 4, value)

    def config(self, offset: int, size: int) -> int:
        """Reads `size` bytes of the configuration space."""
        return self.device.read(Register.CONFIG + offset, size)

    def offered(self) -> int:
        """The device's features."""
        value = 0
        for word in range(2):
            self.set(Register.DEVICE_FEATURES_SEL, word)
            value |= self.get(Register.DEVICE_FEATURES) << 32 * word
        return value

    def negotiate(self, features: int) -> bool:
        """Resets the device and offers `features`; returns whether it accepted them."""
        self.set(Register.STATUS, 0)
        self.set(Register.STATUS, Status.ACKNOWLEDGE)
        self.set(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        for word in range(2):
            self.set(Register.DRIVER_FEATURES_SEL, word)
            self.set(Register.DRIVER_FEATURES, features >> 32 * word & 0xFFFFFFFF)
        self.set(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        self.features = features
        return bool(self.get(Register.STATUS) & Status.FEATURES_OK)

    def set_up(self, index: int, num: int) -> Ring:
        """Makes queue `index` of `num` descriptors."""
        ring = Ring(self, index, num)
        self.place(index, num, ring.desc, ring.avail, ring.used)
        self.rings[index] = ring
        return ring

    def place(self, index: int, num: int, desc: int, avail: int, used: int) -> None:
        """Tells the device where queue `index` lies and starts it."""
        self.set(Register.QUEUE_SEL, index)
        self.set(Register.QUEUE_NUM, num)
        for low, high, address in (
            (Register.QUEUE_DESC_LOW, Register.QUEUE_DESC_HIGH, desc),
            (Register.QUEUE_DRIVER_LOW, Register.QUEUE_DRIVER_HIGH, avail),
            (Register.QUEUE_DEVICE_LOW, Register.QUEUE_DEVICE_HIGH, used),
        ):
            self.set(low, address & 0xFFFFFFFF)
            self.set(high, address >> 32)
        self.set(Register.QUEUE_READY, 1)

    def start(self, queues: int | Iterable[int], num: int = 16, without: int = 0) -> None:
        """From reset to DRIVER_OK with all features but `without`, and the queues given (a count or indices)."""
        assert self.negotiate(self.offered() & ~without), "the device refused its own features"
        for index in range(queues) if isinstance(queues, int) else queues:
            self.set_up(index, num)
        self.set(Register.STATUS, RUNNING)

    def acknowledge(self) -> int:
        """What an interrupt handler does; returns the causes."""
        causes = self.get(Register.INTERRUPT_STATUS)
        self.set(Register.INTERRUPT_ACK, causes)
        return causes
