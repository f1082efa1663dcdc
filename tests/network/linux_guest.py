# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock Linux kernel on a network card: where tests find it, and what runs in it.

FTVM_TEST_GUESTS names a directory with `vmlinux` (a raw RISC-V Image) and `initramfs.cpio.gz`, whose init takes
script=/bin/NAME and ip=ADDRESS/LENGTH on the command line. Without it, stock guests are fetched where the tests of
Linux guests can do that.
"""

from __future__ import annotations

import gzip
import importlib
import os
import warnings
from pathlib import Path

import pytest

READY = "NET-READY"
ECHO_PORT, SUM_PORT = 5001, 5002
SCRIPT = f"""\
#!/bin/busybox sh
busybox nc -ll -p {ECHO_PORT} -e /bin/cat &
busybox nc -ll -p {SUM_PORT} -e /bin/sha256sum &
until busybox netstat -ltn | busybox grep -q :{ECHO_PORT}; do busybox usleep 50000; done
echo {READY}
wait
"""
MACHINE = """\
name = "linux"
[machine]
kernel = "{kernel}"
initrd = "{initrd}"
memory = "128 MiB"
cmdline = "console=ttyS0 quiet ip=10.0.2.15/24 script=/bin/serve"
[[network]]
backend = "{backend}"
"""


def machine(directory: Path, backend: str) -> str:
    """A machine file for Linux that serves; pytest.skip without a kernel."""
    kernel, initramfs = _stock()
    initrd = directory / "initramfs"
    # Archives may follow one another: the kernel unpacks all of them.
    initrd.write_bytes(initramfs.read_bytes() + gzip.compress(_archive("bin/serve", SCRIPT.encode()), mtime=0))
    return MACHINE.format(kernel=kernel, initrd=initrd, backend=backend)


def _stock() -> tuple[Path, Path]:
    given = os.environ.get("FTVM_TEST_GUESTS")
    if given is not None:
        return Path(given) / "vmlinux", Path(given) / "initramfs.cpio.gz"
    try:
        stock = importlib.import_module("tests.linux.stock").stock_or_skip()
    except ImportError:
        text = "NOT TESTED, for want of a Linux kernel: FTVM_TEST_GUESTS names no directory"
        warnings.warn(text, stacklevel=2)
        pytest.skip(text)
    return stock.kernel, stock.initramfs


def _archive(name: str, content: bytes) -> bytes:
    """A cpio archive (newc) with one executable file."""
    packed = b""
    for entry, mode, data in ((name, 0o100755, content), ("TRAILER!!!", 0, b"")):
        fields = (1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(entry) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + entry.encode() + b"\0"
        packed += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
    return packed
