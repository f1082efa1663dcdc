# SPDX-License-Identifier: GPL-2.0-or-later
"""How far the backup may be behind: entries, bytes, and milliseconds of execution lag.

Lag is failover time, so the bound that matters is in milliseconds: lag is `now` minus the time when the primary had run
the oldest entry that the backup has not executed (before that, when it was sent). Both run an entry at the same time:
one that takes long on both is no lag. The window answers one question before each entry:

    delay(now) == 0          send it
    0 < delay(now) < inf     the backup lags: wait so many seconds first, once (gentle throttle)
    delay(now) == inf        full: wait for the next acknowledgement (hard stop)

        delay of one entry
        pause_max |            ________|  inf
                  |           /        |
                0 |__________/         |
                  0     lag_soft    lag_max        lag in ms

The pause is the lag beyond `lag_soft_ms`: while the primary waits that long, the backup catches up about as much. It is
fixed when first asked for after an entry, so that a caller who asks in a loop gets through. With `pause_share` it is at
most that share of the time since the entry before, so that the guest keeps 1 / (1 + pause_share) of its speed.
Entries and bytes count until *executed*: that covers what is unacknowledged as well as the backup's queue.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class _Sent:
    """An entry that the backup has not executed."""

    sequence: int
    size: int
    at: float
    since: float  # from when on it counts as lag


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a window. One entry may always be outstanding, however large."""

    max_entries: int = 1024
    max_bytes: int = 32 << 20
    lag_soft_ms: float = 10.0
    lag_max_ms: float = 50.0
    pause_max_ms: float = 20.0
    pause_share: float = math.inf


UNHURRIED = Limits(1 << 16, 64 << 20, math.inf, math.inf)  # while a joiner takes the state: memory alone is bounded


class Window:
    """Counts what was sent and not yet executed. `limits` may be replaced at any time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.bytes = 0
        self._outstanding: deque[_Sent] = deque()
        self._go_at: float | None = None  # end of the pause, once asked for

    @property
    def entries(self) -> int:
        """Entries sent and not known to be executed."""
        return len(self._outstanding)

    @property
    def full(self) -> bool:
        """Whether entries or bytes are used up."""
        return bool(self._outstanding) and (
            len(self._outstanding) >= self.limits.max_entries or self.bytes >= self.limits.max_bytes
        )

    def sent(self, sequence: int, size: int, now: float) -> None:
        """Note that an entry of `size` bytes was handed to the channel."""
        assert not self.full, f"entry {sequence} does not fit the window: ask delay() first"
        self._outstanding.append(_Sent(sequence, size, now, now))
        self.bytes += size
        self._go_at = None

    def ran(self, sequence: int, now: float) -> None:
        """Note that this side has run the entry that was sent last."""
        if self._outstanding and self._outstanding[-1].sequence == sequence:
            self._outstanding[-1].since = now

    def executed(self, sequence: int) -> None:
        """Note that the backup has executed everything up to `sequence`."""
        outstanding = self._outstanding
        while outstanding and outstanding[0].sequence <= sequence:
            self.bytes -= outstanding.popleft().size

    def lag_ms(self, now: float) -> float:
        """Return the execution lag in milliseconds; 0 when the backup has executed everything."""
        return max(0.0, (now - self._outstanding[0].since) * 1e3) if self._outstanding else 0.0

    def delay(self, now: float) -> float:
        """Return how many seconds to wait before the next entry: 0, a pause, or infinity when the window is full."""
        if not self._outstanding:
            return 0.0
        lag, limits = self.lag_ms(now), self.limits
        if self.full or lag >= limits.lag_max_ms:
            return math.inf
        if lag <= limits.lag_soft_ms:
            return 0.0
        if self._go_at is None:
            pause = min(lag - limits.lag_soft_ms, limits.pause_max_ms) / 1e3
            self._go_at = now + min(pause, limits.pause_share * (now - self._outstanding[-1].at))
        return max(0.0, self._go_at - now)
