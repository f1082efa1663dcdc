# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems on images, looked at with this machine's e2fsprogs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def e2fsprogs(name: str) -> str:
    """Where a program of e2fsprogs is: not in every user's PATH."""
    found = shutil.which(name, path=os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin")))
    assert found is not None, "e2fsprogs is not installed"
    return found


def checked(image: Path) -> None:
    """An image's file system must be clean."""
    done = subprocess.run([e2fsprogs("e2fsck"), "-fn", image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
