# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the next epoch is, and what time it is told: the two numbers that the live side chooses freely.

Budget: steered directly, not computed from a rate: down to a quarter when an epoch took over 1.3 times its target, up
by a quarter when it took less than 0.9 of it, never below a floor. Epochs that ended idle say nothing and are ignored.
The target is short for a few epochs after input, so that the next input and the next reply wait little. A guest that
has used up a short epoch gets one twice as long, up to sixteen times: it has more to do than one packet's or one
request's worth, and what an entry costs is then shared by many of them. Coming to rest makes the next one short again.

Time: guest time follows the host's, as an offset fixed when this side went live, and never steps back. While client
requests are outstanding one entry advances it by at most 50 ms, and by no more than its budget of code is worth on a
very slow host. So neither a pause of the host nor a host that hardly lets the guest run looks like a hung driver to the
guest's timers and to the watchdog: two seconds are 80 MB of code at least, unless the guest idles. Entries that catch
up have the long budget, whatever has come in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

TICKS_PER_SECOND: Final = 10_000_000
BUDGET_FLOOR: Final = 65_536  # bytes of code
BUDGET_CEILING: Final = 1 << 30
CATCH_UP_TICKS_MAX: Final = TICKS_PER_SECOND // 20
CODE_PER_TICK_MIN: Final = 4  # bytes: 40 MB/s, of an engine that runs some hundreds
HOT_EPOCHS: Final = 4
STRETCH_MAX: Final = 16


@dataclass(slots=True)
class Pace:
    """Steers budget and guest time of the entries that the live side decides."""

    target_s: float = 0.007
    hot_target_s: float = 0.0003
    budget: float = 4_000_000.0
    hot_budget: float = 400_000.0
    budget_max: float = BUDGET_CEILING
    hot: int = 0
    _stretch: int = 1  # by which the next short epoch is longer than `hot_target_s`
    _short: bool = False  # the entry that was asked for last has the short budget
    _origin: float | None = field(default=None)

    def start(self, now: float, guest_time: int) -> None:
        """Tie guest time to the host's from here on; `now` in seconds of any monotonic clock."""
        self._origin = now - guest_time / TICKS_PER_SECOND

    def host_ticks(self, now: float) -> int:
        """Where guest time should be at `now`."""
        assert self._origin is not None, "start() comes first"
        return int((now - self._origin) * TICKS_PER_SECOND)

    def seconds_until(self, ticks: int, now: float) -> float:
        """Host seconds until guest time should reach `ticks`; negative when it is late."""
        return (ticks - self.host_ticks(now)) / TICKS_PER_SECOND

    def input(self) -> None:
        """Input is being delivered: the next few epochs are short."""
        self.hot = HOT_EPOCHS

    def next(self, now: float, guest_time: int, outstanding: bool) -> tuple[int, int, int]:
        """(time, time_max, budget) of the next entry, given the guest time that was reached."""
        host = self.host_ticks(now)
        target = self.hot_target_s * self._stretch if self.hot else self.target_s
        ahead = int(target * TICKS_PER_SECOND)
        time = max(guest_time, host)
        short = self.hot_budget * self._stretch
        behind = outstanding and time > guest_time + _worth(short if self.hot else self.budget)
        if behind:
            time = min(time, guest_time + _worth(self.budget))
        time_max = max(time, min(host, time) + ahead)
        self._short = self.hot > 0 and not behind
        return time, time_max, _round(short if self._short else self.budget)

    def ran(self, seconds: float, used_whole_budget: bool) -> None:
        """The epoch took `seconds`; adapt."""
        self.hot = max(0, self.hot - 1)
        if used_whole_budget and self._short:
            ratio = seconds / (self.hot_target_s * self._stretch)
            self.hot_budget = _steer(self.hot_budget, ratio, self.budget_max)
            self._stretch = min(STRETCH_MAX, 2 * self._stretch)
        elif used_whole_budget:
            self.budget = _steer(self.budget, seconds / self.target_s, self.budget_max)
        if not (used_whole_budget and self.hot):
            self._stretch = 1


def _worth(budget: float) -> int:
    """Ticks by which an entry may advance a guest that has work, given the code that it may run in that entry."""
    return min(CATCH_UP_TICKS_MAX, _round(budget) // CODE_PER_TICK_MIN)


def _steer(budget: float, ratio: float, most: float) -> float:
    if ratio > 1.3:
        return max(BUDGET_FLOOR, budget / min(ratio, 4.0))
    if ratio < 0.9:
        return min(most, budget * min(1 / max(ratio, 0.1), 1.25))
    return budget


def _round(budget: float) -> int:
    """Keep three significant bits, so that a log of equal budgets compresses to nothing."""
    whole = int(budget)
    shift = max(0, whole.bit_length() - 3)
    return (whole >> shift) << shift
