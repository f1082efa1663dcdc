# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile guests: whatever a driver writes, a device answers, stays in RAM, and does bounded work.

`CheckedMemory` in the harness asserts the bounds of every access; a counter in place of the descriptor's struct counts
the work.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.bus import Bus
from devices.device import Device
from devices.finisher import Finisher
from devices.plic import Plic
from devices.rtc import Rtc
from devices.uart import Uart
from devices.virtio import blk as blk_module
from devices.virtio import queue as queue_module
from devices.virtio.blk import RequestType, VirtioBlk
from devices.virtio.console import VirtioConsole
from devices.virtio.mmio import Feature, Register, Status
from devices.virtio.queue import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE, U16
from tests.devices.disk import MemoryDisk, header
from tests.devices.driver import BASE, RUNNING, Driver, Host
from tests.devices.worlds import RAM, WORLDS, Step, World, hostile_scripts


class CountingStruct:
    """DESCRIPTOR that counts how many were looked at."""

    def __init__(self) -> None:
        self.count = 0

    def unpack_from(self, buffer: Any, offset: int) -> tuple[Any, ...]:
        """Counts and unpacks."""
        assert 0 <= offset <= len(buffer) - 16
        self.count += 1
        return DESCRIPTOR.unpack_from(buffer, offset)


def bound(world: World) -> int:
    """Descriptors that one step may touch: every chain of every queue at its longest."""
    return sum(queue.num * (queue.size_max + 1) for queue in world.device.queues) + 1


def run(world: World, script: list[Step]) -> None:
    """Runs `script` and checks after each step."""
    counter = CountingStruct()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue_module, "DESCRIPTOR", counter)
        for step in script:
            counter.count = 0
            before = len(world.host.violations)
            world.step(step)
            assert counter.count <= bound(world), f"{counter.count} descriptors in {step}"
            assert len(world.host.violations) <= before + 1
            for address, length in world.host.dma:
                assert address >= BASE and address + length <= BASE + RAM
            world.host.dma.clear()


@pytest.mark.parametrize("kind", WORLDS)
@settings(max_examples=150, deadline=None)
@given(script=hostile_scripts())
def test_no_driver_can_hurt_the_host(kind: str, script: list[Step]) -> None:
    """No exception, no access outside RAM, bounded work; and a reset makes the device usable again."""
    world = WORLDS[kind]()
    run(world, script)
    told = len(world.host.violations)
    world.step(("start", 0, 8))
    assert world.driver.get(Register.STATUS) == RUNNING
    assert len(world.host.violations) == told
    world.step(("submit", world.queues - 1, 0, 0, [], [600], True))
    world.step(("kick", world.queues - 1, True))
    assert not world.driver.get(Register.STATUS) & Status.DEVICE_NEEDS_RESET or kind == "blk"


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("flags", [F_NEXT, F_NEXT | F_WRITE])
def test_the_costliest_ring_is_bounded(kind: str, flags: int) -> None:
    """Every slot offers the longest legal chain, all in one indirect table, on every queue."""
    world = WORLDS[kind]()
    world.step(("start", 0, 16))
    table = world.host.allocate(16 * 256)
    for index in range(256):
        entry = (BASE, 1, flags, index + 1) if index < 255 else (BASE, 1, F_WRITE, 0)
        world.host.poke(table + 16 * index, DESCRIPTOR.pack(*entry))
    script: list[Step] = [("host", 1, bytes(300))] * 20
    for queue, ring in world.driver.rings.items():
        ring.describe(0, table, 16 * 256, F_INDIRECT, 0)
        script += [("offer", queue, 0, 1)] * 16 + [("kick", queue, True)]
    run(world, script)


@pytest.mark.parametrize("kind", WORLDS)
def test_any_event_index_is_survived(kind: str) -> None:
    """used_event and what the driver finds in avail_event may be anything."""
    for event in range(0, 0x10000, 257):
        world = WORLDS[kind]()
        world.step(("start", 0, 4))
        for queue, ring in world.driver.rings.items():
            world.host.poke(ring.avail + 4 + 2 * ring.num, U16.pack(event))
            world.host.poke(ring.used + 4 + 8 * ring.num, U16.pack(event))
            run(world, [("submit", queue, 0, 0, [16], [600], False), ("kick", queue, True), ("host", 0, b"x" * 64)])


