# SPDX-License-Identifier: GPL-2.0-or-later
"""Percentiles, and what counts as the next reply after a kill."""

from __future__ import annotations

import pytest

from ftvm.demo.meter import Meter, Spread, Watch


@pytest.mark.parametrize(
    ("values", "spread"),
    [
        ([], Spread(0, 0.0, 0.0, 0.0)),
        ([0.004], Spread(1, 4.0, 4.0, 4.0)),
        ([0.001, 0.003, 0.002, 0.004], Spread(4, 2.0, 4.0, 4.0)),
        ([n / 1000 for n in range(1, 201)], Spread(200, 100.0, 198.0, 200.0)),
    ],
)
def test_percentiles_are_by_nearest_rank_in_ms(values: list[float], spread: Spread) -> None:
    assert Spread.of(values) == spread


def test_reply_over_an_old_connection_is_not_the_next_reply() -> None:
    watch = Watch(10.0, (1, 4))
    watch.reply(10.001, 0, 1)
    watch.reply(10.002, 1, 4)
    assert not watch.failed_over and not watch.first_replies
    watch.reply(10.050, 0, 2)
    assert not watch.failed_over
    watch.reply(10.060, 0, 2)
    watch.reply(10.070, 1, 5)
    assert watch.failed_over
    assert (round(watch.first_s, 3), round(watch.all_s, 3)) == (0.050, 0.070)


def test_silence_is_the_longest_time_without_a_reply_to_anyone() -> None:
    watch = Watch(10.0, (1, 1))
    for now, client in ((10.01, 0), (10.02, 1), (10.32, 0), (10.33, 1)):
        watch.reply(now, client, 1)
    assert round(watch.silence, 3) == 0.3
    assert watch.replies == 4


def test_error_replies_are_kept_apart_but_end_a_silence() -> None:
    meter = Meter()
    meter.answered(1.0, 0, 1, "READ", 0.1)
    meter.failed(1.5, 0, 1, "client 0: READ was answered with EIO", 0.2)
    assert meter.done == {"READ": 1} and len(meter.errors) == 1
    assert meter.longest_silence == 0.5 and list(meter.latencies) == [0.1, 0.2]
