# SPDX-License-Identifier: GPL-2.0-or-later
"""`Bins`: sums over guest time in a bounded number of bins, however long the time turns out to be.

    width 1:  |3|1|0|2|...|          nothing is known of how long it will be
    a time behind the last bin: neighbours are added up, the width doubles, as often as needed
    width 2:  |4  |2  |...|

So one walk is enough, and memory is that of the bins.
"""

from __future__ import annotations

from typing import Final

BINS_MAX: Final = 8192
WORK_MAX: Final = 1 << 22  # bins to spread over: far more than in a log whose time only goes on


class Bins:
    """Series by name, each with a number for every bin. Times in ticks; those before `start` count as `start`."""

    def __init__(self, bins_max: int = BINS_MAX) -> None:
        assert bins_max % 2 == 0
        self.start = 0
        self.width = 1  # ticks
        self._max = bins_max
        self._begun = False
        self._work = 0
        self._series: dict[str, list[float]] = {}

    def add(self, name: str, time: int, value: float = 1) -> None:
        """Add to the bin of a moment."""
        index = self._index(time)
        series = self._of(name, index)
        series[index] += value

    def spread(self, name: str, begin: int, end: int, value: float) -> None:
        """Add to all bins between two moments, in proportion."""
        self._index(begin)  # may be the first time of all
        last = self._index(max(begin, end - 1))
        first = self._index(begin)
        series = self._of(name, last)
        self._work += last - first
        if first == last or end <= begin or self._work > WORK_MAX:
            series[last] += value
            return
        density = value / (end - begin)
        for index in range(first, last + 1):
            left = max(begin, self.start + index * self.width)
            right = min(end, self.start + (index + 1) * self.width)
            series[index] += density * max(0, right - left)

    def series(self) -> dict[str, list[float]]:
        """All of them, of equal length."""
        count = max((len(values) for values in self._series.values()), default=0)
        return {name: values + [0.0] * (count - len(values)) for name, values in self._series.items()}

    def _index(self, time: int) -> int:
        if not self._begun:
            self.start, self._begun = time, True
        while (index := max(0, time - self.start) // self.width) >= self._max:
            self._halve()
        return index

    def _of(self, name: str, index: int) -> list[float]:
        series = self._series.setdefault(name, [])
        if len(series) <= index:
            series += [0.0] * (index + 1 - len(series))
        return series

    def _halve(self) -> None:
        self.width *= 2
        for name, values in self._series.items():
            values += [0.0] * (len(values) % 2)
            self._series[name] = [one + other for one, other in zip(values[::2], values[1::2], strict=True)]


def packed(values: list[float]) -> list[int]:
    """A series as whole numbers (below zero: zero); so many zeros in a row as one number below zero."""
    out: list[int] = []
    zeros = 0
    for value in values:
        number = round(value)
        if number <= 0:
            zeros += 1
            continue
        if zeros:
            out.append(-zeros)
        zeros = 0
        out.append(number)
    return [*out, -zeros] if zeros else out
