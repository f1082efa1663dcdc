# SPDX-License-Identifier: GPL-2.0-or-later
"""The window: bounded entries, bytes and lag; gentle before it is hard."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_channel.window import UNHURRIED, Limits, Window

LIMITS = Limits(max_entries=4, max_bytes=100, lag_soft_ms=10, lag_max_ms=50, pause_max_ms=20)


def test_an_empty_window_never_delays() -> None:
    """However much time has passed."""
    window = Window(LIMITS)
    assert window.delay(0.0) == window.delay(1e9) == 0.0
    assert window.lag_ms(1e9) == 0.0


@pytest.mark.parametrize(
    ("lag_ms", "delay_ms"),
    [(0, 0), (9.9, 0), (10, 0), (12, 2), (20, 10), (29, 19), (35, 20), (49.9, 20), (50, math.inf), (1e6, math.inf)],
)
def test_the_pause_grows_with_the_lag(lag_ms: float, delay_ms: float) -> None:
    """Nothing up to the soft bound, then the excess, capped, and a hard stop at the maximum."""
    window = Window(LIMITS)
    window.sent(1, 1, 0.0)
    assert window.delay(lag_ms / 1e3) * 1e3 == pytest.approx(delay_ms)


def test_a_caller_that_waits_gets_through() -> None:
    """The pause is fixed when first asked for, although the lag grows while waiting."""
    window = Window(LIMITS)
    window.sent(1, 1, 0.0)
    now = 0.015
    pause = window.delay(now)
    assert pause == pytest.approx(0.005)
    assert window.delay(now + 0.003) == pytest.approx(0.002)
    assert window.delay(now + pause) == 0.0
    window.sent(2, 1, now + pause)
    assert window.delay(now + pause) == pytest.approx(0.010), "the next entry is paused anew"


def test_lag_counts_from_the_oldest_unexecuted_entry() -> None:
    """Executing it moves the lag on to the next one."""
    window = Window(LIMITS)
    window.sent(1, 1, 0.0)
    window.sent(2, 1, 0.008)
    assert window.lag_ms(0.009) == pytest.approx(9)
    window.executed(1)
    assert window.lag_ms(0.009) == pytest.approx(1)
    window.executed(2)
    assert window.lag_ms(0.009) == 0.0


def test_what_both_sides_run_for_long_is_no_lag() -> None:
    """An entry counts from when this side has run it, however early it was sent; a late word changes nothing."""
    window = Window(LIMITS)
    window.sent(1, 1, 0.0)
    window.ran(1, 0.030)
    assert window.lag_ms(0.031) == pytest.approx(1) and window.delay(0.031) == 0.0
    window.sent(2, 1, 0.031)
    window.executed(1)
    window.ran(1, 0.032)
    assert window.lag_ms(0.032) == pytest.approx(1)
    window.executed(2)
    window.ran(2, 0.033)
    assert window.lag_ms(0.034) == 0.0


def test_a_full_window_stops_until_an_entry_is_executed() -> None:
    """By entries and by bytes."""
    window = Window(LIMITS)
    for sequence in range(1, 5):
        window.sent(sequence, 1, 0.0)
    assert window.full and window.delay(0.0) == math.inf
    window.executed(1)
    assert not window.full and window.delay(0.0) == 0.0
    window.sent(5, 97, 0.0)
    window.executed(2)
    assert window.entries == 3 and window.bytes == 99 and not window.full
    window.executed(4)
    window.sent(6, 3, 0.0)
    assert window.full and window.bytes == 100


def test_one_huge_entry_passes_an_empty_window() -> None:
    """Else it would wait for ever."""
    window = Window(LIMITS)
    window.sent(1, 10_000, 0.0)
    assert window.delay(0.0) == math.inf
    window.executed(1)
    assert window.delay(0.0) == 0.0 and window.bytes == 0


def test_sending_into_a_full_window_is_our_own_bug() -> None:
    """Whoever sends asks for the delay first."""
    window = Window(Limits(max_entries=1))
    window.sent(1, 1, 0.0)
    with pytest.raises(AssertionError, match="ask delay"):
        window.sent(2, 1, 0.0)


def test_a_joiner_that_catches_up_slows_nobody_down() -> None:
    """Only memory bounds it."""
    window = Window(UNHURRIED)
    window.sent(1, 1, 0.0)
    assert window.delay(3600.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(0, 3)), max_size=60))
@settings(max_examples=150)
def test_a_caller_that_obeys_never_exceeds_the_bounds(steps: list[tuple[int, int, int]]) -> None:
    """Laws: at most max_entries outstanding; at most one entry beyond max_bytes; no send at a lag over the maximum."""
    window, now, sequence, executed = Window(LIMITS), 0.0, 0, 0
    sizes: dict[int, int] = {}
    for size, pass_ms, done in steps:
        now += pass_ms / 1e3
        executed = min(sequence, executed + done)
        window.executed(executed)
        delay = window.delay(now)
        assert delay == math.inf or 0.0 <= delay <= LIMITS.pause_max_ms / 1e3 + 1e-9
        if delay == math.inf:
            assert sequence > executed, "an empty window is never full"
            continue
        now += delay
        if window.delay(now) == math.inf:
            continue  # while pausing, the lag reached its maximum
        assert window.lag_ms(now) < LIMITS.lag_max_ms
        sequence += 1
        sizes[sequence] = size
        window.sent(sequence, size, now)
        outstanding = [sizes[number] for number in range(executed + 1, sequence + 1)]
        assert len(outstanding) == window.entries <= LIMITS.max_entries
        assert sum(outstanding) == window.bytes
        assert sum(outstanding[:-1]) < LIMITS.max_bytes
