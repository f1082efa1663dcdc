# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock kernel's boot: CPU time and log beside QEMU's on the same kernel, initramfs and command line.

Both boot to the initramfs's script and switch off. QEMU's time includes its OpenSBI. Guests are fetched once and kept
in the user's cache, as the tests keep them; without them there is a figure that says why.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.qemu import PATIENCE_S, QEMU, cpu_seconds
from ftvm.config import load
from ftvm.gate import Gate
from ftvm.image import load_image
from ftvm.linux.errors import FetchError
from ftvm.linux.fetch import Wanted, fetch
from ftvm.live import Live
from ftvm.machine import Machine
from ftvm.recording import Recording, header_of
from ftvm.say import Say
from ftvm.world.simulated import SimulatedWorld

MEMORY_MIB = 256
CMDLINE = "console=ttyS0 script=/usr/bin/true"
MACHINE = """\
name = "bench"

[machine]
memory = "{memory} MiB"
kernel = "{directory}/vmlinux"
initrd = "{directory}/initramfs.cpio.gz"
cmdline = "{cmdline}"

[console]
backend = "none"
"""


def boots(bench: Bench) -> Iterator[Figure]:
    """Boots in turns: ours, ours while recording, QEMU plain."""
    try:
        guests = fetched("bench", Wanted())
    except (FetchError, OSError) as error:
        yield Figure("stock Linux boot", None, "x", note=f"no stock guests: {error}"[:300])
        return
    ours: list[float] = []
    recorded: list[float] = []
    theirs: list[float] = []
    for number in range(bench.effort.rounds):
        bench.say(f"stock Linux boot, round {number + 1}")
        ours.append(_ours(bench, guests, None))
        recorded.append(_ours(bench, guests, bench.path(f"linux{number}.log")))
        if shutil.which(QEMU) is not None:
            theirs.append(_qemu(guests))
    yield Figure("stock Linux boot, CPU", middle(ours), "s", note=spread(ours))
    ratios = [plain / slow for plain, slow in zip(ours, recorded, strict=True)]
    yield Figure("recorded / unrecorded, stock boot, CPU", middle(ratios), "x", at_least=0.97, note=spread(ratios))
    ratios = [our / their for our, their in zip(ours, theirs, strict=False)]
    note = spread(ratios) if theirs else f"{QEMU} is not installed"
    yield Figure("ours / QEMU plain, stock boot, CPU", middle(ratios), "x", at_most=1.2, note=note)
    size = bench.path("linux0.log").stat().st_size
    yield Figure("log of a stock boot", size / 1e3, "kB", at_most=40)


def fetched(name: str, wanted: Wanted) -> Path:
    """A directory of the user's cache with guests; FetchError or OSError when they cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ftvm-tests" / f"{name}-{wanted.key}"
    fetch(cache, wanted, Say("fetch"))
    return cache


def _ours(bench: Bench, guests: Path, log: Path | None) -> float:
    path = bench.path("linux.toml")
    path.write_text(MACHINE.format(memory=MEMORY_MIB, directory=guests, cmdline=CMDLINE))
    config = load(path).settled(bench.directory)
    image = load_image(config)
    cpu = time.process_time()
    machine = Machine(config, image, [])
    world = SimulatedWorld()
    live = Live(machine, world, Gate(world, time.perf_counter, lambda: 0), time.perf_counter)
    recording = None if log is None else Recording.begin(log, header_of(config, image, b""), machine, [])
    live.recorder = recording
    end = time.perf_counter() + PATIENCE_S
    while live.end is None:
        now = time.perf_counter()
        if now > end:
            raise RuntimeError(f"the stock kernel did not end within {PATIENCE_S:g} s")
        wait = live.step(now)
        if recording is not None:
            recording.tick(now)
        if wait > 0:
            time.sleep(wait)
    if recording is not None:
        recording.close()
    spent = time.process_time() - cpu
    machine.close()
    return spent


def _qemu(guests: Path) -> float:
    command = [QEMU, "-M", "virt", "-m", str(MEMORY_MIB), "-bios", "default", "-net", "none", "-display", "none"]
    command += ["-monitor", "none", "-serial", "null", "-kernel", str(guests / "vmlinux")]
    command += ["-initrd", str(guests / "initramfs.cpio.gz"), "-append", CMDLINE]
    return cpu_seconds(command)
