# SPDX-License-Identifier: GPL-2.0-or-later
"""Suspicion: silence, a lost connection, no progress; and this process's own pauses are no evidence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logging_channel.failure_detector import FailureDetector


def detector(stall_ms: float | None = None) -> FailureDetector:
    """Timeout 200 ms, heartbeat 20 ms, started at time 0."""
    return FailureDetector(200, 20, 0.0, stall_ms)


def watch(fd: FailureDetector, start: float, end: float) -> tuple[float, str] | None:
    """Ask every 10 ms, return when and why it first suspects."""
    steps = round((end - start) * 100)
    for step in range(steps + 1):
        now = start + step / 100
        if (why := fd.suspect(now)) is not None:
            return now, why
    return None


def test_silence_is_suspicious_after_the_timeout() -> None:
    """And not before."""
    found = watch(detector(), 0.0, 1.0)
    assert found is not None and found[0] == pytest.approx(0.21)
    assert found[1] == "nothing was heard from the peer for 210 ms (timeout 200 ms)"


def test_anything_heard_ends_the_silence() -> None:
    """Traffic itself is a sign of life, also after a suspicion."""
    fd = detector()
    assert watch(fd, 0.0, 0.3) is not None
    fd.heard(0.31)
    assert watch(fd, 0.31, 0.5) is None


def test_a_lost_connection_is_suspicious_at_once() -> None:
    """Until the peer is heard again."""
    fd = detector()
    fd.heard(0.1)
    fd.disconnected(0.1, "the connection to member 'a' was lost")
    assert fd.suspect(0.101) == "the connection to member 'a' was lost 1 ms ago"
    fd.heard(0.12)
    assert fd.suspect(0.121) is None


def test_no_progress_with_work_pending_is_suspicious() -> None:
    """A peer that beats and does nothing has hung."""
    fd = detector(stall_ms=500)
    for step in range(60):
        now = step * 0.02
        fd.progressed(now, progress=7, work_pending=True)
        why = fd.suspect(now)
        if now <= 0.5:
            assert why is None, now
        elif now > 0.53:
            assert why is not None and "made no progress beyond 7" in why
    fd.progressed(1.2, progress=8, work_pending=True)
    assert fd.suspect(1.2) is None


def test_an_idle_peer_need_not_progress() -> None:
    """Nor one that just got work after a long idle time."""
    fd = detector(stall_ms=500)
    for step in range(60):
        fd.progressed(step * 0.02, progress=7, work_pending=False)
        assert fd.suspect(step * 0.02) is None
    fd.progressed(1.2, progress=7, work_pending=True)
    assert fd.suspect(1.21) is None


def test_a_pause_of_this_process_is_not_the_peers_silence() -> None:
    """After SIGCONT the peer gets half a timeout before it is suspected."""
    fd = detector()
    assert fd.suspect(0.05) is None
    assert fd.suspect(10.0) is None, "paused for ten seconds"
    assert fd.pauses == 1
    found = watch(fd, 10.0, 11.0)
    assert found is not None and found[0] == pytest.approx(10.11)


def test_a_pause_of_this_process_is_not_the_peers_stall() -> None:
    """The pause does not count as time in which the peer could have progressed."""
    fd = detector(stall_ms=500)
    fd.progressed(0.0, 7, True)
    fd.progressed(0.01, 7, True)
    assert fd.suspect(0.01) is None
    fd.progressed(10.0, 7, True)
    assert fd.suspect(10.0) is None


def test_a_heartbeat_is_due_when_nothing_else_was_sent() -> None:
    """The first at once, later ones after the interval; other traffic postpones it."""
    fd = detector()
    assert fd.due(0.0)
    fd.sent(0.0)
    assert not fd.due(0.019) and fd.due(0.0201)
    assert fd.next_at() == pytest.approx(0.02)
    fd.sent(0.015)
    assert not fd.due(0.0201)
    assert fd.next_at() == pytest.approx(0.035)


@given(st.lists(st.floats(0.0, 0.19), max_size=40))
def test_a_peer_heard_within_every_timeout_is_never_suspected(gaps: list[float]) -> None:
    """Whatever the rhythm, as long as no gap reaches the timeout."""
    fd, now = detector(), 0.0
    for gap in gaps:
        now += gap
        assert fd.suspect(now) is None
        fd.heard(now)
