# SPDX-License-Identifier: GPL-2.0-or-later
"""A recorded boot of the stock kernel, with two processes of one program in it; made once a session."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from ftvm.config import MachineConfig
from ftvm.config_text import to_toml
from ftvm.debugger import Debugger
from ftvm.linux import newc
from ftvm.recording import Recording, header_of
from replay.entry import Entry, EpochResult
from tests.linux.guest import LOOP_READY, READY, SERVE, Linux, linux_config
from tests.linux.stock import Stock

COMPILER = "riscv64-unknown-elf-gcc"
ROUNDS = 40  # of each process
FLAGS = ("-O1", "-march=rv64imac_zicsr", "-mabi=lp64", "-nostdlib", "-static", "-ffreestanding", "-Wl,-Ttext=0x20000")


class RecordedLinux(Linux):
    """A stock guest whose epochs are recorded."""

    def __init__(self, config: MachineConfig, log: Path) -> None:
        super().__init__(config)
        header = header_of(self.config, self.image, to_toml(self.config).encode())
        self.recording = Recording.begin(log, header, self.machine, self.disks)
        self._run = self.machine.run
        self.machine.run = self._recorded  # type: ignore[method-assign]

    def _recorded(self, entry: Entry) -> EpochResult:
        result = self._run(entry)
        self.recording.append(entry, result, 0.0)
        return result

    def close(self) -> None:
        """The recording ends in order."""
        self.recording.close()
        self.machine.close()


@dataclass(frozen=True, slots=True)
class RecordedBoot:
    """What was recorded."""

    log: Path
    program: Path  # with symbols
    kernel: Path
    end_of_boot: int  # clock


def record_boot(stock: Stock, directory: Path) -> RecordedBoot:
    """From power-on to a shell, and two processes of `twice.c` at once; with checkpoints."""
    program, log = directory / "twice.elf", directory / "boot.log"
    source = Path(__file__).with_name("twice.c")
    subprocess.run([COMPILER, *FLAGS, "-o", str(program), str(source)], check=True)
    tree = {
        "test/serve": newc.regular(SERVE.encode(), 0o755),
        "test/twice": newc.regular(program.read_bytes(), 0o755),
    }
    linux = RecordedLinux(linux_config(stock, stock.with_files(directory / "initramfs", tree)), log)
    linux.until(READY)
    linux.until(LOOP_READY)
    linux.settle()
    clock = linux.machine.clock
    assert linux.shell("/test/twice & /test/twice; echo $?") == str(ROUNDS)
    linux.shell("cat /proc/uptime")
    linux.close()
    with Debugger.open(log) as debugger:
        debugger.make_checkpoints()
    return RecordedBoot(log, program, stock.kernel, clock)
