# SPDX-License-Identifier: GPL-2.0-or-later
"""A small slice of every campaign, always the same cases. The campaigns themselves: `python -m tests.fuzz all`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.engine import ROOT, Found, Target, campaign
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS

SECONDS_MAX = 20.0  # of one slice, on a busy machine; the number of cases is what ends it
CASES = {
    "frame": 4000, "entry": 4000, "request": 4000, "transfer": 1500, "log": 150, "log-records": 300,
    "machine-file": 800, "image": 600, "nbd-client": 600, "driver": 800, "virtqueue": 200, "rsp-packets": 1500,
    "content": 1500, "pattern": 1500,
}  # fmt: skip
RISKY_CASES = 60
GUESTS = 25


def test_every_target_has_a_slice() -> None:
    assert set(TARGETS) == {*CASES, *(name for name, target in TARGETS.items() if target.risky)}


@pytest.mark.parametrize("name", CASES)
def test_no_case_hurts(name: str, tmp_path: Path) -> None:
    report = campaign(TARGETS[name], 1, SECONDS_MAX, CASES[name], tmp_path)
    assert report.cases > CASES[name] // 4


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.risky])
def test_no_case_hurts_the_process(name: str, tmp_path: Path) -> None:
    """What reaches the C core runs in a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--cases", str(RISKY_CASES), "--keep", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    left = [str(path) for path in tmp_path.iterdir()]
    assert result.returncode == 0, f"{result.stdout}{result.stderr}\nthe running case: {left}"


def _fail(data: bytes) -> None:
    assert b"\xff" not in data, "no such byte"


def test_a_finding_is_kept_and_can_be_replayed(tmp_path: Path) -> None:
    """The fuzzer itself: it finds, says how to replay, and the case fails again."""
    target = Target("toy", lambda: [bytes(40)], _fail)
    with pytest.raises(Found, match="--case ") as found:
        campaign(target, 1, 10.0, 10_000, tmp_path)
    case = Path(str(found.value).split("--case ")[1])
    with pytest.raises(AssertionError, match="no such byte"):
        target.check(case.read_bytes())


def _hang(data: bytes) -> None:
    while b"\xff" in data:
        pass


def test_a_case_that_hangs_is_found(tmp_path: Path) -> None:
    target = Target("hang", lambda: [bytes(40)], _hang, seconds_max=0.2)
    with pytest.raises(Found, match="took too long"):
        campaign(target, 1, 10.0, 10_000, tmp_path, guide=False)


def test_a_case_that_makes_the_process_grow_is_found(tmp_path: Path) -> None:
    """More than the peak so far, which a process inherits from the one that started it."""
    program = """if True:
        import resource
        from pathlib import Path
        from tests.fuzz import engine
        engine.GROWTH_MAX = 32 << 20
        size = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) + (64 << 20)
        check = lambda data: b"\\xff" in data and bytearray(b"x") * size and None
        engine.campaign(engine.Target("grow", lambda: [bytes(40)], check), 1, 10.0, 10_000, Path("."), guide=False)
    """
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)
    assert "made the process grow by" in result.stderr


def test_a_seed_makes_the_same_cases_again() -> None:
    one, two = (Mutator(Random(7), (b"word",), 0) for _ in range(2))
    corpus = [b"\x93\x01\x02\xa1x", bytes(30)]
    cases = [one.new(corpus) for _ in range(300)]
    assert cases == [two.new(corpus) for _ in range(300)]
    assert len(set(cases)) > 200


def test_guidance_keeps_what_reaches_new_lines(tmp_path: Path) -> None:
    """The corpus of a parser with branches grows."""
    report = campaign(TARGETS["request"], 3, 20.0, 2000, tmp_path)
    assert report.corpus > len(TARGETS["request"].samples())


def test_no_guest_hurts_the_host() -> None:
    """Generated guests on the whole machine, each run twice: no crash, no hang, no growth, and no difference."""
    command = [sys.executable, "-m", "tests.fuzz", "hostile-guest", "--seed", "1", "--cases", str(GUESTS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
