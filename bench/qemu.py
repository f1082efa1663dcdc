# SPDX-License-Identifier: GPL-2.0-or-later
"""The same guests under `qemu-system-riscv64`: plain, with -icount, and recording, beside ours in turns.

QEMU's time includes its OpenSBI, which takes a few milliseconds; ours and QEMU's are CPU time of the whole process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.solo import Solo, machine_text
from ftvm.guests.catalog import directory

QEMU = "qemu-system-riscv64"
TICKS = 2000
PATIENCE_S = 300.0


def peers(bench: Bench) -> Iterator[Figure]:
    """Compute and timer guests under each mode."""
    if shutil.which(QEMU) is None:
        yield Figure("QEMU beside ours", None, "x", note=f"{QEMU} is not installed")
        return
    insns = bench.effort.insns
    bench.say("compute under QEMU")
    times: dict[str, list[float]] = {"ours, recorded": [], "plain": [], "icount": [], "record": [], "replay": []}
    for number in range(bench.effort.rounds):
        solo = Solo(bench.directory, machine_text("compute", f"insns={insns}"), bench.path(f"ours{number}.log"))
        times["ours, recorded"].append(solo.run(PATIENCE_S).cpu_s)
        solo.close()
        for mode in ("plain", "icount", "record", "replay"):
            times[mode].append(_run(bench, "compute", f"insns={insns}", mode))
    ours = times.pop("ours, recorded")
    for mode, theirs in times.items():
        ratios = [slow / fast for slow, fast in zip(theirs, ours, strict=True)]
        note = f"speed of ours while recording against QEMU's; {spread(ratios)}"
        yield Figure(f"ours / QEMU {mode}, compute, CPU", middle(ratios), "x", note=note)
    yield from _log(bench, "computing", "compute", f"insns={insns}")
    yield from _log(bench, "1 kHz", "timer", f"ticks={TICKS}")


def _log(bench: Bench, name: str, kernel: str, cmdline: str) -> Iterator[Figure]:
    bench.say(f"QEMU's log of {kernel}")
    start = time.monotonic()
    _run(bench, kernel, cmdline, "record")
    seconds = time.monotonic() - start
    size = bench.path("rr.bin").stat().st_size
    yield Figure(f"QEMU's log, {name}", size / seconds, "B/s", note=f"{size} bytes in {seconds:.1f} s, boot included")


def _run(bench: Bench, kernel: str, cmdline: str, mode: str) -> float:
    """CPU seconds of one run to the guest's end."""
    image = directory() / f"{kernel}.elf"
    command = [QEMU, "-M", "virt", "-m", "32", "-bios", "default", "-net", "none", "-display", "none"]
    command += ["-monitor", "none", "-serial", "null", "-kernel", str(image), "-append", cmdline]
    command += mode_options(mode, bench.path("rr.bin"))
    return cpu_seconds(command)


def cpu_seconds(command: Sequence[str], patience_s: float = PATIENCE_S) -> float:
    """CPU seconds of a command, to its end."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + patience_s
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() > end:
            process.kill()
            process.wait()
            raise RuntimeError(f"{command[0]} did not end within {patience_s:g} s: {' '.join(command)}")
        time.sleep(0.005)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with code {process.returncode}: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def mode_options(mode: str, log: Path) -> list[str]:
    """The command line of QEMU for `plain`, `icount`, `record` or `replay`."""
    if mode == "plain":
        return []
    return ["-icount", "shift=1" if mode == "icount" else f"shift=1,rr={mode},rrfile={log}"]
