# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole demo: against a real server that is killed, and against servers that break their promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftvm.demo.report import Report
from ftvm.demo.run import Options, run_demo

from .servers import FaultyServer, QemuNbd, closing

QUICK = (0.05, 0.15)


def run_faulty(fault: str, **more: int) -> Report:
    with closing(FaultyServer(fault)) as pair:
        options = Options(seed=5, kill="driver", count=1, blocks_per_client=64, calm_s=QUICK, **more)
        return run_demo(pair, pair.address, options, lambda line: None)


@pytest.mark.parametrize("where", ["unix", "tcp"])
def test_real_server_killed_under_load_loses_and_doubles_nothing(where: str, tmp_path: Path) -> None:
    lines: list[str] = []
    with closing(QemuNbd(tmp_path / "disk", f"unix:{tmp_path}/s" if where == "unix" else "tcp")) as pair:
        options = Options(seed=5, kill="host", count=3, blocks_per_client=256, calm_s=QUICK)
        report = run_demo(pair, pair.address, options, lines.append)
    assert report.passed, report.failures()
    assert report.failovers == 3 and report.failover.count == 3 and report.failover.max > 0
    assert report.retried >= 8 and report.blocks_verified == 512
    assert set(report.done) == {"READ", "WRITE", "FLUSH", "TRIM", "WRITE ZEROES"}
    assert all(sum(result.in_flight) >= 8 and min(result.in_flight) >= 1 for result in report.kills)
    assert sum("next reply after" in line for line in lines) == 3
    json.dumps(report.as_json())


def test_driver_killed_under_load_with_three_clients_passes() -> None:
    report = run_faulty("", clients=3, depth=4)
    assert report.passed, report.failures()
    assert report.driver_restarts == 1 and report.driver_restart.count == 1 and report.retried == 0
    assert report.kills[0].in_flight == (4, 4, 4)


@pytest.mark.parametrize(("fault", "counts"), [("lost", "lost"), ("doubled", "doubled"), ("damaged", "corrupt")])
def test_planted_fault_is_noticed_as_what_it_is(fault: str, counts: str) -> None:
    report = run_faulty(fault)
    found = {"lost": report.lost, "doubled": report.doubled, "corrupt": report.corrupt}
    assert found.pop(counts) > 0 and not any(found.values())
    assert not report.passed and any(counts in failure for failure in report.failures())
    assert report.findings and all(text.startswith("block 3 ") for text in report.findings)


def test_error_to_a_client_fails_the_demo() -> None:
    report = run_faulty("refuses")
    assert not report.passed and (report.lost, report.doubled, report.corrupt) == (0, 0, 0)
    assert any("READ" in error and "EIO" in error for error in (*report.errors, *report.problems))


def test_pair_that_dies_for_good_still_gets_its_report(tmp_path: Path) -> None:
    with closing(QemuNbd(tmp_path / "disk", f"unix:{tmp_path}/s", delay_s=9)) as pair:
        options = Options(seed=5, kill="host", count=2, calm_s=QUICK, seconds_max=2)
        report = run_demo(pair, pair.address, options, lambda line: None)
    assert not report.passed and report.seconds < 3
    assert len(report.kills) == 2 and not any(result.sound for result in report.kills)
    assert report.blocks_verified == 0


def test_server_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with closing(FaultyServer()) as pair:
        report = run_demo(pair, f"unix:{tmp_path}/none", Options(seed=1, seconds_max=1), lambda line: None)
    assert not report.passed and any("cannot connect" in problem for problem in report.problems)
    assert all(result.problem == "not carried out" for result in report.kills)


def test_pair_that_cannot_tell_its_restarts_is_reported() -> None:
    class Mute(FaultyServer):
        def status(self) -> dict[str, int]:
            return {}

    with closing(Mute()) as pair:
        report = run_demo(pair, pair.address, Options(seed=1, seconds_max=1), lambda line: None)
    assert report.problems == ("the pair's status does not tell driver_restarts",)


def test_export_that_is_too_small_is_told() -> None:
    report = run_faulty("", clients=65)
    assert any("choose a larger disk" in problem for problem in report.problems)


@pytest.mark.parametrize(("wrong", "said"), [({"kill": "all"}, "host, driver, both"), ({"clients": 1}, "2 clients")])
def test_options_that_make_no_sense_are_refused_in_words(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(seed=1, **wrong)  # type: ignore[arg-type]
