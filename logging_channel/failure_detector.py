# SPDX-License-Identifier: GPL-2.0-or-later
"""Suspicion, in words. It never decides anything: whoever wants to act on it must win the arbiter first.

    cause                                     told when
    the transport's disconnect notice         at once, until the peer is heard on a new connection
    silence                                   nothing heard for timeout_ms
    no progress with work pending             the same progress reported for stall_ms (default 10 timeouts)

Anything heard counts as a sign of life; heartbeats fill the gaps of other traffic (`sent` postpones the next one).
A pause of *this* process (SIGSTOP, a suspended host) must not look like the peer's silence: when `suspect` was not
asked for longer than half a timeout, the peer gets half a timeout from now on before it is suspected of silence. So
drain the transport first, then ask; and ask at least as often as heartbeats are due (`next_at`).
"""

from __future__ import annotations


class FailureDetector:
    """Watches one peer. Every `now` is monotonic seconds of one clock."""

    def __init__(self, timeout_ms: float, heartbeat_ms: float, now: float, stall_ms: float | None = None) -> None:
        assert 0 < heartbeat_ms < timeout_ms, (heartbeat_ms, timeout_ms)
        self.timeout_ms = timeout_ms
        self.heartbeat_ms = heartbeat_ms
        self.stall_ms = 10 * timeout_ms if stall_ms is None else stall_ms
        self.pauses = 0  # pauses of this process that were noticed
        self._heard_at = now
        self._sent_at = now - heartbeat_ms / 1e3
        self._asked_at = now
        self._progress = -1
        self._progress_at = now
        self._pending = False
        self._lost_at: float | None = None
        self._lost_why = ""

    def heard(self, now: float) -> None:
        """Something admissible came from the peer."""
        self._heard_at = now
        self._lost_at = None

    def progressed(self, now: float, progress: int, work_pending: bool) -> None:
        """The peer reported how far it is, and whether it has something to do."""
        self.heard(now)
        if progress != self._progress or not (work_pending and self._pending):
            self._progress_at = now
        self._progress = progress
        self._pending = work_pending

    def sent(self, now: float) -> None:
        """Something was sent to the peer: the next heartbeat is not due for a while."""
        self._sent_at = now

    def due(self, now: float) -> bool:
        """Whether a heartbeat should be sent now."""
        return (now - self._sent_at) * 1e3 >= self.heartbeat_ms

    def disconnected(self, now: float, why: str = "the connection to the peer was lost") -> None:
        """The transport noticed that the peer's connection ended."""
        self._lost_at = now
        self._lost_why = why

    def next_at(self) -> float:
        """Return the time at which `due` or `suspect` should be asked next, at the latest."""
        return self._sent_at + self.heartbeat_ms / 1e3

    def suspect(self, now: float) -> str | None:
        """Return why the peer is suspected, None when it is not. Drain the transport first."""
        self._notice_own_pause(now)
        if self._lost_at is not None:
            return f"{self._lost_why} {(now - self._lost_at) * 1e3:.0f} ms ago"
        silent_ms = (now - self._heard_at) * 1e3
        if silent_ms > self.timeout_ms:
            return f"nothing was heard from the peer for {silent_ms:.0f} ms (timeout {self.timeout_ms:g} ms)"
        stalled_ms = (now - self._progress_at) * 1e3
        if self._pending and stalled_ms > self.stall_ms:
            return (
                f"the peer has work and made no progress beyond {self._progress} for {stalled_ms:.0f} ms "
                f"(limit {self.stall_ms:g} ms)"
            )
        return None

    def _notice_own_pause(self, now: float) -> None:
        """After a pause of this process, count half a timeout of silence at most, and none of the pause as a stall."""
        grace = self.timeout_ms / 2e3
        pause = now - self._asked_at
        if pause > grace:
            self.pauses += 1
            self._heard_at = max(self._heard_at, now - grace)
            self._progress_at = min(now, self._progress_at + pause)
        self._asked_at = now
