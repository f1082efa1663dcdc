# SPDX-License-Identifier: GPL-2.0-or-later
"""A joiner taken in by a stock Linux of 256 MiB: how long the guest stands still, how fast it goes on meanwhile.

The guest copies files of random bytes to and fro in memory, as fast as it can, so pages become dirty faster than most
links take them; or it waits for input. Speed while joining is progress from the joiner's exec until the pair is
protected, against the same guest's without a joiner right before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.sides import SideFailed, Sides
from bench.stock import MEMORY_MIB, fetched
from ftvm.linux import newc
from ftvm.linux.errors import FetchError
from ftvm.linux.fetch import Wanted

BOOT_S: Final = 60.0
LOADED: Final = "ftvm bench: ready"
MACHINE = """\
name = "bench"

[machine]
memory = "{memory} MiB"
kernel = "{directory}/vmlinux"
initrd = "{initrd}"
cmdline = "console=ttyS0 script=/bench/job"
"""
FILL = """\
#!/bin/sh
mount -t tmpfs -o size=180M tmp /tmp
dd if=/dev/urandom of=/tmp/part bs=1M count=4 2>/dev/null
for n in 1 2 3 4 5 6 7 8 9 10; do cat /tmp/part; done > /tmp/a
"""
JOBS: Final = {
    "dirtying memory": f"{FILL}echo {LOADED}\nwhile cp /tmp/a /tmp/b; do cp /tmp/b /tmp/a; done\n",
    "idle": f"{FILL}cp /tmp/a /tmp/b\necho {LOADED}\nwhile sleep 1; do true; done\n",
}


def joins(bench: Bench) -> Iterator[Figure]:
    """Pause, speed and time of a join, for each job."""
    try:
        guests = fetched("bench", Wanted())
    except (FetchError, OSError) as error:
        yield Figure("re-pair pause, stock Linux", None, "ms", note=f"no stock guests: {error}"[:300])
        return
    for number, (name, job) in enumerate(JOBS.items()):
        directory = bench.path(str(number))
        directory.mkdir()
        initrd = directory / "initramfs"
        extra = newc.packed({"bench/job": newc.regular(job.encode(), 0o755)})
        initrd.write_bytes((guests / "initramfs.cpio.gz").read_bytes() + extra)
        with Sides(directory, MACHINE.format(memory=MEMORY_MIB, directory=guests, initrd=initrd)) as sides:
            bench.say(f"joining stock Linux, {name}")
            yield from _alternate(bench, sides, name)


def _alternate(bench: Bench, sides: Sides, name: str) -> Iterator[Figure]:
    sides.start_primary()
    _await_job(sides)
    pauses, joins, speeds = [], [], []
    for _ in range(bench.effort.rounds):
        alone = sides.rate(bench.effort.window_s)
        before = sides.fresh_status()
        joins.append(sides.start_backup() * 1e3)
        after = sides.fresh_status()
        if alone > 0:
            speeds.append((after["clock"] - before["clock"]) / (after["updated"] - before["updated"]) / alone)
        pauses.append(float(after["pause_ms"]))
        sides.kill_backup()
    what = f"stock Linux of {MEMORY_MIB} MiB, {name}"
    yield Figure(f"re-pair pause, {what}", middle(pauses), "ms", at_most=30, note=spread(pauses))
    yield Figure(f"join to protected, {what}", middle(joins), "ms", note=f"from the joiner's exec; {spread(joins)}")
    if name != "idle":
        yield Figure(f"speed while joining, {what}", middle(speeds), "x", at_least=0.8, note=spread(speeds))


def _await_job(sides: Sides) -> None:
    console = sides.state.path / "console.log"
    end = time.monotonic() + BOOT_S
    while not (console.exists() and LOADED in console.read_text(errors="replace")):
        if time.monotonic() > end:
            raise SideFailed(f"the stock kernel has not begun its job within {BOOT_S:g} s")
        time.sleep(0.05)
