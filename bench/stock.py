# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock guests that the benchmarks run: fetched once and kept in the user's cache, as the tests keep theirs.

A load is a shell script that the initramfs runs as its `script=` and that never ends; it says `LOADED` when it begins.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from bench.effort import Bench
from ftvm.linux import newc
from ftvm.linux.fetch import Wanted, fetch
from ftvm.say import Say

MEMORY_MIB: Final = 256
BOOT: Final = "console=ttyS0 script=/usr/bin/true"
LOADED: Final = "the load begins"
BLOCK: Final = 4096  # bytes of a request of the load `dd`
_SAY = f"#!/bin/sh\necho {LOADED}\n"
LOADS: Final = {
    "sha256sum": _SAY + "head -c 4000000 /dev/urandom > /tmp/x\nwhile :; do sha256sum /tmp/x > /dev/null; done\n",
    "shell loop": _SAY + "i=0\nwhile :; do i=$((i + 1)); [ $((i % 7)) = 0 ] && x=$(echo $i); done\n",
    "dd": _SAY
    + "while :; do\n"
    + f"dd if=/dev/zero of=/dev/vda bs={BLOCK} count=2000 oflag=direct 2> /dev/null\n"
    + f"dd if=/dev/vda of=/dev/null bs={BLOCK} count=2000 iflag=direct 2> /dev/null\n"
    + "done\n",
    "idle": _SAY + "sleep 1000000\n",
}
MACHINE = """\
name = "bench"

[machine]
memory = "{memory} MiB"
kernel = "{kernel}"
initrd = "{initrd}"
cmdline = "{cmdline}"
"""
NO_CONSOLE = """
[console]
backend = "none"
"""
DISK = """
[[disk]]
image = "disk0.img"
size = "64 MiB"
"""


def fetched(name: str, wanted: Wanted) -> Path:
    """A directory of the user's cache with guests; FetchError or OSError when they cannot be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ftvm-tests" / f"{name}-{wanted.key}"
    fetch(cache, wanted, Say("fetch"))
    return cache


def boot_text(directory: Path) -> str:
    """A machine file: the kernel boots, runs `true` and switches off."""
    initrd = directory / "initramfs.cpio.gz"
    text = MACHINE.format(memory=MEMORY_MIB, kernel=directory / "vmlinux", initrd=initrd, cmdline=BOOT)
    return text + NO_CONSOLE


def load_text(bench: Bench, directory: Path, load: str) -> str:
    """A machine file with a disk: the kernel boots and runs one of `LOADS` for good; its console goes to a file."""
    initrd = bench.path(f"{load.replace(' ', '-')}.cpio.gz")
    script = newc.regular(LOADS[load].encode(), 0o755)
    initrd.write_bytes((directory / "initramfs.cpio.gz").read_bytes() + newc.packed({"bench/load": script}))
    cmdline = "console=ttyS0 quiet script=/bench/load"
    return MACHINE.format(memory=MEMORY_MIB, kernel=directory / "vmlinux", initrd=initrd, cmdline=cmdline) + DISK
