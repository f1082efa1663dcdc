# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking for short time slices changes nothing else."""

from __future__ import annotations

import subprocess
import sys

ASK = """
import os, threading
from ftvm.pair.scheduling import ask_for_short_slices
nice = os.nice(3)
print(ask_for_short_slices(), os.getpriority(os.PRIO_PROCESS, 0) == nice, os.sched_getscheduler(0) == os.SCHED_OTHER)
"""
OTHER = """
import os
from ftvm.pair.scheduling import ask_for_short_slices
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
print(ask_for_short_slices(), os.sched_getscheduler(0) == os.SCHED_BATCH)
"""


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_niceness_and_the_policy_stay() -> None:
    """Whatever the host answers."""
    answer, nice, policy = _run(ASK).split()
    assert answer in ("True", "False") and (nice, policy) == ("True", "True")


def test_another_policy_is_left_alone() -> None:
    """Who runs a side as a batch job has reasons."""
    assert _run(OTHER) == "False True"
