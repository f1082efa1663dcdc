# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of other packages. Without them a test is skipped, except where `CI` is set: there it must run."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "nbdinfo": "libnbd-bin",
    "nbdcopy": "libnbd-bin",
    "fio": "fio",
    "mkfs.ext4": "e2fsprogs",
}
_SYSTEM = ":/usr/sbin:/sbin"  # where a user's PATH may not lead


def tool(name: str) -> str:
    """The path of a program."""
    if path := shutil.which(name, path=os.environ["PATH"] + _SYSTEM):
        return path
    message = f"{name} is not installed (Debian: apt-get install {PACKAGES.get(name, name)})"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def run(name: str, *arguments: str) -> str:
    """Run a program to its end; its output. Fails with that output."""
    done = subprocess.run([tool(name), *arguments], capture_output=True, text=True, timeout=60)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{name} {' '.join(arguments)}: exit {done.returncode}\n{output[-3000:]}"
    return output


def start(name: str, *arguments: str) -> subprocess.Popen[str]:
    """A program with pipes."""
    return subprocess.Popen(
        [tool(name), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
