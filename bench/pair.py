# SPDX-License-Identifier: GPL-2.0-or-later
"""What protection costs a guest that computes or ticks: the same primary alone and with a backup, in turns."""

from __future__ import annotations

from collections.abc import Iterator

from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.sides import CORES, Sides, beyond_ram_mib, cpu_seconds
from bench.solo import machine_text

ENDLESS = "insns=1000000000000"


def paired(bench: Bench) -> Iterator[Figure]:
    """Progress paired against unpaired, and what a joiner and a side cost."""
    for kernel, name, cmdline in (("compute", "compute", ENDLESS), ("timer", "1 kHz timer", "")):
        bench.say(f"paired and not: {name}")
        directory = bench.path(kernel)
        directory.mkdir()
        with Sides(directory, machine_text(kernel, cmdline), pinned=True) as sides:
            yield from _alternate(bench, sides, name)


def _alternate(bench: Bench, sides: Sides, name: str) -> Iterator[Figure]:
    rates, costs, joins, pauses = [], [], [], []
    sides.start_primary()
    before = measure(sides, bench.effort.window_s)
    for _ in range(bench.effort.rounds):
        joins.append(sides.start_backup() * 1e3)
        paired = measure(sides, bench.effort.window_s)
        pauses.append(float(sides.fresh_status()["pause_ms"]))
        memory = {side: beyond_ram_mib(sides.pid(side)) for side in "ab"}
        channel = float(sides.fresh_status().get("log_bytes_per_s", 0))
        sides.kill_backup()
        after = measure(sides, bench.effort.window_s)
        rates.append(2 * paired[0] / (before[0] + after[0]))
        costs.append(2 * paired[1] / (before[1] + after[1]))
        before = after
    note = f"{'a core for each side' if len(CORES) > 1 else 'both sides on one core'}; {spread(rates)}"
    yield Figure(f"paired / unpaired, {name}, wall", middle(rates), "x", at_least=0.93, note=note)
    yield Figure(f"paired / unpaired, {name}, CPU", middle(costs), "x", note="the primary's, for the same progress")
    yield Figure(f"channel, {name}", channel, "B/s", note="entries sent to the backup")
    yield Figure(f"re-pair pause, {name}", middle(pauses), "ms", note=f"guest held for the snapshot; {spread(pauses)}")
    yield Figure(f"join to protected, {name}", middle(joins), "ms", note=f"from the joiner's exec; {spread(joins)}")
    yield Figure(f"memory of a primary, {name}", memory["a"], "MiB", note="beyond the guest's RAM (PSS)")
    yield Figure(f"memory of a backup, {name}", memory["b"], "MiB", note="beyond the guest's RAM (PSS)")


def measure(sides: Sides, seconds: float) -> tuple[float, float]:
    """Progress per second, and the primary's CPU seconds per progress."""
    first, cpu = sides.fresh_status(), cpu_seconds(sides.pid("a"))
    rate = sides.rate(seconds)
    last, used = sides.fresh_status(), cpu_seconds(sides.pid("a")) - cpu
    return rate, used / (last["clock"] - first["clock"])
