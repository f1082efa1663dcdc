# SPDX-License-Identifier: GPL-2.0-or-later
"""Worlds: one virtio device each, with a driver and a host, all moved by a script of plain tuples.

The same script always does the same, so a world whose device is exchanged for a restored one in the middle must end
like one that ran through (`test_restore`), and any script at all must leave the device usable and all accesses within
RAM (`test_hostile`).

| step                                     | does                                                             |
|------------------------------------------|------------------------------------------------------------------|
| start, without, num                      | the driver resets and starts the device                          |
| ready                                    | what drivers of this type do next                                |
| submit, queue, a, b, sizes, sizes, indirect | a chain; `a` and `b` choose type, sector, port, event, value  |
| kick, queue, force                       | notification                                                     |
| collect, queue                           | takes what was given back                                        |
| want, queue, ahead                       | asks for an interrupt                                            |
| ack                                      | interrupt handler                                                |
| host, a, data                            | something comes from outside                                     |
| register, offset, size, value            | a raw register write and read                                    |
| poke, place, data                        | raw bytes into RAM                                               |
| describe, queue, index, address, length, flags, next | a raw descriptor                                     |
| offer, queue, head, by                   | a raw head, and a jump of the available index                    |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack
from hypothesis import strategies as st

from devices.virtio.blk import VirtioBlk
from devices.virtio.console import CONTROL, VirtioConsole
from devices.virtio.mmio import Feature, Register, VirtioDevice
from devices.virtio.net import HEADER as NET_HEADER
from devices.virtio.net import Feature as NetFeature
from devices.virtio.net import VirtioNet
from devices.virtio.queue import U16
from devices.virtio.rng import VirtioRng
from tests.devices.disk import MemoryDisk, header
from tests.devices.driver import BASE, Driver, Host, Ring

Step = tuple[Any, ...]
WITHOUT = [0, Feature.EVENT_IDX, Feature.INDIRECT_DESC, NetFeature.MRG_RXBUF, 2]
RAM = 1 << 16


class World:
    """A device that was never started, around it everything that it touches."""

    queues: int

    def __init__(self) -> None:
        self.host = Host(RAM)
        self.log: list[Any] = []
        self.device = self.make()
        self.driver = Driver(self.device, self.host)

    def make(self) -> VirtioDevice:
        """A fresh device."""
        raise NotImplementedError

    def outside(self, number: int, data: bytes) -> None:
        """Something happens on the host's side."""

    def shape(self, queue: int, readable: list[int], writable: list[int]) -> tuple[list[int], list[int]]:
        """Sizes of buffers as the device's type wants them: here, even queues receive and odd ones send."""
        return (readable, []) if queue & 1 else ([], [512, *writable])

    def message(self, queue: int, a: int, b: int) -> list[bytes]:
        """What the first readable buffer of a chain holds."""
        return []

    def violation(self, reason: str) -> None:
        """The device's complaint."""
        self.host.violations.append(reason)

    def step(self, step: Step) -> None:
        """Does one step; what the driver itself cannot do (no memory, no such ring) is left out."""
        try:
            getattr(self, f"do_{step[0]}")(*step[1:])
        except (MemoryError, KeyError):
            self.log.append("left out")

    def exchange(self) -> None:
        """Replaces the device by one restored from its state, which went through msgpack."""
        state = msgpack.unpackb(msgpack.packb(self.device.save()), strict_map_key=False)
        self.device = self.make()
        self.device.restore(state)
        self.driver.device = self.device

    def end(self) -> tuple[Any, ...]:
        """Everything that can be seen from outside, and the state."""
        host = self.host
        seen = (bytes(host.ram), host.memory.digest, host.level, host.raised, host.outputs, host.violations, self.log)
        return (*seen, self.device.save())

    def ring(self, queue: int) -> Ring:
        """One of the queues that there are; KeyError before the first start."""
        return self.driver.rings[queue % self.queues]

    # Steps

    def do_start(self, without: int, num: int) -> None:
        self.host.release()
        self.host.poke(BASE, bytes(RAM))
        self.driver.start(self.queues, num, without)

    def do_ready(self) -> None:
        pass

    def do_submit(
        self, queue: int, a: int, b: int, readable: Sequence[int], writable: Sequence[int], indirect: bool
    ) -> None:
        ring = self.ring(queue)
        if b:  # One in twenty keeps no rule of the device's type.
            readable, writable = self.shape(ring.index, list(readable), list(writable))
            indirect = indirect and bool(self.driver.features & Feature.INDIRECT_DESC)
        chain = [*self.message(ring.index, a, b), *[bytes([a & 0xFF]) * size for size in readable]]
        if chain or writable:
            if len(ring.free) < len(chain) + len(writable):
                raise MemoryError
            ring.submit(chain, writable, indirect)

    def do_kick(self, queue: int, force: bool) -> None:
        self.log.append(self.ring(queue).kick(force))

    def do_collect(self, queue: int) -> None:
        self.log.append(self.ring(queue).collect())

    def do_want(self, queue: int, ahead: int) -> None:
        self.ring(queue).want_interrupt(ahead)

    def do_ack(self) -> None:
        self.log.append(self.driver.acknowledge())

    def do_host(self, a: int, data: bytes) -> None:
        self.outside(a, data)

    def do_register(self, offset: int, size: int, value: int) -> None:
        self.device.write(offset, size, value & (1 << 8 * size) - 1)
        self.log.append(self.device.read(offset, size))

    def do_poke(self, place: int, data: bytes) -> None:
        self.host.poke(BASE + place, data[: RAM - place])

    def do_describe(self, queue: int, index: int, address: int, length: int, flags: int, following: int) -> None:
        ring = self.ring(queue)
        ring.describe(index % ring.num, address, length, flags, following)

    def do_offer(self, queue: int, head: int, by: int) -> None:
        ring = self.ring(queue)
        ring.offer(head)
        ring.avail_idx = (ring.avail_idx + by - 1) & 0xFFFF
        self.host.poke(ring.avail + 2, U16.pack(ring.avail_idx))


