# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices as a hand-made guest sees them: entropy, RTC with its interrupt, finisher, and the bounds of one epoch."""

from __future__ import annotations

import pytest

from devices.event import Event, EventKind, OutputKind
from devices.plic import CLAIM, ENABLE
from devices.rtc import Register as RtcRegister
from devices.virtio.mmio import Register, Status
from ftvm import board
from ftvm.hardware import RTC_BASE_NS
from ftvm.machine import EPOCH_OUTPUT_MAX, EPOCH_WORK_MAX, EpochEnd
from tests.ftvm.asm import Asm
from tests.machine.box import ENTRY, SECOND, Box, config_of
from tests.machine.code import DATA, Ring, keep, load_to, power_off, spin, store
from tests.machine.conftest import MakeBox

PLACE = ENTRY + 0x8_0000


def test_the_entropy_device_waits_for_entropy(make: MakeBox) -> None:
    """It tells how much it wants, and gives the guest the bytes of the event."""
    ring = Ring(0, PLACE)
    code = Asm(ENTRY)
    ring.start(code)
    ring.describe(code, 0, ring.buffers, 32, 2)
    ring.offer(code, [0], 1)
    code.li("s1", ring.used + 2)
    code.label("wait")
    code.lhu("t2", 0, "s1")
    code.beqz("t2", "wait")
    power_off(code)
    box = make(code)
    assert box.machine.entropy_wanted == 0
    box.run(budget=4000)
    assert box.machine.entropy_wanted == 64
    secret = bytes(range(100, 164))
    box.run(Event(EventKind.ENTROPY, 0, secret))
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert box.ram(ring.buffers, 32) == secret[:32]
    assert box.ram(ring.buffers + 32, 32) == bytes(32)


def test_the_clock_of_the_wall_is_guest_time(make: MakeBox) -> None:
    """Read at the start, and again after a second of guest time."""
    code = Asm(ENTRY)
    for index in (0, 2):
        load_to(code, "s2", board.RTC_BASE + RtcRegister.TIME_LOW)
        load_to(code, "s3", board.RTC_BASE + RtcRegister.TIME_HIGH)
        keep(code, "s2", index)
        keep(code, "s3", index + 1)
        if not index:
            code.wfi()
    power_off(code)
    box = make(code)
    assert box.run().reason == EpochEnd.IDLE
    assert box.run(later=SECOND).reason == EpochEnd.POWEROFF  # a new epoch ends wfi, as it may for no reason
    low, high, low_later, high_later = box.words(DATA, 4)
    assert RTC_BASE_NS <= (high << 32 | low) < RTC_BASE_NS + 100_000
    assert 10**9 <= (high_later << 32 | low_later) - (high << 32 | low) < 10**9 + 100_000


def test_an_alarm_wakes_the_guest_by_its_interrupt(make: MakeBox) -> None:
    """Armed for 20 ms from now, then wfi: the machine knows when to go on, and goes on."""
    delay = 20_000_000
    code = Asm(ENTRY)
    store(code, board.PLIC_BASE + 4 * board.RTC_IRQ, 1)
    store(code, board.PLIC_BASE + ENABLE, 1 << board.RTC_IRQ)
    code.li("t0", 1 << 9)
    code.csrs("sie", "t0")
    load_to(code, "s2", board.RTC_BASE + RtcRegister.TIME_LOW)
    load_to(code, "s3", board.RTC_BASE + RtcRegister.TIME_HIGH)
    code.slli("s3", "s3", 32)
    code.add("s2", "s2", "s3")
    code.li("t2", delay)
    code.add("s2", "s2", "t2")
    code.li("t0", board.RTC_BASE)
    code.srli("t1", "s2", 32)
    code.sw("t1", RtcRegister.ALARM_HIGH, "t0")
    code.sw("s2", RtcRegister.ALARM_LOW, "t0")
    code.li("t1", 1)
    code.sw("t1", RtcRegister.IRQ_ENABLED, "t0")
    code.label("sleep")
    code.wfi()  # which may also end for no reason
    load_to(code, "s4", board.PLIC_BASE + CLAIM)
    code.beqz("s4", "sleep")
    keep(code, "s4", 0)
    power_off(code)
    box = make(code)
    assert box.run().reason == EpochEnd.IDLE
    deadline = box.machine.deadline
    assert deadline is not None and delay // 100 <= deadline < delay // 100 + 1000
    assert box.run(later=deadline - box.machine.time - 1).reason == EpochEnd.IDLE
    assert box.run(later=1).reason == EpochEnd.LIMIT, "the alarm rang: the guest does not idle any more"
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert box.words(DATA, 1) == [board.RTC_IRQ]


