# SPDX-License-Identifier: GPL-2.0-or-later
"""Time travel: opening, going anywhere, stepping and running back, who wrote this, and what made a replay differ.

On a recording of the compute guest and on one of a stock Linux boot, with the checkpoints that they were recorded with;
beside QEMU's own recordings of the same guests. Spans are of guest code: 1 G instructions of the compute guest are
3.4 GB of it, and so many bytes are taken for 1 G instructions of Linux, too.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.effort import Bench
from bench.figure import Figure, middle, percentile, spread
from bench.gdb import GDB, timed
from bench.qemu import PATIENCE_S, QEMU
from bench.qemu_reverse import STEPS, reverse_stepi
from bench.solo import Solo, machine_text
from bench.stock import BOOT, MEMORY_MIB, boot_text, fetched
from ftvm.board import RAM_BASE
from ftvm.checkpointing import Keep
from ftvm.debugger import Debugger
from ftvm.finding import Finding
from ftvm.guests.catalog import directory as guests
from ftvm.inquiry import Inquiry
from ftvm.linux.errors import FetchError
from ftvm.linux.fetch import Wanted
from ftvm.replaying import run_replay
from replay.checkpoint_file import path_of

GIGA: Final = 1_000_000_000
GIGA_CLOCK: Final = 3_400_000_000  # of the compute guest
PLACES: Final = 40
STEPS_BACK: Final = 150
ROUNDS_MAX: Final = 3
SEED: Final = 7
MORE: Final = 100_000_000  # of the clock, that a guest whose end is damaged is left to run


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording with its checkpoints, and how its guest is called under QEMU."""

    name: str
    log: Path
    image: Path
    first: str  # a function that is called once, early on
    quiet: str  # a variable that is written for the last time early on, on a page that is written all the time
    qemu: tuple[str, ...]
    icount: int  # for QEMU: near the end


def travel(bench: Bench) -> Iterator[Figure]:
    """All figures; Linux not in a quick run."""
    yield from _cost(bench)
    for recorded in _recordings(bench):
        bench.say(f"time travel over {recorded.name}")
        yield from _places(recorded)
        yield from _spans(recorded)
        yield from _gdb(bench, recorded)
        yield from _qemu(bench, recorded)
    yield from _divergence(bench)


def _record(bench: Bench, name: str, text: str, keep: Keep | None) -> tuple[Path, float, float]:
    """Where, CPU seconds, wall seconds; of a run to the guest's end."""
    log = bench.path(f"{name}.log")
    log.unlink(missing_ok=True)
    solo = Solo(bench.directory, text, log, keep)
    cpu, start = time.process_time(), time.perf_counter()
    try:
        solo.run(PATIENCE_S)
        if not solo.ended:
            raise RuntimeError(f"{name} did not end within {PATIENCE_S:g} s")
    finally:
        solo.close()
    return log, time.process_time() - cpu, time.perf_counter() - start


def _compute(bench: Bench) -> str:
    return machine_text("compute", f"insns={bench.effort.insns}")


def _cost(bench: Bench) -> Iterator[Figure]:
    bench.say("recording with and without checkpoints")
    cpu: list[float] = []
    wall: list[float] = []
    for _ in range(min(ROUNDS_MAX, bench.effort.rounds)):
        plain = _record(bench, "plain", _compute(bench), None)
        kept = _record(bench, "compute", _compute(bench), Keep())
        cpu.append(plain[1] / kept[1])
        wall.append(plain[2] / kept[2])
    name = "recorded with checkpoints / without, compute"
    yield Figure(f"{name}, wall", middle(wall), "x", at_least=0.95, note=spread(wall))
    yield Figure(f"{name}, CPU", middle(cpu), "x", note=f"with the thread that packs them; {spread(cpu)}")
    file = path_of(bench.path("compute.log"))
    size = file.stat().st_size if file.exists() else 0  # a short run has none
    per = size * GIGA / bench.effort.insns / 1e6
    yield Figure("checkpoints of 1 G instructions, compute", per, "MB", at_most=8)


