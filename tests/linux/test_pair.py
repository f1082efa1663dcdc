# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Linux recorded and replayed, and in a pair whose primaries are killed while it boots and while it writes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftvm.linux import newc
from ftvm.pair_process import PairProcess
from ftvm.testing import MakePair
from tests.linux.stock import Stock

pytestmark = pytest.mark.timeout(240)

MACHINE = """\
name = "linux"

[machine]
memory = "160 MiB"
kernel = "{kernel}"
initrd = "{initrd}"
cmdline = "console=ttyS0 panic=1 script=/test/job"

[[disk]]
image = "disk0.img"
size = "48 MiB"

[pair]
timeout_ms = 1000
"""
COMPUTE = """\
#!/bin/sh
dd if=/dev/urandom of=/tmp/x bs=4k count=100 2>/dev/null
dd if=/tmp/x of=/dev/vda bs=4k oflag=direct 2>/dev/null
seq 1 20000 | md5sum
sleep 0.2
cmp -n 409600 /tmp/x /dev/vda && echo SAME
"""
WRITER = """\
#!/bin/sh
set -e
/sbin/mkfs.ext4 -q -O metadata_csum /dev/vda
mount -t ext4 /dev/vda /mnt
for n in $(seq 1 ROUNDS); do
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
md5sum -c /mnt/sums | grep -c OK
umount /mnt
echo VERIFIED
"""
ROUNDS = 20


def machine(stock: Stock, directory: Path, job: str) -> str:
    """A machine file for a guest that does a job and switches itself off."""
    initrd = stock.with_files(directory / "initramfs", {"test/job": newc.regular(job.encode(), 0o755)})
    return MACHINE.format(kernel=stock.kernel, initrd=initrd)


def ftvm(*arguments: object, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "ftvm.cli", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds)


def console(pair: PairProcess) -> str:
    """All that the guest said."""
    path = pair.state.path / "console.log"
    return path.read_text(errors="replace").replace("\r\n", "\n") if path.exists() else ""


def until(pair: PairProcess, text: str, seconds: float = 120) -> None:
    """Wait until the guest has said something."""
    end = time.monotonic() + seconds
    while text not in console(pair):
        assert time.monotonic() < end, f"waited {seconds} s for {text!r}\n{console(pair)[-3000:]}\n{pair.log()}"
        assert pair.exit_code is None, f"the pair has ended\n{console(pair)[-3000:]}\n{pair.log()}"
        time.sleep(0.02)


def test_a_recorded_boot_replays_in_another_process_with_every_digest(stock: Stock, tmp_path: Path) -> None:
    file, log = tmp_path / "machine.toml", tmp_path / "boot.log"
    file.write_text(machine(stock, tmp_path, COMPUTE))
    ran = ftvm("run", file, "--state-dir", tmp_path / "state", "--record", log)
    said = (tmp_path / "state/console.log").read_text(errors="replace")
    assert ran.returncode == 0, ran.stderr
    assert "SAME" in said and "Power down" in said
    replayed = ftvm("replay", log, "--json")
    assert replayed.returncode == 0, replayed.stderr
    report = json.loads(replayed.stdout)
    assert report["verified"] and report["closed"] and report["end"] == "poweroff"
    assert report["divergence"] is None and report["entries"] > 200
    assert log.stat().st_size < 120_000 + 409_600 * 2, "the log holds what came from outside, not what the guest did"


def test_a_pair_fails_over_while_linux_boots_and_while_it_writes(
    ftvm_pair: MakePair, stock: Stock, tmp_path: Path
) -> None:
    """Three primaries die: in the middle of the boot, between syncs of a file system, and during a copy."""
    pair = ftvm_pair(machine(stock, tmp_path, WRITER.replace("ROUNDS", str(ROUNDS))))
    for moment in ("Freeing unused kernel image", "synced 2\n", "synced 9\n"):
        until(pair, moment)
        pair.wait_protected(60)
        pair.kill_primary()
    until_end(pair)
    said = console(pair)
    assert [line for line in said.splitlines() if line.startswith("synced")] == [
        f"synced {n}" for n in range(1, ROUNDS + 1)
    ]
    assert f"\n{ROUNDS}\n" in said and "VERIFIED" in said
    assert said.count("Linux version") == 1, "the guest has booted once: it noticed nothing"
    assert "divergence" not in pair.log().lower()


def until_end(pair: PairProcess, seconds: float = 150, code: int = 0) -> None:
    """Wait until the launcher has ended with the guest, and with that exit code."""
    end = time.monotonic() + seconds
    while pair.exit_code is None:
        assert time.monotonic() < end, f"the guest did not end\n{console(pair)[-3000:]}\n{pair.log()}"
        time.sleep(0.05)
    assert pair.exit_code == code, pair.log()
