# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pair notices of a debugger: requests and read latency with `ftvm debug` attached, and without.

Windows with and without a debugger take turns on the same pair; each window with one begins when it has taken its
moment, so that it follows the entries all the time. What taking the moment costs is a window of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.client import random_load, sparse_load
from bench.effort import Bench
from bench.figure import Figure, middle, percentile, spread
from bench.sides import PATIENCE_S, Sides
from bench.solo import DISK, machine_text

PAUSE_S = 0.005
READS = 100


def look(bench: Bench) -> Iterator[Figure]:
    """Ratios of a busy pair, and the latency of an idle one."""
    effort = bench.effort
    iops: dict[bool, list[float]] = {True: [], False: []}
    latency: dict[bool, list[float]] = {True: [], False: []}
    with Sides(bench.directory, machine_text("blockd")) as sides:
        sides.start_primary()
        sides.start_backup()
        random_load(sides.socket, 0.5, DISK)
        for number in range(effort.rounds):
            bench.say(f"a pair with a debugger and without, round {number + 1} of {effort.rounds}")
            for attached in (False, True):
                with _debugger(bench, sides, attached):
                    iops[attached].append(random_load(sides.socket, effort.window_s, DISK).iops)
                    waits = sparse_load(sides.socket, READS, PAUSE_S)
                    latency[attached].append((percentile(waits, 50) or 0.0) * 1e6)
        protected = bool(sides.fresh_status().get("protected"))
    ratios = [with_one / without for with_one, without in zip(iops[True], iops[False], strict=True)]
    note = f"4 KiB requests, 16 in flight; {'protected throughout' if protected else 'NOT protected'}; {spread(ratios)}"
    yield Figure("a debugger attached / none, pair's block IOPS", middle(ratios), "x", note=note)
    for attached, name in ((False, "no debugger"), (True, "a debugger attached")):
        values = latency[attached]
        yield Figure(f"read latency of a pair, {name}", middle(values), "us", note=f"one at a time; {spread(values)}")


@contextmanager
def _debugger(bench: Bench, sides: Sides, attached: bool) -> Iterator[None]:
    """`ftvm debug` on the pair's backup, following it; or nothing."""
    if not attached:
        yield
        return
    said = bench.path("debug.err")
    command = [sys.executable, "-m", "ftvm.cli", "debug", "--state-dir", str(sides.state.path)]
    with said.open("wb") as errors, subprocess.Popen(command, stderr=errors, stdout=subprocess.DEVNULL) as process:
        try:
            _until_it_waits(process, said)
            yield
        finally:
            process.terminate()
            process.wait()


def _until_it_waits(process: subprocess.Popen[bytes], said: Path) -> None:
    limit = time.monotonic() + PATIENCE_S
    while "target remote" not in (text := said.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > limit:
            raise RuntimeError(f"ftvm debug does not serve: {text[-400:]}")
        time.sleep(0.02)
