# SPDX-License-Identifier: GPL-2.0-or-later
"""One machine in this process, run in real time as `ftvm run` does, for slices of a given length.

Two of them take turns, so that what the host does meanwhile hits both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ftvm.checkpointing import Keep
from ftvm.config import MachineConfig, load
from ftvm.config_text import to_toml
from ftvm.gate import Gate
from ftvm.image import load_image
from ftvm.live import Live
from ftvm.machine import Machine
from ftvm.recording import Recording, header_of
from ftvm.scratch_disk import ScratchDisk
from ftvm.world.simulated import SimulatedWorld

DISK = 64 << 20
MACHINE = """\
name = "bench"

[machine]
memory = "32 MiB"
kernel = "{kernel}"
cmdline = "{cmdline}"

[console]
backend = "none"
"""
DISK_TABLES = """
[[disk]]
image = "disk0.img"
size = "64 MiB"

[service.block]
listen = ["unix:nbd.sock"]
"""


def machine_text(kernel: str, cmdline: str = "") -> str:
    """A machine file for a bundled guest."""
    return MACHINE.format(kernel=kernel, cmdline=cmdline) + (DISK_TABLES if kernel == "blockd" else "")


def settled(directory: Path, text: str) -> MachineConfig:
    """The configuration of a machine file whose files are kept in `directory`."""
    path = directory / "machine.toml"
    path.write_text(text)
    return load(path).settled(directory)


class CountingDisk(ScratchDisk):
    """Counts the requests that it served."""

    requests = 0

    def read(self, offset: int, length: int) -> bytes:
        """See `ScratchDisk`."""
        self.requests += 1
        return super().read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """See `ScratchDisk`."""
        self.requests += 1
        super().write(offset, data)


@dataclass(frozen=True, slots=True)
class Slice:
    """What one slice did. Seconds, bytes of retired code, entries."""

    wall_s: float
    cpu_s: float
    clock: int
    entries: int

    @property
    def per_cpu(self) -> float:
        """Progress for each second of CPU time."""
        return self.clock / self.cpu_s


class Solo:
    """A guest on a machine of its own, described by the text of a machine file."""

    def __init__(self, directory: Path, text: str, log: Path | None = None, keep: Keep | None = None) -> None:
        """`keep`: with checkpoints beside the log."""
        config = settled(directory, text)
        image = load_image(config)
        self.world = SimulatedWorld()
        self.disks = [CountingDisk(DISK) for _ in config.disk]
        self.machine = Machine(config, image, self.disks)
        self._live = Live(self.machine, self.world, Gate(self.world, time.perf_counter, lambda: 0), time.perf_counter)
        self._recording: Recording | None = None
        if log is not None:
            text = to_toml(config).encode()
            self._recording = Recording.begin(log, header_of(config, image, text), self.machine, self.disks, keep=keep)
            self._live.recorder = self._recording

    def run(self, seconds: float) -> Slice:
        """Run for so long, or to the guest's end."""
        start, cpu = time.perf_counter(), time.process_time()
        clock, entries = self.machine.clock, self._live.entries
        while (now := time.perf_counter()) - start < seconds and self._live.end is None:
            wait = self._live.step(now)
            if self._recording is not None:
                self._recording.tick(now)
            if wait > 0:
                time.sleep(min(wait, max(0.0, start + seconds - now)))
        end = time.perf_counter()
        return Slice(end - start, time.process_time() - cpu, self.machine.clock - clock, self._live.entries - entries)

    def until(self, said: bytes, patience_s: float) -> None:
        """Run until the guest has said this on its console."""
        end = time.monotonic() + patience_s
        while said not in self.world.console():
            if self.ended or time.monotonic() > end:
                tail = self.world.console()[-500:].decode(errors="replace")
                raise RuntimeError(f"the guest did not say {said.decode()!r} within {patience_s:g} s:\n{tail}")
            self.run(0.25)

    @property
    def ended(self) -> bool:
        """Whether the guest has switched itself off."""
        return self._live.end is not None

    def settle(self) -> None:
        """What was recorded so far is in the file."""
        if self._recording is not None:
            self._recording.flush()

    def close(self) -> None:
        """End the recording and free the machine."""
        if self._recording is not None:
            self._recording.close()
        self.machine.close()
