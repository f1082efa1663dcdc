# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that does one job and switches itself off, as fast as it goes, and twice the same to the last bit.

Nothing of the host reaches it: guest time follows the work done and jumps over idle spells, entropy comes from a seed.
So what the job leaves on its disks is a function of the kernel, the initramfs, the disks it began with and the seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from devices.event import Event, EventKind, OutputKind
from ftvm.config import parse
from ftvm.config_values import format_size
from ftvm.disk.storage import FileStorage
from ftvm.hart import BYTES_PER_TICK
from ftvm.image import load_image
from ftvm.linux.errors import FetchError
from ftvm.machine import FINAL, EpochEnd, Machine
from replay.entry import Entry, EpochResult

BUDGET: Final = 24_000_000
_SAID_LINES: Final = 25


class _Disk:
    """An image file that only this process needs, and that nobody needs after a failure: a flush has nothing to do."""

    def __init__(self, path: Path, size: int) -> None:
        self.capacity = size
        self._storage = FileStorage(path, size, create=False)
        self.read, self.write = self._storage.read, self._storage.write
        self.zero, self.discard = self._storage.zero, self._storage.discard
        self.close = self._storage.close

    def flush(self) -> None: ...


class Job:
    """One guest. `heard` is called with each line on its console."""

    def __init__(
        self, kernel: Path, initrd: Path, cmdline: str, memory: int, disks: Sequence[Path], heard: Callable[[str], None]
    ) -> None:
        sizes = [path.stat().st_size for path in disks]
        tables = [{"image": str(path), "size": format_size(size)} for path, size in zip(disks, sizes, strict=True)]
        machine = {"memory": format_size(memory), "kernel": str(kernel), "initrd": str(initrd), "cmdline": cmdline}
        config = parse({"name": "job", "machine": machine, "disk": tables, "driver": {"restart": False}}, "job")
        self._heard = heard
        self._line = bytearray()
        self._said: list[str] = []
        self._disks = [_Disk(path, size) for path, size in zip(disks, sizes, strict=True)]
        self._machine = Machine(config, load_image(config), self._disks)

    def run(self, seed: int) -> None:
        """Run it until it has switched itself off. FetchError when it ends in another way, or will never end."""
        chance = random.Random(seed)
        result = self._epoch((), 0)
        while result.reason not in FINAL:
            wanted = self._machine.entropy_wanted
            events = (Event(EventKind.ENTROPY, 0, chance.randbytes(wanted)),) if wanted else ()
            later = 0
            if result.reason == EpochEnd.IDLE and not events:
                if self._machine.deadline is None:
                    raise self._failed("waits for ever")
                later = max(0, self._machine.deadline - self._machine.time)
            result = self._epoch(events, later)
            if result.reason == EpochEnd.RESET:
                raise self._failed("has reset itself")
        if result.reason != EpochEnd.POWEROFF:
            raise self._failed(f"failed ({self._machine.failure})")

    def _epoch(self, events: tuple[Event, ...], later: int) -> EpochResult:
        machine = self._machine
        time = machine.time + later
        span = BUDGET // BYTES_PER_TICK + 1
        result = machine.run(Entry(machine.sequence + 1, machine.clock, time, time + span, BUDGET, events, 0))
        for output in result.outputs:
            if output.kind == OutputKind.CONSOLE:
                self._listen(output.data)
        return result

    def _listen(self, data: bytes) -> None:
        self._line += data
        *whole, rest = self._line.split(b"\n")
        self._line = bytearray(rest)
        for line in whole:
            text = line.decode(errors="replace").rstrip("\r")
            self._said = [*self._said[1 - _SAID_LINES :], text]
            self._heard(text)

    def failed(self, what: str) -> FetchError:
        """An error that shows what the guest said last."""
        return FetchError("\n".join([what, *(f"    {line}" for line in self._said)]))

    def _failed(self, how: str) -> FetchError:
        return self.failed(f"the guest {how}; it said last:")

    def close(self) -> None:
        """Release machine and disks."""
        self._machine.close()
        for disk in self._disks:
            disk.close()
