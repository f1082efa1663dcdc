# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads for a stock Linux: files that are written, synced and verified, and programs that swap (`hog.py`).

    /dev/vda   an ext4 file system with checksums
    /dev/vdb   what the hogs read, to fill the page cache
    /dev/vdc   swap

What the guest found of itself is on its console: "synced N", "hog N verified", "VERIFIED", and at the end the counters
of page reclaim from /proc/vmstat.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ftvm.linux import newc
from tests.linux.hog import hog
from tests.linux.stock import Stock

MIB: Final = 1 << 20
SIZES: Final = {"disk0.img": 64 * MIB, "disk1.img": 16 * MIB, "disk2.img": 128 * MIB}
HOG_BITS: Final = 13  # 32 MiB each, of some 40 MiB that the kernel leaves
HOGS: Final = 2
_MACHINE: Final = """\
name = "linux"

[machine]
memory = "128 MiB"
kernel = "{kernel}"
initrd = "{initrd}"
cmdline = "console=ttyS0 panic=1 script=/test/job"

{disks}
[pair]
timeout_ms = 1000
"""
_START: Final = """\
mkswap /dev/vdc > /dev/null
swapon /dev/vdc
echo swapping
for n in $(seq HOGS); do
    (/test/hog && echo "hog $n verified") &
done
"""
_FILES: Final = """\
/sbin/mkfs.ext4 -q -O metadata_csum /dev/vda
mount -t ext4 /dev/vda /mnt
for n in $(seq 1 FILES); do
    dd if=/dev/urandom of=/mnt/$n bs=4k count=100 2>/dev/null
    md5sum /mnt/$n >> /mnt/sums
    sync
    echo "synced $n"
    dd if=/mnt/$n of=/mnt/copy bs=4k conv=fsync 2>/dev/null
    cmp /mnt/$n /mnt/copy
done
umount /mnt
/sbin/e2fsck -fn /dev/vda
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/vda /mnt
md5sum -c /mnt/sums > /tmp/checked
grep -c OK /tmp/checked
umount /mnt
echo VERIFIED
"""
_END: Final = """\
wait
grep -E '^(pgscan|pgsteal|pswp)' /proc/vmstat
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What a guest does from its boot to its power-off."""

    name: str
    files: int = 0  # of 400 KiB each
    rounds: int = 0  # of each hog through its memory; 0: no hogs, no swap

    @property
    def disk_bytes(self) -> int:
        """Of all disks."""
        return sum(SIZES.values())

    def script(self) -> str:
        """The guest's job."""
        start = _START.replace("HOGS", str(HOGS)) if self.rounds else ""
        files = _FILES.replace("FILES", str(self.files)) if self.files else ""
        return f"#!/bin/sh\nset -e\n{start}{files}{_END}"

    def verified(self, said: str) -> bool:
        """Whether the guest has booted once, done everything once, and found everything as it had left it."""
        synced = all(said.count(f"\nsynced {n}\n") == 1 for n in range(1, self.files + 1))
        hogs = not self.rounds or all(said.count(f"hog {n} verified\n") == 1 for n in range(1, HOGS + 1))
        files = not self.files or ("\nVERIFIED\n" in said and f"\n{self.files}\n" in said)
        return said.count("Linux version") == 1 and synced and hogs and files and "failed with exit code" not in said


def machine_under_load(stock: Stock, directory: Path, load: Load) -> str:
    """A machine file for a guest that does a job and switches itself off."""
    tree = {
        "test/job": newc.regular(load.script().encode(), 0o755),
        "test/hog": newc.regular(hog(HOG_BITS, load.rounds), 0o755),
    }
    initrd = stock.with_files(directory / "initramfs", tree)
    disks = "".join(f'[[disk]]\nimage = "{name}"\nsize = "{size // MIB} MiB"\n\n' for name, size in SIZES.items())
    return _MACHINE.format(kernel=stock.kernel, initrd=initrd, disks=disks)


def counters(said: str) -> dict[str, int]:
    """What /proc/vmstat said at the end."""
    return {name: int(value) for name, value in re.findall(r"^(pg\w+|pswp\w+) (\d+)$", said, re.MULTILINE)}
