# SPDX-License-Identifier: GPL-2.0-or-later
"""The real machine with a bundled guest in the simulation's harness: what it runs and emits is noted in the history."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import msgpack

from devices.event import Output
from ftvm.config import MachineConfig, parse
from ftvm.image import LoadedImage, load_image
from ftvm.machine import FINAL, EpochEnd, Machine, Sections
from replay.entry import Entry, EpochResult
from tests.sim.disk import DISK_BYTES, SideDisk
from tests.sim.history import History, Node, note_output, note_result

BYTES_PER_SECOND: Final = 400e6


@cache
def built(guest: str) -> tuple[MachineConfig, LoadedImage]:
    """Configuration and image of "blockd" (with one disk and the block service) or another bundled guest."""
    tables: dict[str, object] = {"name": "sim", "machine": {"kernel": guest, "memory": "16 MiB", "cmdline": "crash=on"}}
    tables["disk"] = [{"image": "disk0.img", "size": f"{DISK_BYTES >> 10} KiB"}]
    tables["driver"] = {"watchdog_ms": 100, "boot_ms": 600}
    if guest == "blockd":
        tables["service"] = {"block": {}}
    config = parse(tables, "sim")
    return config, load_image(config)


class TrackedMachine(Machine):
    """A machine whose every entry is a node of the history. `work` lets the simulated host's time pass."""

    def __init__(self, guest: str, disk: SideDisk, history: History, node: Node, work: Callable[[float], None]) -> None:
        self.node = node
        self.corrupt = False
        self._history = history
        self._work = work
        self._side_disk = disk
        super().__init__(*built(guest), [disk])

    def run(self, entry: Entry) -> EpochResult:
        """See Machine."""
        self.node = self._history.child(self.node, entry)
        result = super().run(entry)
        if not self.corrupt:
            note_result(self.node, result, result.reason in FINAL)
        return result

    def _execute(self, entry: Entry) -> EpochEnd:
        before = self.clock
        end = super()._execute(entry)
        self._work((self.clock - before) / BYTES_PER_SECOND)
        return end

    def output(self, output: Output) -> None:
        """See Machine."""
        if not self.corrupt:
            note_output(self.node, len(self._outputs), output, self._side_disk.flushed)
        super().output(output)

    def plant_divergence(self) -> None:
        """From here on this replica is not what it should be."""
        self.corrupt = True
        self._output_crc ^= 1

    def save_state(self) -> Sections:
        """See Machine."""
        return [
            *super().save_state(),
            ("tracked", msgpack.packb([self.node.number, self._side_disk.submitted, self._side_disk.flushed])),
        ]

    def restore_state(self, sections: Sections) -> None:
        """See Machine."""
        number, *changes = msgpack.unpackb(dict(sections)["tracked"])
        super().restore_state([section for section in sections if section[0] != "tracked"])
        self.node = self._history.nodes[number]
        self._side_disk.rebase(*changes)
