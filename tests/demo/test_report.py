# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict follows the rule exactly, and the report says why."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from ftvm.demo.kills import Kill, KillResult, Target
from ftvm.demo.report import Report

HOST = KillResult(Kill(1, Target.HOST, 0, 0.5), (8, 8), True, 30.0, 35.0, True, 400.0, "")
DRIVER = KillResult(Kill(2, Target.DRIVER, 5, 0.5), (4, 4), True, 90.0, None, True, None, "")
GOOD = Report(
    seed=1, seconds=9.5, kills=(HOST, DRIVER), driver_restarts=2, done={"READ": 5, "WRITE": 9}, retried=16,
    blocks=64, blocks_verified=64, log_bytes=12345,
)  # fmt: skip


def test_good_run_passes() -> None:
    assert GOOD.passed and GOOD.failures() == []


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (replace(GOOD, lost=1), "1 block version(s) lost"),
        (replace(GOOD, doubled=2), "2 block version(s) doubled"),
        (replace(GOOD, corrupt=1), "1 block version(s) corrupt"),
        (replace(GOOD, errors=("client 0: READ was answered with EIO",)), "1 request(s) ended with an error"),
        (replace(GOOD, unanswered=3), "3 request(s) were never answered"),
        (replace(GOOD, done={}), "no request was done"),
        (replace(GOOD, blocks_verified=63), "only 63 of 64 blocks were verified"),
        (replace(GOOD, problems=("the demo did not end",)), "the demo did not end"),
        (replace(GOOD, kills=(replace(HOST, hit=False), DRIVER)), "kill 1 of the primary's process: it did not hit"),
        (replace(GOOD, kills=(replace(HOST, in_flight=(7, 0)), DRIVER)), "in flight were 7, 0, not 8 of 2 clients"),
        (replace(GOOD, kills=(replace(HOST, in_flight=(16, 0)), DRIVER)), "in flight were 16, 0, not 8 of 2 clients"),
        (replace(GOOD, kills=(replace(HOST, in_flight=(3, 4)), DRIVER)), "in flight were 3, 4, not 8 of 2 clients"),
        (replace(GOOD, kills=(replace(HOST, protected=False), DRIVER)), "not followed by a protected pair"),
        (replace(GOOD, kills=(replace(HOST, reply_ms=None), DRIVER)), "not followed by a reply"),
        (replace(GOOD, kills=(HOST, KillResult(DRIVER.kill))), "kill 2 of the driver (dropped request): not carried"),
    ],
)
def test_each_breach_of_the_rule_fails_and_is_told(bad: Report, said: str) -> None:
    assert not bad.passed and not bad.as_json()["passed"]
    assert any(said in failure for failure in bad.failures())


def test_json_has_the_figures() -> None:
    figures = json.loads(json.dumps(GOOD.as_json()))
    assert (figures["failovers"], figures["driver_restarts"]) == (1, 2)
    assert figures["failover_ms"] == {"count": 1, "p50": 30.0, "p99": 30.0, "max": 30.0}
    assert figures["driver_restart_ms"]["max"] == 90.0 and figures["repair_ms"]["max"] == 400.0
    assert figures["requests_done"] == 14 and figures["retried"] == 16 and figures["log_bytes"] == 12345
    assert (figures["lost"], figures["doubled"], figures["corrupt"]) == (0, 0, 0)
    assert [kill["sound"] for kill in figures["kills"]] == [True, True]
    assert [kill["mode"] for kill in figures["kills"]] == ["", "dropped request"]


def test_host_kill_without_answered_clients_is_no_failover() -> None:
    assert replace(GOOD, kills=(replace(HOST, reply_ms=None),)).failovers == 0


def test_table_shows_verdict_figures_and_reasons() -> None:
    for report, verdict in ((GOOD, "PASSED"), (replace(GOOD, lost=1, findings=("block 7 shows 1",)), "FAILED")):
        page = io.StringIO()
        Console(width=100, file=page).print(report.table())
        text = page.getvalue()
        assert verdict in text and "30.0 ms" in text and "12,345 bytes" in text
    assert "1 block version(s) lost" in text and "block 7 shows 1" in text
