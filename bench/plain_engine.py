# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock kernel's boot on the engine without any hook: `plain_engine.c`, compiled beside the benchmark's files.

Such an engine misses stores through an alias of translated code, and the kernel may spin where it did not before, so a
boot may go astray: it is tried again.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import unicorn

from bench.effort import Bench
from bench.qemu import cpu_seconds
from bench.solo import settled
from ftvm.image import load_image

TRIES: Final = 3
PATIENCE_S: Final = 60.0
PATIENCE_LOOKING_S: Final = 150.0


class PlainEngine:
    """Boots a machine file's guest to its end."""

    def __init__(self, bench: Bench, text: str) -> None:
        """Compiles; RuntimeError says what the compiler said."""
        config = settled(bench.directory, text)
        image = load_image(config)
        program, self._spins = bench.path("plain-engine"), bench.path("spins")
        compile_program(program)
        self._program = str(program)
        self._arguments = [str(config.machine.memory), hex(image.entry), hex(image.dtb_address)]
        for number, (address, content) in enumerate(image.segments):
            path = bench.path(f"segment{number}")
            path.write_bytes(content)
            self._arguments += [hex(address), str(path)]
        self._look()

    def cpu_seconds(self) -> float:
        """CPU time of a boot that went well; RuntimeError when none does."""
        for _ in range(TRIES):
            with suppress(RuntimeError):
                return self._boot(str(self._spins), PATIENCE_S)
            self._look()
        raise RuntimeError(f"the engine without hooks did not boot to the end in {TRIES} tries")

    def _look(self) -> None:
        """Find out where the kernel spins, also where it did not in earlier runs."""
        with suppress(RuntimeError):
            self._boot(f"+{self._spins}", PATIENCE_LOOKING_S)

    def _boot(self, spins: str, patience_s: float) -> float:
        return cpu_seconds([self._program, spins, *self._arguments], patience_s)


def compile_program(program: Path) -> None:
    """`plain_engine.c` against the engine's wheel; RuntimeError."""
    wheel = Path(unicorn.__file__).parent
    library = wheel / "lib" / "libunicorn.so.2"
    command = ["gcc", "-std=gnu11", "-O2", "-I", str(wheel / "include"), "-o", str(program)]
    command += [str(Path(__file__).with_suffix(".c")), str(library), f"-Wl,-rpath,{library.parent}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"plain_engine.c does not compile: {done.stderr[-300:]}")