class BlkWorld(World):
    """A disk of 16 sectors, kept when the device is exchanged: it belongs to the machine."""

    queues = 1

    def make(self) -> VirtioDevice:
        self.disk = getattr(self, "disk", None) or MemoryDisk(16)
        return VirtioBlk(self.host.memory, self.host.line, self.violation, self.disk, "serial")

    def shape(self, queue: int, readable: list[int], writable: list[int]) -> tuple[list[int], list[int]]:
        return readable, [*writable, 1]

    def message(self, queue: int, a: int, b: int) -> list[bytes]:
        return [header((0, 1, 0, 1, a % 15)[a % 5], b)]

    def end(self) -> tuple[Any, ...]:
        return (*super().end(), bytes(self.disk.data), self.disk.calls)


class NetWorld(World):
    """A network card."""

    queues = 3

    def make(self) -> VirtioDevice:
        return VirtioNet(self.host.memory, self.host.line, self.violation, self.host.emit, b"\x52\x54\0\0\0\1")

    def message(self, queue: int, a: int, b: int) -> list[bytes]:
        if queue == 2:
            return [bytes([3 + a % 2, b % 2])]
        head = (a % 3, (0, 1, 4)[b % 3], 0, a % 7, 14 + b % 9, a % 5, 0)
        return [NET_HEADER.pack(*head)] if queue else []

    def outside(self, number: int, data: bytes) -> None:
        assert isinstance(self.device, VirtioNet)
        if number % 8 == 7:
            self.device.set_link(bool(number & 8))
        elif number % 8 == 6:
            self.device.announce()
        else:
            self.device.receive(bytes([number % 2, 0, 0, 0, 0, 0, 14, 0, number % 9, 0]) + bytes(14) + data)


class ConsoleWorld(World):
    """Two ports, one of which echoes."""

    queues = 6

    def make(self) -> VirtioDevice:
        return VirtioConsole(
            self.host.memory, self.host.line, self.violation, ["", "ftvm.block"], self.output, self.opened
        )

    def output(self, port: int, data: bytes) -> None:
        self.log.append((port, data))
        if port and len(data) < 512:
            self.outside(port, data)

    def opened(self, port: int, opened: bool) -> None:
        self.log.append((port, opened))

    def message(self, queue: int, a: int, b: int) -> list[bytes]:
        return [CONTROL.pack(b % 3, (0, 3, 6, a % 8)[a % 4], a >> 3 & 1)] if queue == 3 else []

    def do_ready(self) -> None:
        control = self.driver.rings[3]
        for message in ((0, 0, 1), (0, 3, 1), (1, 3, 1), (0, 6, 1), (1, 6, 1)):
            if control.free:
                control.submit([CONTROL.pack(*message)])
            control.kick()
            control.collect()

    def outside(self, number: int, data: bytes) -> None:
        assert isinstance(self.device, VirtioConsole)
        self.device.input(number % 2, data)


class RngWorld(World):
    """An entropy source."""

    queues = 1

    def make(self) -> VirtioDevice:
        return VirtioRng(self.host.memory, self.host.line, self.violation)

    def outside(self, number: int, data: bytes) -> None:
        assert isinstance(self.device, VirtioRng)
        self.device.feed(data)
        self.log.append(self.device.wanted)


