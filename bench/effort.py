# SPDX-License-Identifier: GPL-2.0-or-later
"""How much work a run may make, and the directory it works in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Effort:
    """Numbers that differ between a quick and a full run."""

    rounds: int  # alternations of a measurement and its baseline
    slice_s: float  # one measurement of a ratio
    window_s: float  # one measurement of a rate
    insns: int  # instructions of the compute guest that is run to its end
    kills: int  # of a primary, and as many of a driver


QUICK = Effort(rounds=2, slice_s=0.5, window_s=1.0, insns=100_000_000, kills=5)
FULL = Effort(rounds=7, slice_s=2.0, window_s=5.0, insns=1_800_000_000, kills=50)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a section of the benchmarks gets."""

    effort: Effort
    directory: Path  # empty at the start of the section
    say: Callable[[str], None]  # progress

    def path(self, name: str) -> Path:
        """A path in the section's directory."""
        return self.directory / name
