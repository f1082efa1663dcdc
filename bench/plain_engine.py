# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock kernel's boot on the engine without any hook: `plain_engine.c`, compiled beside the benchmark's files.

Such an engine misses stores through an alias of translated code, so a boot may go astray: it is tried again.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import unicorn

from bench.effort import Bench
from bench.qemu import cpu_seconds
from bench.solo import settled
from ftvm.image import load_image

TRIES: Final = 4
PATIENCE_S: Final = 240.0


class PlainEngine:
    """Boots a machine file's guest to its end."""

    def __init__(self, bench: Bench, text: str) -> None:
        """Compiles; RuntimeError says what the compiler said."""
        config = settled(bench.directory, text)
        image = load_image(config)
        program, self._spins = bench.path("plain-engine"), bench.path("spins")
        compile_program(program)
        self._command = [str(program), str(self._spins), str(config.machine.memory)]
        self._command += [hex(image.entry), hex(image.dtb_address)]
        for number, (address, content) in enumerate(image.segments):
            path = bench.path(f"segment{number}")
            path.write_bytes(content)
            self._command += [hex(address), str(path)]
        self._boot()  # finds where the kernel spins

    def cpu_seconds(self) -> float:
        """CPU time of a boot that went well."""
        return self._boot()

    def _boot(self) -> float:
        for attempt in range(TRIES):
            found = self._spins.exists()
            try:
                return cpu_seconds(self._command, PATIENCE_S)
            except RuntimeError:
                if attempt == TRIES - 1:
                    raise
                if not found:
                    self._spins.unlink(missing_ok=True)
        raise AssertionError("unreachable")


def compile_program(program: Path) -> None:
    """`plain_engine.c` against the engine's wheel; RuntimeError."""
    wheel = Path(unicorn.__file__).parent
    library = wheel / "lib" / "libunicorn.so.2"
    command = ["gcc", "-std=gnu11", "-O2", "-I", str(wheel / "include"), "-o", str(program)]
    command += [str(Path(__file__).with_suffix(".c")), str(library), f"-Wl,-rpath,{library.parent}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"plain_engine.c does not compile: {done.stderr[-300:]}")
