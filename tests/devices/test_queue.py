# SPDX-License-Identifier: GPL-2.0-or-later
"""What a driver may not do with a virtqueue, each time with a reason in words; and what it may."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devices.virtio.blk import SEG_MAX, RequestType, VirtioBlk
from devices.virtio.mmio import Feature, Register, Status
from devices.virtio.queue import F_INDIRECT, F_NEXT, F_WRITE, U16
from tests.devices.disk import MemoryDisk, header
from tests.devices.driver import BASE, RUNNING, Driver, Host, Ring

NUM = 8


class Bench:
    """A started disk with a queue of 8."""

    def __init__(self, without: int = 0) -> None:
        self.host = Host()
        self.device = VirtioBlk(self.host.memory, self.host.line, self.host.violations.append, MemoryDisk(8))
        self.driver = Driver(self.device, self.host)
        self.driver.start(1, NUM, without)
        self.ring = self.driver.rings[0]

    def status(self) -> int:
        return self.driver.get(Register.STATUS)


def indirect(ring: Ring, length: int, flags: int = F_INDIRECT, address: int = 0) -> None:
    """Descriptor 0 points to an indirect table of `length` bytes."""
    table = address or ring.driver.host.allocate(4096)
    ring.describe(0, table, length, flags, 1)
    ring.offer(0)


def nested(ring: Ring) -> None:
    table = ring.driver.host.allocate(64)
    ring.driver.host.poke(table, table.to_bytes(8, "little") + b"\x10\0\0\0" + U16.pack(F_INDIRECT) + b"\0\0")
    indirect(ring, 16, address=table)


def loop(ring: Ring) -> None:
    ring.describe(0, BASE, 1, F_NEXT, 1)
    ring.describe(1, BASE, 1, F_NEXT, 0)
    ring.offer(0)


def indirect_loop(ring: Ring) -> None:
    table = ring.driver.host.allocate(16)
    ring.driver.host.poke(table, BASE.to_bytes(8, "little") + b"\1\0\0\0" + U16.pack(F_NEXT) + b"\0\0")
    indirect(ring, 16, address=table)


def readable_behind_writable(ring: Ring) -> None:
    ring.describe(0, BASE, 16, F_NEXT | F_WRITE, 1)
    ring.describe(1, BASE, 16, 0, 0)
    ring.offer(0)


def more_than_ram(ring: Ring) -> None:
    for index in range(3):
        ring.describe(index, BASE, len(ring.driver.host.ram) // 2, F_NEXT if index < 2 else 0, index + 1)
    ring.offer(0)


def descriptor(address: int, length: int) -> Callable[[Ring], None]:
    def put(ring: Ring) -> None:
        ring.describe(0, address, length, 0, 0)
        ring.offer(0)

    return put


def next_outside(ring: Ring) -> None:
    ring.describe(0, BASE, 16, F_NEXT, NUM)
    ring.offer(0)


def index_jump(by: int) -> Callable[[Ring], None]:
    def put(ring: Ring) -> None:
        ring.driver.host.poke(ring.avail + 2, U16.pack(by & 0xFFFF))

    return put


VIOLATIONS: dict[str, tuple[Callable[[Ring], None], str]] = {
    "head outside the table": (lambda ring: ring.offer(NUM), "descriptor 8 in a table of 8"),
    "head far outside": (lambda ring: ring.offer(0xFFFF), "descriptor 65535"),
    "next outside the table": (next_outside, "descriptor 8 in a table of 8"),
    "loop": (loop, "loop"),
    "loop in an indirect table": (indirect_loop, "loop"),
    "nested indirect": (nested, "within an indirect"),
    "indirect with next": (lambda ring: indirect(ring, 16, F_INDIRECT | F_NEXT), "has a next"),
    "indirect of odd length": (lambda ring: indirect(ring, 17), "table of 17 bytes"),
    "indirect of no length": (lambda ring: indirect(ring, 0), "table of 0 bytes"),
    "indirect outside RAM": (lambda ring: indirect(ring, 16, address=BASE - 16), "not in RAM"),
    "readable behind writable": (readable_behind_writable, "behind a writable"),
    "more bytes than RAM": (more_than_ram, "more than RAM"),
    "below RAM": (descriptor(BASE - 1, 2), "not in RAM"),
    "across the end of RAM": (descriptor(BASE + (1 << 20) - 1, 2), "not in RAM"),
    "at the end of the address space": (descriptor(2**64 - 1, 0xFFFFFFFF), "not in RAM"),
    "index one too far": (index_jump(NUM + 1), "9 ahead in a queue of 8"),
    "index backwards": (index_jump(-1), "65535 ahead"),
}


@pytest.mark.parametrize(("act", "reason"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_stops_the_device_and_is_told_once(act: Callable[[Ring], None], reason: str) -> None:
    """The device needs a reset, says why, interrupts for it, and does nothing more."""
    bench = Bench()
    act(bench.ring)
    bench.ring.kick(force=True)
    bench.ring.kick(force=True)
    assert len(bench.host.violations) == 1 and reason in bench.host.violations[0], bench.host.violations
    assert bench.status() == RUNNING | Status.DEVICE_NEEDS_RESET
    assert bench.driver.acknowledge() == 2
    assert bench.host.peek16(bench.ring.used + 2) == 0


def test_indirect_descriptors_must_be_negotiated() -> None:
    """Without VIRTIO_F_INDIRECT_DESC the flag is a violation."""
    bench = Bench(without=Feature.INDIRECT_DESC)
    bench.ring.submit([header(RequestType.FLUSH)], [1], indirect=True)
    bench.ring.kick()
    assert "not negotiated" in bench.host.violations[0]


def test_an_indirect_table_may_hold_the_longest_chain_that_linux_makes() -> None:
    """Header, SEG_MAX segments and status, whatever the size of the queue."""
    bench = Bench()
    sizes = [16] * SEG_MAX
    sizes[-1] += -sum(sizes) % 512
    *data, status = bench.ring.call([header(RequestType.IN, 0)], [*sizes, 1], indirect=True)
    assert status == b"\0" and not bench.host.violations and len(data) == SEG_MAX


def test_an_empty_descriptor_is_skipped_wherever_it_points() -> None:
    """Nothing forbids a length of zero."""
    bench = Bench()
    status = bench.host.allocate(1)
    message = bench.host.allocate(16)
    bench.host.poke(message, header(99))
    bench.ring.describe(0, message, 16, F_NEXT, 1)
    bench.ring.describe(1, 0, 0, F_NEXT, 2)
    bench.ring.describe(2, status, 1, F_WRITE, 0)
    bench.ring.offer(0)
    bench.ring.kick()
    assert bench.host.peek(status, 1) == b"\2"


@pytest.mark.parametrize(
    ("num", "moved", "reason"),
    [
        (0, {}, "queue size 0"),
        (3, {}, "queue size 3"),
        (512, {}, "queue size 512"),
        (0xFFFFFFFF, {}, "queue size 4294967295"),
        (8, {"desc": BASE + 8}, "not aligned to 16"),
        (8, {"avail": BASE + 1}, "not aligned to 2"),
        (8, {"used": BASE + 2}, "not aligned to 4"),
        (8, {"desc": BASE - 16}, "descriptor table"),
        (8, {"desc": BASE + (1 << 20) - 112}, "not in RAM"),
        (8, {"avail": 0}, "available ring"),
        (8, {"used": 2**64 - 4}, "used ring"),
        (8, {"used": BASE + (1 << 20) - 68}, "used ring"),
    ],
)
def test_a_queue_that_cannot_lie_there_is_refused(num: int, moved: dict[str, int], reason: str) -> None:
    """Sizes, alignment and places are checked when the queue becomes ready."""
    bench = Bench()
    bench.driver.negotiate(bench.driver.offered())
    areas = {"desc": BASE, "avail": BASE + 4096, "used": BASE + 8192} | moved
    bench.driver.place(0, num, **areas)
    assert len(bench.host.violations) == 1 and reason in bench.host.violations[0]
    assert bench.driver.get(Register.QUEUE_READY) == 0
    assert bench.status() & Status.DEVICE_NEEDS_RESET


@pytest.mark.parametrize("register", [Register.QUEUE_NUM, Register.QUEUE_DESC_LOW, Register.QUEUE_DEVICE_HIGH])
def test_a_live_queue_must_not_be_moved(register: Register) -> None:
    """Moving a ring under the device is a violation, not a surprise."""
    bench = Bench()
    bench.driver.set(register, 4)
    assert "in use" in bench.host.violations[0]


def test_rings_that_overlap_do_no_harm() -> None:
    """All three areas at one place: nothing is served wrongly outside RAM, and work is bounded."""
    bench = Bench()
    bench.driver.negotiate(bench.driver.offered())
    bench.driver.place(0, 8, BASE, BASE, BASE)
    bench.driver.set(Register.STATUS, RUNNING)
    for value in range(0, 65536, 251):
        bench.host.poke(BASE, U16.pack(value) * 64)
        bench.driver.set(Register.QUEUE_NOTIFY, 0)
    assert len(bench.host.violations) == 1


def test_a_stopped_queue_is_left_alone_and_starts_from_zero() -> None:
    """QUEUE_READY 0 stops it; ready again, its indices begin anew."""
    bench = Bench()
    bench.ring.call([header(RequestType.FLUSH)], [1])
    bench.driver.set(Register.QUEUE_READY, 0)
    bench.ring.submit([header(RequestType.FLUSH)], [1])
    bench.ring.kick(force=True)
    assert bench.ring.collect() == {}
    ring = bench.driver.set_up(0, NUM)
    assert ring.call([header(RequestType.FLUSH)], [1]) == [b"\0"]
    assert not bench.host.violations
