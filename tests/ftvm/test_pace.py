# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest time and budgets: follow the host, never back, and never faster than a guest that has work can run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.pace import (
    BUDGET_FLOOR,
    CATCH_UP_TICKS_MAX,
    CODE_PER_TICK_MIN,
    HOT_EPOCHS,
    STRETCH_MAX,
    TICKS_PER_SECOND,
    Pace,
)

WATCHDOG = 2 * TICKS_PER_SECOND


def started(**fields: float) -> Pace:
    pace = Pace(**fields)  # type: ignore[arg-type]
    pace.start(0.0, 0)
    return pace


def code_until(pace: Pace, ticks: int, now: float) -> int:
    """Bytes of code that a guest with a request outstanding may run before guest time has moved on by `ticks`."""
    time = code = 0
    while time < ticks:
        time, _, budget = pace.next(now, time, True)
        code += budget
    return code


@pytest.mark.parametrize("hot", [0, HOT_EPOCHS])
@pytest.mark.parametrize("budget", [BUDGET_FLOOR, 300_000, 4_000_000, 1 << 28])
def test_a_watchdog_after_a_long_pause_has_let_the_guest_run(budget: int, hot: int) -> None:
    """However little the guest ran per entry before the pause: two seconds of its time are 80 MB of its code."""
    pace = started(budget=budget, hot_budget=BUDGET_FLOOR, hot=hot)
    assert code_until(pace, WATCHDOG, now=3600.0) >= WATCHDOG * CODE_PER_TICK_MIN * 3 // 4


def test_a_host_that_hardly_lets_the_guest_run_is_no_hung_driver() -> None:
    """Each entry gets the least budget and takes 45 ms of the host's time."""
    pace = started(budget=BUDGET_FLOOR, hot_budget=BUDGET_FLOOR)
    now, time, code = 0.0, 0, 0
    while time < WATCHDOG:
        now += 0.045
        time, _, budget = pace.next(now, time, True)
        pace.ran(0.045, True)
        code += budget
        assert code < 1 << 30, "guest time does not move"
    assert code >= 80_000_000


def test_at_its_usual_speed_the_guest_catches_up() -> None:
    """After a second's pause, with a request outstanding all the time: its epochs make up for more than they take."""
    pace = started()
    now, time = 1.0, 0
    for _ in range(100):
        time, _, _ = pace.next(now, time, True)
        pace.ran(0.006, True)
        now += 0.006
    assert time == pytest.approx((now - 0.006) * TICKS_PER_SECOND, abs=2)


def test_without_requests_guest_time_is_the_hosts() -> None:
    pace = started(budget=BUDGET_FLOOR)
    assert pace.next(100.0, 5, False)[0] == 100 * TICKS_PER_SECOND


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0, 10), st.booleans(), st.booleans(), st.booleans()), max_size=40),
    st.floats(0, 1e6),
)
def test_guest_time_never_steps_back_and_budgets_have_a_floor(
    steps: list[tuple[float, bool, bool, bool]], start: float
) -> None:
    pace = Pace()
    pace.start(start, 1000)
    now, time = start, 1000
    for passes, outstanding, input_comes, whole in steps:
        now += passes
        if input_comes:
            pace.input()
        next_time, time_max, budget = pace.next(now, time, outstanding)
        assert time <= next_time <= time_max
        assert budget >= BUDGET_FLOOR * 3 // 4
        assert not outstanding or next_time - time <= CATCH_UP_TICKS_MAX
        pace.ran(passes, whole)
        time = time_max


def test_a_guest_that_stays_busy_with_input_gets_longer_epochs_until_it_rests() -> None:
    """Each used up one is followed by one twice as long; one that ended idle, by a short one."""
    pace = started()
    factors = []
    for number in range(9):
        pace.input()
        time, time_max, _ = pace.next(1.0, TICKS_PER_SECOND, False)
        factors.append(round((time_max - time) / (pace.hot_target_s * TICKS_PER_SECOND)))
        pace.ran(factors[-1] * pace.hot_target_s, number != 6)
    assert factors == [1, 2, 4, 8, STRETCH_MAX, STRETCH_MAX, STRETCH_MAX, 1, 2]


def test_without_further_input_epochs_are_long_again() -> None:
    pace = started()
    pace.input()
    spans = []
    for _ in range(HOT_EPOCHS + 1):
        time, time_max, _ = pace.next(0.0, 0, False)
        spans.append((time_max - time) / TICKS_PER_SECOND)
        pace.ran(0.0, True)
    assert spans[0] == pytest.approx(pace.hot_target_s, rel=0.01)
    assert spans[-1] == pytest.approx(pace.target_s, rel=0.01)
