# SPDX-License-Identifier: GPL-2.0-or-later
"""What protection costs stock Linux: progress of the same primary alone and with a backup, each side on a core.

A boot cannot be taken in turns within one process: one boot alone and one protected take turns, and the time is that
between two clocks, the first of them after the backup has joined.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.linux_load import RECORDED
from bench.pair import measure
from bench.qemu import PATIENCE_S
from bench.sides import CORES, Sides
from bench.stock import LOADED, load_text

BOOT_FROM, BOOT_TO = 4_000_000_000, 9_000_000_000  # bytes of retired code, of some 11.5 billion


def paired(bench: Bench, directory: Path) -> Iterator[Figure]:
    """Progress paired against unpaired."""
    cores = "a core for each side" if len(CORES) > 1 else "both sides on one core"
    bench.say("stock boot, paired and not")
    alone, protected = [], []
    for number in range(bench.effort.rounds):
        alone.append(_boot(bench, directory, f"alone{number}", False))
        protected.append(_boot(bench, directory, f"protected{number}", True))
    ratios = [plain / slow for plain, slow in zip(alone, protected, strict=True)]
    note = f"{cores}; {spread(ratios)}"
    yield Figure("paired / unpaired, stock boot, wall", middle(ratios), "x", at_least=0.93, note=note)
    for load in RECORDED:
        bench.say(f"stock Linux, {load}, paired and not")
        ratios = _alternate(bench, directory, load)
        note = f"{cores}; {spread(ratios)}"
        yield Figure(f"paired / unpaired, Linux {load}, wall", middle(ratios), "x", at_least=0.93, note=note)


def _sides(bench: Bench, directory: Path, load: str, name: str) -> Sides:
    path = bench.path(name)
    path.mkdir()
    return Sides(path, load_text(bench, directory, load), pinned=True)


def _boot(bench: Bench, directory: Path, name: str, protected: bool) -> float:
    """Seconds of a stretch of the boot."""
    with _sides(bench, directory, "idle", name) as sides:
        sides.start_primary()
        if protected:
            sides.start_backup()
        begin, end = (_passes(sides, clock) for clock in (BOOT_FROM, BOOT_TO))
        return (end[1] - begin[1]) / (end[0] - begin[0])


def _passes(sides: Sides, clock: int) -> tuple[int, float]:
    """(clock, time) of the first status beyond this clock."""
    limit = time.monotonic() + PATIENCE_S
    while (status := sides.fresh_status())["clock"] < clock:
        if time.monotonic() > limit:
            raise RuntimeError(f"the boot did not reach clock {clock} within {PATIENCE_S:g} s")
    return status["clock"], status["updated"]


def _alternate(bench: Bench, directory: Path, load: str) -> list[float]:
    ratios = []
    with _sides(bench, directory, load, f"pair-{load}") as sides:
        sides.start_primary()
        _until_loaded(sides)
        before = measure(sides, bench.effort.window_s)[0]
        for _ in range(bench.effort.rounds):
            sides.start_backup()
            with_backup = measure(sides, bench.effort.window_s)[0]
            sides.kill_backup()
            after = measure(sides, bench.effort.window_s)[0]
            ratios.append(2 * with_backup / (before + after))
            before = after
    return ratios


def _until_loaded(sides: Sides) -> None:
    console = sides.state.path / "console.log"
    limit = time.monotonic() + PATIENCE_S
    while not console.exists() or LOADED.encode() not in console.read_bytes():
        if time.monotonic() > limit:
            raise RuntimeError(f"the load did not begin within {PATIENCE_S:g} s")
        time.sleep(0.1)
