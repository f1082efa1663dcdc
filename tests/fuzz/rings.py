# SPDX-License-Identifier: GPL-2.0-or-later
"""Drivers of virtio devices: a case is a script of register writes, ring contents and events from outside.

The first byte chooses the device; each step is an opcode and its operands as fixed-size numbers, so any bytes are a
script. The worlds, and the checks of every access by DMA, are those of the devices' own tests.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from devices.virtio.blk import WORK_MAX
from devices.virtio.mmio import Register
from tests.devices.driver import BASE
from tests.devices.worlds import RAM, WORLDS, Step
from tests.fuzz.engine import Target

KINDS = sorted(WORLDS)
REGISTERS = [int(register) for register in Register]
STEPS_MAX = 60

Reader = Callable[[str], tuple[int, ...]]


def _start(take: Reader) -> Step:
    without, num = take("<BB")
    return "start", (0, 1 << 29, 1 << 28, 1 << 15, 2)[without % 5], 1 << num % 5


def _submit(take: Reader) -> Step:
    queue, a, b, one, two, indirect = take("<BBBHHB")
    return "submit", queue, a, b % 20, [one % 2048], [two % 2048], bool(indirect & 1)


def _register(take: Reader) -> Step:
    index, size, value = take("<BBI")
    offset = REGISTERS[index] if index < len(REGISTERS) else 4 * index
    return "register", offset, (4, 4, 4, 4, 1, 2, 8)[size % 7], value


def _poke(take: Reader) -> Step:
    place, *data = take("<H8B")
    return "poke", place, bytes(data)


def _describe(take: Reader) -> Step:
    queue, index, inside, address, length, flags, following = take("<BBBQIBB")
    if inside % 4:
        address, length = BASE + address % RAM, length % 2048
    return "describe", queue, index, address, length, flags % 16, following


def _offer(take: Reader) -> Step:
    queue, head, by = take("<BHH")
    return "offer", queue, head if by & 1 else head % 8, by >> 8 or 1


def _host(take: Reader) -> Step:
    a, length = take("<BH")
    return "host", a, bytes(length % 3000)


STEPS: list[Callable[[Reader], Step]] = [
    lambda take: ("kick", *take("<B"), True), lambda take: ("ready",), _submit, _submit,
    lambda take: ("kick", *take("<B"), True), lambda take: ("collect", *take("<B")),
    lambda take: ("want", *take("<BB")), lambda take: ("ack",), _host, _register, _poke, _describe, _offer, _start,
]  # fmt: skip


def steps_of(data: bytes) -> list[Step]:
    """The script that a case is."""
    at = 1
    steps: list[Step] = []

    def take(form: str) -> tuple[int, ...]:
        nonlocal at
        size = struct.calcsize(form)
        piece = data[at : at + size].ljust(size, b"\0")
        at += size
        return struct.unpack(form, piece)

    while at < len(data) and len(steps) < STEPS_MAX:
        opcode = data[at]
        at += 1
        steps.append(STEPS[opcode % len(STEPS)](take))
    return steps


def ring_samples() -> list[bytes]:
    """A start and then anything, for every device."""
    samples = []
    for index in range(len(KINDS)):
        for seed in range(6):
            chance = Random(index * 100 + seed)
            parts = [bytes((index, 13, 0, chance.choice((2, 3, 4)), 1))]
            for _ in range(30):
                opcode = chance.choice((2, 2, 4, 4, 5, 8, 10, 11, 11, 12, 12, 9, 7))
                operands = [chance.choice((0, 0, 1, 2, chance.randrange(256))) for _ in range(18)]
                parts.append(bytes((opcode, *operands)))
            samples.append(b"".join(parts))
    return samples


def check_rings(data: bytes) -> None:
    """No exception, no access outside RAM, bounded work, and a restored device has the same state."""
    world = WORLDS[KINDS[data[0] % len(KINDS)] if data else "blk"]()
    memory = world.host.memory
    for number, step in enumerate(steps_of(data)):
        memory.work = 0
        world.step(step)
        assert memory.work <= WORK_MAX + RAM, f"{memory.work} units of work in {step}"
        for address, length in world.host.dma:
            assert address >= BASE and address + length <= BASE + RAM
        world.host.dma.clear()
        if number % 16 == 15:
            before = world.device.save()
            world.exchange()
            assert world.device.save() == before


TARGETS = [Target("virtqueue", ring_samples, check_rings)]
