# SPDX-License-Identifier: GPL-2.0-or-later
"""A minute of the soak: primaries die at random instants while Linux boots, writes an ext4 file system, and swaps."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys

import pytest

from tests.linux.evicting import ROOT
from tests.linux.soak import SHORT
from tests.linux.stock import Stock


@pytest.mark.timeout(3600)
def test_a_minute_of_the_soak(stock: Stock) -> None:
    """A round of each kind at least; primaries were killed in every one."""
    seed = secrets.randbits(31)
    command = [sys.executable, "-m", "tests.linux.soak", "--short", "--seconds", "60", "--seed", str(seed)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3500)
    assert ran.returncode == 0, f"repeat with: python {' '.join(command[1:])}\n{ran.stdout}\n{ran.stderr[-20000:]}"
    rounds = re.findall(r"round \d+ \((\w+)\), (\d+) primaries killed", ran.stdout)
    assert {name for name, _ in rounds} == {load.name for load in SHORT}
    assert all(int(kills) > 0 for _, kills in rounds), ran.stdout
