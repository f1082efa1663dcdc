# SPDX-License-Identifier: GPL-2.0-or-later
"""`Linux`: the stock kernel on a test's bench, with a shell that a test calls like a function.

    linux.shell("uname -m")                  # what the command printed; AssertionError when it failed
    linux.shell("exit 3", code=3)

The guest runs a loop (`SERVE`) instead of a shell with prompts: it reads a line from the console, runs it, and prints
its exit code between two marks. Guest time is the test's, so `sleep 100` takes no time here. The kernel boots once a
session; every test goes on from a copy of that machine, so each one also tests a restored machine.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.event import Event, EventKind, OutputKind
from ftvm.config import MachineConfig, parse
from ftvm.hart import BYTES_PER_TICK
from ftvm.linux import newc
from ftvm.machine import FINAL, EpochEnd
from ftvm.scratch_disk import load_disks, pack_disks
from replay.entry import EpochResult
from tests.linux import programs
from tests.linux.stock import Stock
from tests.machine.box import SECOND, Box

LINUX_BUDGET = 24_000_000
EPOCHS_MAX = 4000
READY = "ftvm: guest ready"
LOOP_READY = "loop ready"
SERVE = """\
#!/bin/sh
stty -echo -onlcr < /dev/ttyS0
echo loop ready
while read -r line < /dev/ttyS0; do
    ( eval "$line" ) 2>&1
    echo "<<$?>>"
done
"""
_END = re.compile(r"(.*)<<(\d+)>>\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Booted:
    """A machine that has booted, as bytes."""

    config: MachineConfig
    sections: list[tuple[str, bytes]]
    entries: int


def files() -> newc.Tree:
    """What tests need in the guest beside what was fetched."""
    tree = {f"test/{name}": newc.regular(content, 0o755) for name, content in programs.PROGRAMS.items()}
    return tree | {"test/serve": newc.regular(SERVE.encode(), 0o755)}


def linux_config(stock: Stock, initrd: Path, cmdline: str = "script=/test/serve", **tables: Any) -> MachineConfig:
    """A machine with a disk, a port, entropy, and a guest that is not restarted."""
    machine = {"memory": "160 MiB", "kernel": str(stock.kernel), "initrd": str(initrd)}
    machine["cmdline"] = f"console=ttyS0 {cmdline}"
    disk = [{"image": "disk0.img", "size": "64 MiB"}]
    return parse(
        {
            "name": "linux",
            "machine": machine,
            "disk": disk,
            "service": {"block": {}},
            "driver": {"restart": False, "boot_ms": 1000},
            **tables,
        },
        "linux",
    )


class Linux(Box):
    """A stock guest and what it said."""

    def __init__(self, config: MachineConfig) -> None:
        super().__init__(config)
        self.heard = bytearray()
        self._chance = random.Random(1)
        self.given = bytearray()  # to the entropy device

    def run(self, *events: Event, budget: int = LINUX_BUDGET, ticks: int | None = None, later: int = 0, flags: int = 0
            ) -> EpochResult:  # fmt: skip
        """One epoch, longer ones than a small guest's; what the entropy device waits for comes with it."""
        if wanted := self.machine.entropy_wanted:
            data = self._chance.randbytes(wanted)
            self.given += data
            events = (*events, Event(EventKind.ENTROPY, 0, data))
        span = budget // BYTES_PER_TICK + 1 if ticks is None else ticks
        result = super().run(*events, budget=budget, ticks=span, later=later, flags=flags)
        for output in result.outputs:
            if output.kind == OutputKind.CONSOLE:
                self.heard += output.data
        return result

    @property
    def console(self) -> str:
        """What was said since the last command."""
        return self.heard.decode(errors="replace").replace("\r\n", "\n")

    def shell(self, command: str, *, code: int = 0, epochs: int = EPOCHS_MAX) -> str:
        """Run one line in the guest's shell; what it printed."""
        self.heard.clear()
        self.type(command + "\n")
        self.go_on(lambda: _END.search(self.console) is not None, epochs=epochs)
        found = _END.search(self.console)
        assert found is not None
        assert int(found[2]) == code, f"{command}: exit code {found[2]}\n{found[1]}"
        return found[1].strip()

    def begin(self, command: str) -> None:
        """Type a line, and do not wait for its end."""
        self.heard.clear()
        self.type(command + "\n")

    def end(self, *, epochs: int = EPOCHS_MAX) -> EpochEnd:
        """Runs until the guest resets or ends."""
        stops = {*FINAL, EpochEnd.RESET, EpochEnd.RESTARTED}
        self.go_on(lambda: bool(self.results) and self.results[-1].reason in stops, epochs=epochs)
        return EpochEnd(self.results[-1].reason)

    def wait_out(self, seconds: int) -> EpochEnd:
        """Lets time pass that a guest spends in loops of a millisecond; runs until it resets, or ends, in that time."""
        for _ in range(800 * seconds):
            result = self.run(budget=20_000, later=SECOND // 800)
            if result.reason not in (EpochEnd.LIMIT, EpochEnd.IDLE):
                break
        return EpochEnd(self.results[-1].reason)

    # -- copies ---------------------------------------------------------------------------------------------------

    def saved(self) -> Booted:
        """This machine with its disks, as bytes."""
        sections = [*pack_disks(self.disks), *self.machine.save()]
        return Booted(self.config, sections, len(self.results))

    @classmethod
    def of(cls, booted: Booted) -> Linux:
        """A machine that goes on from there."""
        linux = cls(booted.config)
        linux.machine.restore(load_disks(booted.sections, linux.disks))
        return linux
