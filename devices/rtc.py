# SPDX-License-Identifier: GPL-2.0-or-later
"""Goldfish real-time clock (`google,goldfish-rtc`; Goldfish virtual hardware, "timer"): nanoseconds and one alarm.

| offset | register        | access | meaning                                                      |
|--------|-----------------|--------|--------------------------------------------------------------|
| 0x00   | TIME_LOW        | rw     | low half of the time; reading it latches the high half       |
| 0x04   | TIME_HIGH       | rw     | high half, as latched                                        |
| 0x08   | ALARM_LOW       | rw     | low half of the alarm; writing it arms the alarm             |
| 0x0c   | ALARM_HIGH      | rw     | high half, written first                                     |
| 0x10   | IRQ_ENABLED     | rw     | 1: an alarm that rang raises the interrupt                   |
| 0x14   | CLEAR_ALARM     | w      | disarms                                                      |
| 0x18   | ALARM_STATUS    | r      | 1 while armed                                                |
| 0x1c   | CLEAR_INTERRUPT | w      | takes the interrupt back                                     |

The time is guest time (ticks of 100 ns) plus an offset in nanoseconds, part of the state: the host's clock is never
asked. The machine looks at `deadline` and calls `expire` once guest time has reached it; `rearmed` is called when the
deadline changes by a guest access.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from devices.device import Device, Line, State

NS_PER_TICK = 100
_LOW = 0xFFFFFFFF
_HIGH = _LOW << 32


class Register(IntEnum):
    """Offsets, all 32 bits wide."""

    TIME_LOW = 0x00
    TIME_HIGH = 0x04
    ALARM_LOW = 0x08
    ALARM_HIGH = 0x0C
    IRQ_ENABLED = 0x10
    CLEAR_ALARM = 0x14
    ALARM_STATUS = 0x18
    CLEAR_INTERRUPT = 0x1C


def _nothing() -> None:
    pass


class Rtc(Device):
    """The clock; `now()` gives guest ticks, `base_ns` the time at tick 0 in nanoseconds since 1970."""

    size = 0x1000

    def __init__(
        self, now: Callable[[], int], line: Line, base_ns: int, rearmed: Callable[[], None] = _nothing
    ) -> None:
        self._now = now
        self._line = line
        self._rearmed = rearmed
        self._base_ns = base_ns  # Below zero when the guest sets a time before its own tick 0.
        self._time_high = 0
        self._alarm = 0
        self._armed = False
        self._ringing = False
        self._enabled = False

    @property
    def deadline(self) -> int | None:
        """Guest ticks at which the alarm is due, None when it is not armed."""
        if not self._armed:
            return None
        return max(0, -(-(self._alarm - self._base_ns) // NS_PER_TICK))

    def expire(self) -> None:
        """Rings the alarm if it is due now; harmless at any other time."""
        if self._armed and self._time() >= self._alarm:
            self._armed = False
            self._ringing = True
            self._update()

    def _time(self) -> int:
        return self._now() * NS_PER_TICK + self._base_ns

    def _update(self) -> None:
        self._line(self._ringing and self._enabled)

    def read(self, offset: int, size: int) -> int:
        """Reads a register; other sizes than 4 read as zero."""
        if size != 4:
            return 0
        if offset == Register.TIME_LOW:
            time = self._time()
            self._time_high = time >> 32 & _LOW
            return time & _LOW
        if offset == Register.TIME_HIGH:
            return self._time_high
        if offset == Register.ALARM_LOW:
            return self._alarm & _LOW
        if offset == Register.ALARM_HIGH:
            return self._alarm >> 32
        if offset == Register.IRQ_ENABLED:
            return int(self._enabled)
        if offset == Register.ALARM_STATUS:
            return int(self._armed)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Writes a register; other sizes than 4 are ignored."""
        if size != 4:
            return
        if offset == Register.TIME_LOW:
            self._set_time(self._time() & _HIGH | value)
        elif offset == Register.TIME_HIGH:
            self._set_time(self._time() & _LOW | value << 32)
        elif offset == Register.ALARM_LOW:
            self._alarm = self._alarm & _HIGH | value
            self._arm(True)
        elif offset == Register.ALARM_HIGH:
            self._alarm = self._alarm & _LOW | value << 32
        elif offset == Register.IRQ_ENABLED:
            self._enabled = bool(value & 1)
            self._update()
        elif offset == Register.CLEAR_ALARM:
            self._arm(False)
        elif offset == Register.CLEAR_INTERRUPT:
            self._ringing = False
            self._update()

    def _set_time(self, time: int) -> None:
        self._base_ns = time - self._now() * NS_PER_TICK
        self._arm(self._armed)

    def _arm(self, armed: bool) -> None:
        self._armed = armed
        self.expire()
        self._rearmed()

    def reset(self) -> None:
        """Disarms; a clock keeps its time."""
        self._time_high = self._alarm = 0
        self._armed = self._ringing = self._enabled = False
        self._line(False)

    def save(self) -> State:
        """Everything, the time's offset included."""
        flags = int(self._armed) | int(self._ringing) << 1 | int(self._enabled) << 2
        return {"base_ns": self._base_ns, "time_high": self._time_high, "alarm": self._alarm, "flags": flags}

    def restore(self, state: State) -> None:
        """Takes `state` over; the machine asks for `deadline` afterwards."""
        self._base_ns = state["base_ns"]
        self._time_high = state["time_high"]
        self._alarm = state["alarm"]
        flags = state["flags"]
        self._armed, self._ringing, self._enabled = bool(flags & 1), bool(flags & 2), bool(flags & 4)