def _recordings(bench: Bench) -> Iterator[Recorded]:
    insns = bench.effort.insns
    image = guests() / "compute.elf"
    qemu = ("-m", "32", "-kernel", str(image), "-append", f"insns={insns}")
    yield Recorded("compute", bench.path("compute.log"), image, "compute_kernel", "plic_context", qemu, insns)
    if bench.effort.insns < GIGA:
        return
    try:
        directory = fetched("bench", Wanted())
    except (FetchError, OSError) as error:
        bench.say(f"no stock guests: {error}")
        return
    bench.say("recording a stock boot")
    log, *_ = _record(bench, "boot", boot_text(directory), Keep())
    kernel = directory / "vmlinux"
    qemu = ("-m", str(MEMORY_MIB), "-kernel", str(kernel), "-append", BOOT)
    qemu += ("-initrd", str(directory / "initramfs.cpio.gz"))
    yield Recorded("Linux", log, kernel, "start_kernel", "saved_command_line", qemu, 2 * GIGA)


# -- in this process -------------------------------------------------------------------------------------------------


def _took(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _places(recorded: Recorded) -> Iterator[Figure]:
    """Opening, and going anywhere."""
    opened: list[float] = []
    for _ in range(ROUNDS_MAX):
        start = time.perf_counter()
        with Debugger.open(recorded.log) as debugger:
            debugger.timeline.seek(debugger.timeline.end)
            opened.append((time.perf_counter() - start) * 1e3)
    yield Figure(f"open at the end, {recorded.name}", middle(opened), "ms", at_most=300, note=spread(opened))
    chance = random.Random(SEED)
    with Debugger.open(recorded.log) as debugger:
        timeline = debugger.timeline
        places = [timeline.place_of(chance.randrange(timeline.end.clock)) for _ in range(PLACES)]
        took = [_took(lambda place=place: timeline.seek(place)) * 1e3 for place in places]  # type: ignore[misc]
    yield Figure(f"seek anywhere p50, {recorded.name}", middle(took), "ms", at_most=150, note=spread(took))


def _spans(recorded: Recorded) -> Iterator[Figure]:
    """Over 1 G instructions: back to a breakpoint, and to a write."""
    with Debugger.open(recorded.log) as debugger:
        timeline = debugger.timeline
        first = debugger.symbols.address(recorded.first)
        quiet = debugger.symbols.address(recorded.quiet)
        if first is None:
            raise RuntimeError(f"{recorded.image} has no function {recorded.first}")
        timeline.set_breakpoints([first])
        met = timeline.run().position
        far = timeline.place_of(met.clock + GIGA_CLOCK)
        timeline.seek(far)
        back = _took(timeline.run_back)
        if timeline.position != met:
            raise RuntimeError(f"run back to {timeline.position}, not to {met}")
        timeline.set_breakpoints([])
        timeline.seek(far)
        physical = None if quiet is None else debugger.to_physical(quiet)
        written = None if physical is None else _took(lambda: debugger.last_write(physical, 8))
        gigas = (far.clock - met.clock) / GIGA_CLOCK
    with Debugger.open(recorded.log, checkpoints=False) as debugger:
        debugger.timeline.seek(met)
        forth = _took(lambda: debugger.timeline.seek(far))
    note = f"{back:.2f} s back, {forth:.2f} s forwards, over {gigas:.2f} G instructions"
    name = f"reverse-continue / forwards, {recorded.name}"
    yield Figure(name, back / forth, "x", at_most=2, note=note)
    seconds = None if written is None else written / gigas
    note = f"{recorded.quiet}, written last before all that, on a page that is written throughout"
    yield Figure(f"last write over 1 G instructions, {recorded.name}", seconds, "s", at_most=3, note=note)


# -- through GDB -----------------------------------------------------------------------------------------------------


@contextmanager
def _served(log: Path) -> Iterator[int]:
    """`ftvm replay --gdb`; the port."""
    command = [sys.executable, "-m", "ftvm.cli", "replay", str(log), "--gdb", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"target remote \S+:(\d+)", line):
                yield int(found[1])
                return
        raise RuntimeError(f"no debugger is served: {said[-300:]}")
    finally:
        process.terminate()
        process.stderr.close()
        process.wait()


def _gdb(bench: Bench, recorded: Recorded) -> Iterator[Figure]:
    name = f"reverse-stepi through GDB, {recorded.name}"
    if shutil.which(GDB) is None:
        yield Figure(name, None, "ms", note=f"{GDB} is not installed")
        return
    flush = ("flush", "maintenance flush register-cache", 1)
    back = ("back", "reverse-stepi", STEPS_BACK)
    steps = [("end", "monitor seek end", 1), flush, ("first", "reverse-stepi", 1), back]
    with Debugger.open(recorded.log) as debugger:
        timeline = debugger.timeline
        middle_place = timeline.place_of(timeline.end.clock // 2)
    steps += [("half", f"monitor seek {middle_place}", 1), flush, back]
    with _served(recorded.log) as port:
        found = timed(port, recorded.image, steps, "detach", bench.path(f"{recorded.name}.gdb"))
    times = [seconds * 1e3 for seconds in found["back"]]
    note = (
        f"{STEPS_BACK} from the end and {STEPS_BACK} from the middle; the very first {found['first'][0] * 1e3:.0f} ms"
    )
    yield Figure(f"{name}, p50", middle(times), "ms", at_most=10, note=note)
    yield Figure(f"{name}, p99", percentile(times, 99), "ms", at_most=60)
    yield Figure(f"{name}, max", max(times), "ms")


def _qemu(bench: Bench, recorded: Recorded) -> Iterator[Figure]:
    name = f"reverse-stepi through GDB, {recorded.name}, QEMU"
    if shutil.which(QEMU) is None or shutil.which(GDB) is None:
        yield Figure(name, None, "ms", note=f"{QEMU} or {GDB} is not installed")
        return
    bench.say(f"{recorded.name} under QEMU")
    try:
        times = reverse_stepi(bench, recorded.name, recorded.qemu, recorded.image, recorded.icount)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        yield Figure(name, None, "ms", note=f"it did not go back: {error}"[:300])
        return
    note = f"{STEPS} behind {recorded.icount / GIGA:.1f} G instructions, with the one snapshot that rrsnapshot makes"
    yield Figure(name, 1e3 * (middle(times) or 0.0), "ms", note=note)


# -- divergence ------------------------------------------------------------------------------------------------------


def _divergence(bench: Bench) -> Iterator[Figure]:
    """A bit of code flips half-way; it runs at the end."""
    bench.say("a recorder that goes wrong")
    log = bench.path("wrong.log")
    solo = Solo(bench.directory, _compute(bench), log, Keep())
    with Debugger.open(bench.path("compute.log")) as debugger:
        address = debugger.symbols.address("print")
        end = debugger.timeline.end.clock
    assert address is not None
    while solo.machine.clock < end // 2:
        solo.run(0.02)
    byte = solo.machine.hart.ram[address - RAM_BASE]
    solo.machine.hart.load_ram(address - RAM_BASE, bytes([byte ^ 1 << 7]))
    while solo.machine.clock < end + MORE and not solo.ended:
        solo.run(0.02)
    clock = solo.machine.clock
    solo.close()
    spent = 0.0

    def inquire(divergence: object, rebuilt: object) -> Finding:
        nonlocal spent
        start = time.perf_counter()
        found = Inquiry(log, None, divergence, rebuilt).finding()  # type: ignore[arg-type]
        spent = time.perf_counter() - start
        return found

    report = run_replay(log, inquire=inquire)
    found = report.finding
    named = "" if found is None else found.words()
    if f"RAM at {address:#x}: bit 7" not in named and f"instruction in the replay {address:#x}" not in named:
        raise RuntimeError(f"the flipped bit was not found: {named}")
    per = spent / (clock / GIGA_CLOCK)
    note = f"behind the replay that found it ({report.elapsed:.1f} s); code that flipped half-way and ran at the end"
    yield Figure("divergence bisected, 1 G instructions", per, "s", at_most=10, note=note)
