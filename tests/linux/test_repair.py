# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock Linux of 256 MiB takes in joiners while it writes to most of its memory, and dies as soon as they are in."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftvm.linux import newc
from ftvm.testing import MakePair
from tests.linux.stock import Stock
from tests.linux.test_pair import console, until, until_end

pytestmark = pytest.mark.timeout(1500)

PATIENCE_S = 480.0
ROUNDS = 24
MACHINE = """\
name = "large"

[machine]
memory = "256 MiB"
kernel = "{kernel}"
initrd = "{initrd}"
cmdline = "console=ttyS0 panic=1 script=/test/job"

[pair]
timeout_ms = 2000
"""
JOB = """\
#!/bin/sh
set -e
mount -t tmpfs -o size=180M tmp /tmp
dd if=/dev/urandom of=/tmp/part bs=1M count=3 2>/dev/null
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cat /tmp/part; done > /tmp/a
sum=$(md5sum < /tmp/a)
for n in $(seq 1 ROUNDS); do
    cp /tmp/a /tmp/b
    cp /tmp/b /tmp/a
    echo "copied $n"
done
[ "$(md5sum < /tmp/a)" = "$sum" ] && [ "$(md5sum < /tmp/b)" = "$sum" ] && echo VERIFIED
"""


def test_joiners_of_a_large_guest_that_dirties_its_memory(ftvm_pair: MakePair, stock: Stock, tmp_path: Path) -> None:
    """A backup dies, and then two primaries, each as soon as the next backup is in sync; nothing in memory is lost."""
    job = newc.regular(JOB.replace("ROUNDS", str(ROUNDS)).encode(), 0o755)
    initrd = stock.with_files(tmp_path / "initramfs", {"test/job": job})
    pair = ftvm_pair(MACHINE.format(kernel=stock.kernel, initrd=initrd), wait=False)
    pair.wait_protected(PATIENCE_S)
    until(pair, "copied 1\n", PATIENCE_S)
    pair.kill_backup()
    pair.wait_protected(PATIENCE_S)
    pair.kill_primary()
    pair.wait_protected(PATIENCE_S)
    assert f"copied {ROUNDS}\n" not in console(pair), "the guest was done before the joiners came: it tested nothing"
    pair.kill_primary()
    until_end(pair, PATIENCE_S)
    said = console(pair)
    assert "VERIFIED" in said, said[-2000:]
    assert [line for line in said.splitlines() if line.startswith("copied")] == [
        f"copied {n}" for n in range(1, ROUNDS + 1)
    ]
    assert said.count("Linux version") == 1, "the guest has booted once: it noticed nothing"
    assert "divergence" not in pair.log().lower()
