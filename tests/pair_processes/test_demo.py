# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm demo`, the command that everybody runs first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ftvm.pair_process import PairProcess

PROMISED = {
    "passed", "failures", "seed", "failovers", "driver_restarts", "failover_ms", "driver_restart_ms", "requests_done",
    "retried", "lost", "doubled", "corrupt", "errors", "unanswered", "log_bytes", "kills", "blocks_verified",
}  # fmt: skip


def demo(directory: Path, *options: str) -> subprocess.Popen[str]:
    """The demo with one kill of each kind, its state in `directory`."""
    command = [sys.executable, "-m", "ftvm.cli", "demo", "--count", "1", "--json", "--keep", str(directory), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """A directory for a demo, of which nothing runs afterwards."""
    yield tmp_path
    PairProcess(tmp_path / "demo.toml", tmp_path / "state").close()


def finished(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, report, and what was said."""
    out, err = process.communicate(timeout=60)
    try:
        return process.returncode, json.loads(out), err
    except ValueError:
        raise AssertionError(f"exit {process.returncode}, no JSON: {out}\n{err}") from None


def test_the_demo_passes_and_reports(kept: Path) -> None:
    """One kill of each kind: exit code 0, every promised field, and figures that belong together."""
    code, report, said = finished(demo(kept))
    assert code == 0, (report["failures"], said)
    assert report.keys() >= PROMISED
    assert report["passed"] is True and report["failures"] == []
    assert report["failovers"] == 1 and report["driver_restarts"] >= 1
    for field in ("failover_ms", "driver_restart_ms"):
        spread = report[field]
        assert spread["count"] == 1 and 0 < spread["p50"] <= spread["p99"] <= spread["max"]
    assert (report["lost"], report["doubled"], report["corrupt"], report["unanswered"]) == (0, 0, 0, 0)
    assert report["requests_done"] > 100 and report["log_bytes"] > 0
    assert [kill["sound"] for kill in report["kills"]] == [True, True]
    assert all(sum(kill["in_flight"]) >= 8 and all(kill["in_flight"]) for kill in report["kills"])
    assert {kill["target"] for kill in report["kills"]} == {"host", "driver"}


def test_the_demo_fails_when_the_pair_does_not_become_protected_again(kept: Path) -> None:
    """The launcher is stopped behind the demo's back, so no backup joins: exit code 1, and the report says which."""
    process = demo(kept, "--kill", "host")
    pair = PairProcess(kept / "demo.toml", kept / "state")
    try:
        end = time.monotonic() + 20
        while not (pair.state.path.exists() and pair.status()["protected"]):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
        launcher = pair.status()["launcher"]
        os.kill(launcher, signal.SIGSTOP)
        while pair.status()["term"] < 2:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
        os.kill(launcher, signal.SIGKILL)
        code, report, _ = finished(process)
    finally:
        with suppress(OSError):
            process.kill()
    assert code == 1
    assert report["passed"] is False
    assert any("protected" in failure for failure in report["failures"]), report["failures"]
    assert not report["kills"][0]["sound"]
    assert (report["lost"], report["doubled"]) == (0, 0)


def test_the_demo_fails_without_a_pair(kept: Path) -> None:
    """A pair that cannot even start: exit code 1, JSON all the same, and the pair's own words."""
    (kept / "state").mkdir()
    (kept / "state" / "arbiter").write_text("this is no directory")
    code, report, _ = finished(demo(kept))
    assert code == 1
    assert report["passed"] is False
    assert any("arbiter" in failure for failure in report["failures"]), report["failures"]
