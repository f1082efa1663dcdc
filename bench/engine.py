# SPDX-License-Identifier: GPL-2.0-or-later
"""What the clock, recording and replaying cost: one machine, CPU time against CPU time, in turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.solo import DISK, Solo, machine_text, settled
from ftvm.board import RAM_BASE
from ftvm.hart import Hart
from ftvm.image import load_image
from ftvm.machine import Machine
from ftvm.scratch_disk import ScratchDisk
from replay.log_reader import LogReader
from replay.replayer import replay

UART_READY = 0x60  # a 16550's line status: the transmitter is empty
NO_END = 1 << 62


def clock_hook(bench: Bench) -> Iterator[Figure]:
    """The block hook that keeps the clock against an engine without any hook: the compute guest on a bare hart."""
    insns = 2 * bench.effort.insns  # long enough that translating the guest does not count
    without: list[float] = []
    hooked: list[float] = []
    for _ in range(2 * bench.effort.rounds):
        without.append(_compute_cpu(bench, insns, False))
        hooked.append(_compute_cpu(bench, insns, True))
    ratios = [plain / slow for plain, slow in zip(without, hooked, strict=True)]
    note = f"best against best; {spread(ratios)}"
    yield Figure("clock hook / no hook", min(without) / min(hooked), "x", at_least=0.93, note=note)
    yield Figure("speed, compute guest", insns / min(hooked) / 1e6, "MIPS", note="instructions per second of CPU time")


def _compute_cpu(bench: Bench, insns: int, hook: bool) -> float:
    """CPU seconds of the compute guest on a hart with nothing around it."""
    config = settled(bench.directory, machine_text("compute", f"insns={insns}"))
    image = load_image(config)
    hart = Hart(
        config.machine.memory,
        lambda address, size: UART_READY,
        lambda address, size, value: None,
        lambda extension, function, args: (-2, 0),
        clock_hook=hook,
    )
    for address, content in image.segments:
        hart.load_ram(address - RAM_BASE, content)
    hart.reset(image.entry, 0, image.dtb_address)
    start = time.process_time()
    hart.run(0, 0, NO_END)
    seconds = time.process_time() - start
    hart.close()
    return seconds


def recording(bench: Bench) -> Iterator[Figure]:
    """Recorded against unrecorded CPU, and the log's size: the same guests side by side, in turns."""
    for kernel, goal in (("compute", 0.97), ("timer", None)):
        bench.say(f"{kernel}, recorded and not")
        yield from _recorded(bench, kernel, goal)


def _recorded(bench: Bench, kernel: str, goal: float | None) -> Iterator[Figure]:
    effort = bench.effort
    cmdline = "insns=1000000000000" if kernel == "compute" else ""
    text = machine_text(kernel, cmdline)
    plain = Solo(bench.directory, text)
    recorded = Solo(bench.directory, text, bench.path(f"{kernel}.log"))
    for solo in (plain, recorded):
        solo.run(0.5)
    ratios = []
    for _ in range(effort.rounds):
        before = plain.run(effort.slice_s).per_cpu
        with_log = recorded.run(effort.slice_s).per_cpu
        ratios.append(2 * with_log / (before + plain.run(effort.slice_s).per_cpu))
    yield Figure(f"recorded / unrecorded, {kernel}, CPU", middle(ratios), "x", at_least=goal, note=spread(ratios))
    for solo in (plain, recorded):
        solo.close()


def log_size(bench: Bench) -> Iterator[Figure]:
    """Bytes that a recording grows by in a second."""
    for kernel, name, goal in (("blockd", "idle", 200.0), ("compute", "computing", 2000.0), ("timer", "1 kHz", None)):
        bench.say(f"log of {kernel}")
        path = bench.path(f"{kernel}.log")
        cmdline = "insns=1000000000000" if kernel == "compute" else ""
        solo = Solo(bench.directory, machine_text(kernel, cmdline), path)
        solo.run(1.0)
        before = path.stat().st_size
        done = solo.run(2 * bench.effort.window_s)
        grown = path.stat().st_size - before
        note = f"{done.entries / done.wall_s:.0f} entries/s"
        yield Figure(f"log, {name}", grown / done.wall_s, "B/s", at_most=goal, note=note)
        solo.close()


def replaying(bench: Bench) -> Iterator[Figure]:
    """A verified replay against the recording of the same run, CPU for CPU."""
    recorded: list[float] = []
    replayed: list[float] = []
    for number in range(bench.effort.rounds):
        path = bench.path(f"replay{number}.log")
        solo = Solo(bench.directory, machine_text("compute", f"insns={bench.effort.insns}"), path)
        recorded.append(solo.run(3600.0).cpu_s)
        assert solo.ended
        solo.close()
        replayed.append(_replay_cpu(bench, path))
    ratios = [slow / fast for slow, fast in zip(recorded, replayed, strict=True)]
    note = f"speed, best against best; {spread(ratios)}"
    yield Figure("replay / record, compute, CPU", min(recorded) / min(replayed), "x", at_least=1.0, note=note)


def _replay_cpu(bench: Bench, log: Path) -> float:
    config = settled(bench.directory, machine_text("compute", f"insns={bench.effort.insns}"))
    machine = Machine(config, load_image(config), [ScratchDisk(DISK) for _ in config.disk])
    start = time.process_time()
    with LogReader(log) as reader:
        summary = replay(machine, reader)
    seconds = time.process_time() - start
    assert summary.closed, "the recording does not end in order"
    machine.close()
    return seconds
