# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor: decides, inside the replicated state, that the driver VM has died, and that it is restarted.

A death is a deterministic fact: a guest panic (system reset with a failure reason, or what a kernel says of it on the
console: `ftvm/panic.py`), a trap loop, a violated device or service protocol, or a request that is overdue in guest
time. Both replicas see it at the same clock, so nothing of it crosses the logging channel (LeVasseur et al., OSDI '04,
section 3.5: driver restart behind unchanged clients).
"""

from __future__ import annotations

from dataclasses import dataclass

RESTARTS_WITHOUT_PROGRESS_MAX = 10


@dataclass(slots=True)
class Supervisor:
    """Counts deaths, remembers why, and gives up on a driver that never gets anything done."""

    restart: bool
    restarts: int = 0
    fruitless: int = 0
    cause: str = ""
    _pending: str = ""

    def report(self, cause: str) -> None:
        """The driver has died; the first cause in an epoch is the one that counts."""
        if not self._pending:
            self._pending = cause

    @property
    def pending(self) -> str:
        """Why the driver has died in this epoch; empty while it lives."""
        return self._pending

    def forget(self) -> None:
        """The machine was reset: whatever had died is gone."""
        self._pending = ""

    def progress(self) -> None:
        """A client's request was answered: the driver is of use."""
        self.fruitless = 0

    def take(self) -> bool:
        """Acknowledge the pending death; True when the driver is to be restarted, False when the VM has failed."""
        self.cause, self._pending = self._pending, ""
        if not self.restart or self.fruitless >= RESTARTS_WITHOUT_PROGRESS_MAX:
            return False
        self.restarts += 1
        self.fruitless += 1
        return True

    def save(self) -> list[object]:
        """State at an epoch boundary (nothing pending)."""
        return [self.restarts, self.fruitless, self.cause]

    def load(self, state: list[object]) -> None:
        """Inverse of `save`."""
        restarts, fruitless, cause = state
        assert isinstance(restarts, int) and isinstance(fruitless, int) and isinstance(cause, str)
        self.restarts, self.fruitless, self.cause, self._pending = restarts, fruitless, cause, ""