@pytest.mark.parametrize(
    ("value", "width", "end"),
    [
        (board.FINISHER_POWEROFF, "sw", EpochEnd.POWEROFF),
        (board.FINISHER_POWEROFF, "sh", EpochEnd.POWEROFF),
        (board.FINISHER_RESET, "sw", EpochEnd.RESET),
        (0x3333, "sw", EpochEnd.FAILED),
        (7 << 16 | 0x3333, "sw", EpochEnd.FAILED),
        (0x5554, "sw", EpochEnd.LIMIT),
        (board.FINISHER_POWEROFF & 0xFF, "sb", EpochEnd.LIMIT),
    ],
)
def test_the_finisher_ends_the_machine(value: int, width: str, end: EpochEnd) -> None:
    code = Asm(ENTRY)
    store(code, board.FINISHER_BASE, value, width)
    spin(code)
    box = Box(code)
    assert box.run().reason == end
    if end == EpochEnd.FAILED:
        assert f"failure reason {value >> 16 or 1} " in box.machine.failure


def test_an_epoch_ends_when_devices_have_done_too_much() -> None:
    """A loop that has the disk read 64 KiB into the same buffer 512 times with each notification, for ever."""
    config = config_of(disk=[{"image": "d", "size": "1 MiB"}])
    ring = Ring(0, PLACE, num=64)
    code = Asm(ENTRY)
    ring.start(code)
    table, status = ring.buffers, ring.buffers + 0x800
    ring.describe(code, table, status + 16, 16, 1, 1)
    for index in range(1, 9):
        ring.describe(code, table + 16 * index, DATA, 64 << 10, 3, index + 1)
    ring.describe(code, table + 16 * 9, status, 1, 2)
    ring.describe(code, 0, table, 160, 4)
    ring.offer(code, [0] * 64, 0)
    code.li("s1", ring.avail)
    code.li("s2", ring.base)
    code.label("again")
    code.addi("s3", "s3", 64)
    code.sh("s3", 2, "s1")
    code.sw("zero", Register.QUEUE_NOTIFY, "s2")
    code.addi("s4", "s4", 1)
    code.j("again")
    box = Box(config)
    box.boot(code)
    for _ in range(3):
        result = box.run(budget=50_000_000)
        assert result.reason == EpochEnd.LIMIT
        one = 64 * 8 * 17
        assert EPOCH_WORK_MAX < box.machine.memory.work < EPOCH_WORK_MAX + 2 * one
    assert box.machine.hart.registers()["x20"] < 40
    assert box.notices == []


def test_an_epoch_ends_when_it_has_put_out_too_much() -> None:
    """A loop that sends 64 frames of 60,000 bytes with each notification, for ever."""
    ring = Ring(0, PLACE, num=64, queue=1)
    code = Asm(ENTRY)
    ring.start(code)
    ring.describe(code, 0, DATA, 60_000, 0)
    ring.offer(code, [0] * 64, 0)
    code.li("s1", ring.avail)
    code.li("s2", ring.base)
    code.li("s5", 1)
    code.label("again")
    code.addi("s3", "s3", 64)
    code.sh("s3", 2, "s1")
    code.sw("s5", Register.QUEUE_NOTIFY, "s2")
    code.j("again")
    box = Box(config_of(network=[{}]))
    box.boot(code)
    for _ in range(2):
        result = box.run(budget=50_000_000)
        assert result.reason == EpochEnd.LIMIT
        sent = sum(len(output.data) for output in result.outputs if output.kind == OutputKind.PACKET)
        assert EPOCH_OUTPUT_MAX < sent <= EPOCH_OUTPUT_MAX + 2 * 64 * 60_000


def test_a_violation_is_told_only_by_the_device_when_nothing_is_restarted() -> None:
    """DEVICE_NEEDS_RESET; the guest goes on, and can reset the device."""
    ring = Ring(0, PLACE)
    code = Asm(ENTRY)
    ring.start(code)
    ring.offer(code, [9], 1)
    for index in range(2):
        load_to(code, "s2", ring.base + Register.STATUS)
        keep(code, "s2", index)
        ring.set(code, Register.STATUS, 0)
    power_off(code)
    box = Box(config_of(disk=[{"image": "d", "size": "1 MiB"}]))
    box.boot(code)
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert list(box.words(DATA, 2)) == [15 | Status.DEVICE_NEEDS_RESET, 0]
