# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds guests from a copy of the package's sources."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ftvm.guests import catalog

from .tools import need

PREFIX = "riscv64-unknown-elf-"


def build(sources: Path, out: Path, *settings: str) -> None:
    """Copies the sources to `sources`, beside what is there, and runs make with `settings`; the images go to `out`."""
    make = need("make", "make")
    need(f"{PREFIX}gcc", "gcc-riscv64-unknown-elf")
    need(f"{PREFIX}as", "binutils-riscv64-unknown-elf")
    for path in catalog.directory().iterdir():
        if path.suffix in {".c", ".h", ".S", ".ld"} or path.name == "Makefile":
            shutil.copy(path, sources)
    shutil.copytree(catalog.directory() / "translate", sources / "translate")
    command = [make, "-C", str(sources), f"OUT={out}", *settings]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
