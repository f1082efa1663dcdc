# SPDX-License-Identifier: GPL-2.0-or-later
"""The real-time clock: nanoseconds from guest ticks, and an alarm at an exact tick; and the finisher beside it."""

from __future__ import annotations

import pytest

from devices.finisher import Finisher
from devices.rtc import Register, Rtc

EPOCH = 1_700_000_000_000_000_000


class Bench:
    """A clock that started at EPOCH, at tick 1000."""

    def __init__(self) -> None:
        self.ticks = 1000
        self.level = False
        self.rearmed = 0
        self.rtc = Rtc(lambda: self.ticks, self.line, EPOCH, self.note)

    def line(self, level: bool) -> None:
        self.level = level

    def note(self) -> None:
        self.rearmed += 1

    def get(self, register: int) -> int:
        return self.rtc.read(register, 4)

    def put(self, register: int, value: int) -> None:
        self.rtc.write(register, 4, value)

    def time(self) -> int:
        low = self.get(Register.TIME_LOW)
        return self.get(Register.TIME_HIGH) << 32 | low

    def arm(self, time: int) -> None:
        self.put(Register.ALARM_HIGH, time >> 32)
        self.put(Register.ALARM_LOW, time & 0xFFFFFFFF)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_time_follows_guest_ticks(bench: Bench) -> None:
    """100 ns a tick; the high half belongs to the last read of the low half."""
    assert bench.time() == EPOCH + 100_000
    low = bench.get(Register.TIME_LOW)
    bench.ticks += 1 << 33
    assert bench.get(Register.TIME_HIGH) << 32 | low == EPOCH + 100_000
    assert bench.time() == EPOCH + 100_000 + (100 << 33)


@pytest.mark.parametrize("time", [0, 5, EPOCH, 2**64 - 1])
def test_the_guest_may_set_any_time(bench: Bench, time: int) -> None:
    """High half first, as Linux does."""
    bench.put(Register.TIME_HIGH, time >> 32)
    bench.put(Register.TIME_LOW, time & 0xFFFFFFFF)
    assert bench.time() == time
    bench.ticks += 1
    assert bench.time() == (time + 100) % 2**64


def test_an_alarm_rings_at_its_deadline(bench: Bench) -> None:
    """Not a tick before, and the line follows IRQ_ENABLED."""
    bench.arm(EPOCH + 200_001)
    assert bench.rtc.deadline == 2001 and bench.get(Register.ALARM_STATUS) == 1 and bench.rearmed == 1
    bench.ticks = 2000
    bench.rtc.expire()
    assert bench.rtc.deadline == 2001
    bench.ticks = 2001
    bench.rtc.expire()
    assert bench.rtc.deadline is None and bench.get(Register.ALARM_STATUS) == 0 and not bench.level
    bench.put(Register.IRQ_ENABLED, 1)
    assert bench.level
    bench.put(Register.CLEAR_INTERRUPT, 1)
    assert not bench.level


def test_an_alarm_in_the_past_rings_at_once(bench: Bench) -> None:
    """Writing ALARM_LOW arms, and the time has come already."""
    bench.put(Register.IRQ_ENABLED, 1)
    bench.arm(EPOCH)
    assert bench.level and bench.rtc.deadline is None


def test_an_alarm_can_be_taken_back(bench: Bench) -> None:
    """CLEAR_ALARM disarms; a reset does too and keeps the time."""
    bench.arm(EPOCH + 10**9)
    bench.put(Register.CLEAR_ALARM, 1)
    assert bench.rtc.deadline is None and bench.rearmed == 2
    bench.arm(EPOCH + 10**9)
    bench.rtc.reset()
    assert bench.rtc.deadline is None and bench.time() == EPOCH + 100_000


def test_setting_the_time_moves_the_deadline(bench: Bench) -> None:
    """The alarm is a time, not a delay."""
    bench.arm(EPOCH + 10**9)
    bench.put(Register.TIME_HIGH, EPOCH >> 32)
    bench.put(Register.TIME_LOW, EPOCH & 0xFFFFFFFF)
    assert bench.rtc.deadline == 1000 + 10**7


@pytest.mark.parametrize("size", [1, 2, 8])
def test_other_sizes_do_nothing(bench: Bench, size: int) -> None:
    """Registers are 32 bits wide."""
    bench.rtc.write(Register.ALARM_LOW, size, 1)
    assert bench.rtc.read(Register.TIME_LOW, size) == 0 and bench.rtc.deadline is None


def test_the_finisher_knows_three_codes() -> None:
    """Everything else is ignored."""
    asked: list[tuple[str, int]] = []
    finisher = Finisher(lambda code, status: asked.append((code, status)))
    for value in (0x5555, 0x7777, 0x00073333, 0, 0x1234, 0xFFFFFFFF):
        finisher.write(0, 4, value)
    finisher.write(4, 4, 0x5555)
    assert asked == [("poweroff", 0), ("reset", 0), ("fail", 7)]
    assert finisher.read(0, 4) == 0