WORLDS: dict[str, Callable[[], World]] = {
    "blk": BlkWorld,
    "net": NetWorld,
    "console": ConsoleWorld,
    "rng": RngWorld,
}

_LENGTHS = [0, 1, 8, 12, 16, 32, 512, 513, RAM, RAM + 1, 2**31, 2**32 - 1]
_ADDRESSES = [0, BASE - 1, BASE, BASE + 64, BASE + RAM - 16, BASE + RAM, 2**64 - 1, 2**64 - 16, 2**32]
_VALUES = [0, 1, 2, 4, 8, 15, 16, BASE, BASE + 4096, 256, 512, 0x8000, 0xFFFFFFFF, 2**64 - 1]
_REGISTERS = [int(register) for register in Register if register != Register.STATUS]


def _start(draw: Random) -> Step:
    return "start", draw.choice([*WITHOUT, 0]), draw.choice([4, 8, 8])


def _submit(draw: Random) -> Step:
    sizes = [1, 12, 16, 100, 512, 512, 1024]
    readable = [draw.choice(sizes) for _ in range(draw.choice([0, 0, 1, 2]))]
    writable = [draw.choice(sizes) for _ in range(draw.choice([0, 1, 1, 2]))]
    return "submit", draw.randrange(6), draw.randrange(256), draw.randrange(20), readable, writable, draw.random() < 0.4


def _honest(draw: Random) -> Step:
    """What a driver does that keeps the rules, more or less, or something from outside."""
    kind = draw.choice(["submit"] * 3 + ["kick"] * 3 + ["collect"] * 2 + ["want", "ack", "host"])
    if kind == "submit":
        return _submit(draw)
    if kind == "kick":
        return kind, draw.randrange(6), draw.random() < 0.3
    if kind == "collect":
        return kind, draw.randrange(6)
    if kind == "want":
        return kind, draw.randrange(6), draw.randrange(4)
    if kind == "host":
        return kind, draw.randrange(256), draw.randbytes(draw.choice([0, 1, 20, 100, 1000]))
    return ("ack",)


def _hostile(draw: Random) -> Step:
    """What a driver does that does not."""
    kind = draw.choice(["register", "poke", "poke", "describe", "describe", "describe", "offer", "offer", "offer"])
    queue = draw.randrange(6)
    if kind == "register":
        offset = draw.choice([*_REGISTERS, Register.STATUS, draw.randrange(0x1000)])
        return kind, offset, draw.choice([1, 2, 4, 4, 4, 8]), draw.choice([*_VALUES, draw.getrandbits(64)])
    if kind == "poke":
        return kind, draw.randrange(draw.choice([512, 4096, RAM])), draw.randbytes(draw.choice([1, 2, 16, 64]))
    if kind == "offer":
        head = draw.choice([0, 1, 2, 3, draw.randrange(1 << 16)])
        return kind, queue, head, draw.choice([1] * 12 + [0, 2, 4, 16, 65535, 32768])
    inside = draw.random() < 0.7
    address = BASE + draw.randrange(RAM - 600) if inside else draw.choice(_ADDRESSES)
    length = draw.randrange(1, 600) if inside else draw.choice(_LENGTHS)
    following = draw.randrange(4) if inside else draw.randrange(1 << 16)
    return kind, queue, draw.randrange(4), address, length, draw.choice([0, 1, 2, 3, 4, draw.randrange(8)]), following


def _honest_script(seed: int, length: int) -> list[Step]:
    draw = Random(seed)
    steps = [_honest(draw) if draw.random() < 0.98 else _start(draw) for _ in range(length)]
    return [_start(draw), ("ready",), *steps]


def _hostile_script(seed: int, length: int) -> list[Step]:
    draw = Random(seed)
    steps: list[Step] = [_start(draw), ("ready",)]
    for _ in range(length):
        kind = draw.random()
        if kind < 0.08:
            steps += [_start(draw), ("ready",)]  # Else nothing happens any more after the first violation.
        else:
            steps.append(_honest(draw) if kind < 0.6 else _hostile(draw))
    return steps


def honest_scripts() -> st.SearchStrategy[list[Step]]:
    """A start and then whatever a driver may do; shrinks to shorter scripts."""
    return st.builds(_honest_script, st.integers(0, 2**32), st.integers(1, 150))


def hostile_scripts() -> st.SearchStrategy[list[Step]]:
    """A start and then anything."""
    return st.builds(_hostile_script, st.integers(0, 2**32), st.integers(1, 150))
