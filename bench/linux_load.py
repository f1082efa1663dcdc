# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Linux under load on one machine: what recording costs, and how much of a log a second or a disk request makes.

Two machines in one process take turns, one with a recording and one without, as in `engine.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.qemu import PATIENCE_S
from bench.solo import Solo
from bench.stock import LOADED, load_text

RECORDED: Final = ("sha256sum", "shell loop", "dd")
SETTLE_S: Final = 2.0  # what follows a boot: the kernel frees memory, seeds its generator, and so on


def loads(bench: Bench, directory: Path) -> Iterator[Figure]:
    """Recorded against unrecorded, and the logs."""
    for load in RECORDED:
        bench.say(f"stock Linux, {load}, recorded and not")
        yield from _recorded(bench, directory, load)
    bench.say("stock Linux, idle")
    yield from _idle(bench, directory)


def _begun(bench: Bench, directory: Path, load: str, log: Path | None) -> Solo:
    solo = Solo(bench.directory, load_text(bench, directory, load), log)
    solo.until(LOADED.encode(), PATIENCE_S)
    solo.run(SETTLE_S)
    return solo


def _recorded(bench: Bench, directory: Path, load: str) -> Iterator[Figure]:
    path = bench.path(f"{load}.log")
    plain = _begun(bench, directory, load, None)
    recorded = _begun(bench, directory, load, path)
    size, requests = path.stat().st_size, recorded.disks[0].requests
    ratios, wall = [], 0.0
    for _ in range(bench.effort.rounds):
        before = plain.run(bench.effort.slice_s).per_cpu
        with_log = recorded.run(bench.effort.slice_s)
        wall += with_log.wall_s
        ratios.append(2 * with_log.per_cpu / (before + plain.run(bench.effort.slice_s).per_cpu))
    recorded.settle()
    grown, asked = path.stat().st_size - size, recorded.disks[0].requests - requests
    yield Figure(f"recorded / unrecorded, Linux {load}, CPU", middle(ratios), "x", at_least=0.97, note=spread(ratios))
    if load == "dd":
        note = f"of 4 KiB, written and read; {asked / wall:,.0f} requests/s"
        yield Figure("log of a disk request, Linux dd", grown / max(1, asked), "B", at_most=16, note=note)
    else:
        yield Figure(f"log, Linux {load}", grown / wall, "B/s", at_most=2000)
    for solo in (plain, recorded):
        solo.close()


def _idle(bench: Bench, directory: Path) -> Iterator[Figure]:
    path = bench.path("idle.log")
    solo = _begun(bench, directory, "idle", path)
    before = path.stat().st_size
    done = solo.run(3 * bench.effort.window_s)
    solo.settle()
    grown = path.stat().st_size - before
    note = f"{done.entries / done.wall_s:.1f} entries/s"
    yield Figure("log, idle Linux", grown / done.wall_s, "B/s", at_most=400, note=note)
    yield Figure("processor of an idle Linux", 100 * done.cpu_s / done.wall_s, "%", at_most=3)
    solo.close()
