# SPDX-License-Identifier: GPL-2.0-or-later
"""`Figure`: one measured number, what it is to reach, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `value` is None when it could not be measured: `note` says why."""

    name: str
    value: float | None
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def goal(self) -> str | None:
        """The goal in words, None when the figure is only told."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return None if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal or a value."""
        if self.value is None or self.goal is None:
            return None
        if self.at_least is not None:
            return self.value >= self.at_least
        assert self.at_most is not None
        return self.value <= self.at_most

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        value = None if self.value is None else float(f"{self.value:.4g}")
        return {"name": self.name, "value": value, "unit": self.unit, "goal": self.goal, "met": self.met}


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The range of the values behind a median, for a note."""
    if len(values) < 2:
        return ""
    return f"{min(values):.{digits}g} to {max(values):.{digits}g} in {len(values)} rounds"


def middle(values: Sequence[float]) -> float | None:
    """The median, None of nothing."""
    return median(values) if values else None


def percentile(values: Sequence[float], percent: float) -> float | None:
    """By nearest rank, None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * int(percent) // 100) - 1))]
