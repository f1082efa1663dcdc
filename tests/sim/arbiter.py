# SPDX-License-Identifier: GPL-2.0-or-later
"""The arbiter in memory: first come, first granted, for ever; and it can be out of reach."""

from __future__ import annotations

from random import Random

from ftvm.arbiter.arbiter import ArbiterUnavailable, Grant


class SimArbiter:
    """Implements what a member needs of an arbiter. `away` makes it unreachable; an answer can be lost as well."""

    def __init__(self, random: Random) -> None:
        self.grants: dict[int, Grant] = {}
        self.away = False
        self._random = random

    @property
    def highest(self) -> int:
        """The latest term granted, 0 for none."""
        return max(self.grants, default=0)

    def acquire(self, term: int, winner: str, members: tuple[str, ...]) -> Grant:
        """See Arbiter."""
        if self.away and self._random.random() < 0.8:
            raise ArbiterUnavailable("the simulated arbiter is away")
        assert term <= self.highest + 1, f"{winner} asks for term {term}, the latest one is {self.highest}"
        grant = self.grants.setdefault(term, Grant(term, winner, members))
        if self.away:
            raise ArbiterUnavailable("the simulated arbiter's answer is lost")
        return grant