@pytest.mark.parametrize("kind", WORLDS)
@settings(max_examples=40, deadline=None)
@given(areas=st.tuples(*[st.integers(0, RAM // 16) for _ in range(3)]), noise=st.binary(min_size=64, max_size=256))
def test_rings_may_lie_on_each_other(kind: str, areas: tuple[int, int, int], noise: bytes) -> None:
    """Rings that overlap, also with what the device writes, with noise in them."""
    world = WORLDS[kind]()
    desc, avail, used = (BASE + 16 * area for area in areas)
    world.driver.negotiate(world.driver.offered() & ~Feature.EVENT_IDX)
    world.host.poke(BASE, (noise * (RAM // len(noise) + 1))[:RAM])
    for queue in range(world.queues):
        world.driver.place(queue, 8, desc, avail, used)
    notify: list[Step] = [("register", Register.QUEUE_NOTIFY, 4, queue) for queue in range(world.queues)]
    run(world, [("register", Register.STATUS, 4, RUNNING), ("host", 0, b"x" * 64), *notify, *notify])


def chips() -> dict[str, Device]:
    """All devices, on one bus."""
    host = Host(RAM)
    devices: dict[str, Device] = {kind: make().device for kind, make in WORLDS.items()}
    devices["plic"] = Plic(host.line)
    devices["uart"] = Uart(host.line, host.emit)
    devices["rtc"] = Rtc(lambda: 2**40, host.line, 10**18)
    devices["finisher"] = Finisher(lambda code, status: None)
    return devices


@settings(max_examples=150, deadline=None)
@given(
    accesses=st.lists(
        st.tuples(
            st.integers(0, 7),
            st.one_of(st.integers(0, 0x210), st.integers(0, 0x1000), st.integers(0, 0x601000)),
            st.sampled_from([1, 2, 4, 8]),
            st.one_of(st.integers(0, 0xFF), st.integers(0, 2**64 - 1)),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_every_access_to_every_device_is_answered(accesses: list[tuple[int, int, int, int, bool]]) -> None:
    """Any offset, size and value; what is read fits the size."""
    bus = Bus()
    for index, (name, device) in enumerate(chips().items()):
        bus.add(index << 24, device, name)
    for index, offset, size, value, write in accesses:
        if write:
            bus.write((index << 24) + offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= bus.read((index << 24) + offset, size) < 1 << 8 * size
    bus.restore(bus.save())


def test_one_notification_of_a_disk_moves_a_bounded_amount() -> None:
    """256 requests that all read into the same buffer, 16 times each; the bound is set lower for the test."""
    host = Host(1 << 20)
    disk = MemoryDisk(2048)
    device = VirtioBlk(host.memory, host.line, host.violations.append, disk)
    driver = Driver(device, host)
    driver.start(1, 256)
    ring = driver.rings[0]
    table, head, status, data = (host.allocate(size) for size in (16 * 18, 16, 1, 64 << 10))
    host.poke(head, header(RequestType.IN))
    entries = [(head, 16, F_NEXT, 1), *[(data, 60 << 10, F_NEXT | F_WRITE, n) for n in range(2, 18)]]
    entries.append((status, 1, F_WRITE, 0))
    host.poke(table, b"".join(DESCRIPTOR.pack(*entry) for entry in entries))
    ring.describe(0, table, 16 * len(entries), F_INDIRECT, 0)
    for _ in range(256):
        ring.offer(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blk_module, "WORK_MAX", 1000)
        ring.kick()
    assert host.violations == ["virtio blk: queue 0: requests for more than 1 GiB at once"]
    assert 1000 < host.memory.work < 1400


def test_one_notification_of_a_port_writes_a_bounded_amount() -> None:
    """Chains of 4 MiB each, all of the same bytes."""
    host = Host(8 << 20)
    written: list[int] = []
    device = VirtioConsole(
        host.memory, host.line, host.violations.append, [""], lambda port, data: written.append(len(data))
    )
    driver = Driver(device, host)
    driver.start(4, 16)
    data = host.allocate(4 << 20)
    for index in range(9):
        driver.rings[1].describe(index, data, 4 << 20, 0, 0)
        driver.rings[1].offer(index)
        if index == 7:
            driver.rings[1].kick(force=True)
    assert sum(written) == 32 << 20
    for index in range(9):
        driver.rings[1].offer(index)
    driver.rings[1].kick(force=True)
    assert host.violations == ["virtio console: queue 1: writes of more than 33554432 bytes at once"]
    assert sum(written) == 32 << 20
