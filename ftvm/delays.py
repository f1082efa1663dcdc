# SPDX-License-Identifier: GPL-2.0-or-later
"""How long outputs wait for the output rule: from the moment the guest makes one until it leaves.

Counted in buckets whose bounds grow by an eighth of a factor of two, so that nothing grows and a percentile is right to
9 %; outputs that do not wait at all are counted as such.
"""

from __future__ import annotations

from math import log2
from typing import Final

PER_OCTAVE: Final = 8
BUCKETS: Final = 30 * PER_OCTAVE  # up to 1,000 seconds


class Delays:
    """Delays since the last `clear`."""

    __slots__ = ("_buckets", "at_once", "max_s")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.at_once = 0  # outputs that did not wait
        self.max_s = 0.0
        self._buckets = [0] * BUCKETS

    def add(self, seconds: float) -> None:
        """One output left after waiting `seconds`."""
        octaves = log2(seconds * 1e6) if seconds > 1e-6 else 0.0
        self._buckets[min(int(octaves * PER_OCTAVE), BUCKETS - 1)] += 1
        if seconds > self.max_s:
            self.max_s = seconds

    @property
    def count(self) -> int:
        """Outputs that left."""
        return self.at_once + sum(self._buckets)

    def percentile_us(self, percent: float) -> float:
        """The delay in microseconds that `percent` of the outputs did not exceed; 0 when most did not wait."""
        rank = self.count * percent / 100
        seen = self.at_once
        for index, count in enumerate(self._buckets):
            if seen >= rank:
                return 0.0 if index == 0 else self._bound_us(index - 1)
            seen += count
        return self._bound_us(BUCKETS - 1)

    def _bound_us(self, index: int) -> float:
        return min(float(2.0 ** ((index + 1) / PER_OCTAVE)), self.max_s * 1e6)

    def report(self) -> dict[str, float]:
        """For the status file, in microseconds."""
        return {
            "count": self.count,
            "p50": round(self.percentile_us(50), 1),
            "p99": round(self.percentile_us(99), 1),
            "max": round(self.max_s * 1e6, 1),
        }
