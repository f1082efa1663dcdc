# SPDX-License-Identifier: GPL-2.0-or-later
"""A real gdb-multiarch against a real server, for tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

GDB = "gdb-multiarch"
WAIT_S = 60
FLUSH = "maintenance flush register-cache"


def gdb_or_skip() -> None:
    """CI has it; elsewhere its absence is told."""
    if shutil.which(GDB) is None:
        words = f"{GDB} is not installed (apt-get install gdb-multiarch)"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)


class Served:
    """`ftvm ARGUMENTS`, which serves GDB, in a process."""

    def __init__(self, arguments: Sequence[str | Path], directory: Path, guest: Path | None = None) -> None:
        self.directory = directory
        self.guest = guest
        self._errors = directory / "served.err"
        command = [sys.executable, "-m", "ftvm.cli", *map(str, arguments)]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=errors, env=os.environ | {"TMPDIR": str(directory)}
            )
        end = time.monotonic() + WAIT_S
        while (found := re.search(r"target remote (\S+):(\d+)", self.said)) is None:
            assert time.monotonic() < end and self.process.poll() is None, self.said
            time.sleep(0.05)
        self.port = int(found[2])

    @property
    def said(self) -> str:
        return self._errors.read_text()

    def gdb(self, *commands: str) -> str:
        """What GDB prints while it runs these commands."""
        script = self.directory / "script.gdb"
        start = ["set pagination off", "set confirm off", f"target remote 127.0.0.1:{self.port}"]
        script.write_text("\n".join([*start, *commands, "detach", ""]))
        command = [GDB, "-nx", "-batch", "-x", str(script), *([str(self.guest)] if self.guest else [])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S * 2)
        return done.stdout + done.stderr


@contextmanager
def served(arguments: Sequence[str | Path], directory: Path, guest: Path | None = None) -> Iterator[Served]:
    """The same, ended afterwards."""
    gdb_or_skip()
    server = Served(arguments, directory, guest)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait()
