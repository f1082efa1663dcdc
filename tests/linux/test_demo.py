# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm demo --guest linux`: the stock kernel as the driver VM, a host and a kernel killed under verified load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftvm.linux.fetch import Wanted
from ftvm.pair_process import PairProcess
from tests.linux.stock import stock_or_skip

pytestmark = pytest.mark.timeout(700)


def test_the_demo_passes_with_stock_linux(tmp_path: Path) -> None:
    """Nothing lost, nothing doubled; nothing is fetched that is there."""
    guests = stock_or_skip(Wanted()).directory
    command = [sys.executable, "-m", "ftvm.cli", "demo", "--guest", "linux", "--guests", str(guests), "--count", "1"]
    try:
        done = subprocess.run(
            [*command, "--json", "--keep", str(tmp_path)], capture_output=True, text=True, timeout=650
        )
    finally:
        PairProcess(tmp_path / "demo.toml", tmp_path / "state").close()
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] and report["failovers"] == 1 and report["driver_restarts"] >= 2
    assert (report["lost"], report["doubled"], report["corrupt"], report["unanswered"]) == (0, 0, 0, 0)
    assert report["requests_done"] > 100 and report["blocks_verified"] == report["blocks"]
    assert "Linux" in (tmp_path / "state/console.log").read_text(errors="replace")


def test_without_a_mirror_the_demo_says_what_to_do(tmp_path: Path) -> None:
    """On a machine that has no apt."""
    command = [sys.executable, "-m", "ftvm.cli", "demo", "--guest", "linux", "--guests", str(tmp_path / "guests")]
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 1
    assert "this machine has no apt-get. Fetch on a Debian machine" in done.stderr and "Traceback" not in done.stderr
