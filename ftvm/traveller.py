# SPDX-License-Identifier: GPL-2.0-or-later
"""`Travelling`: a machine with its disks as a timeline moves it, and as a debugger looks at it."""

from __future__ import annotations

from collections.abc import Sequence

from ftvm.hart import Hit
from ftvm.machine import Machine
from ftvm.scratch_disk import ScratchDisk, load_disks, pack_disks
from replay.entry import Entry, EpochResult
from replay.timeline import Range

Still = list[tuple[str, bytes]]


class Travelling:
    """What replay/timeline.py calls a traveller. The machine was made with `debug`."""

    def __init__(self, machine: Machine, disks: Sequence[ScratchDisk]) -> None:
        self.machine = machine
        self.hart = machine.hart
        self.disks = disks

    @property
    def clock(self) -> int:
        return self.hart.clock

    def begin(self, entry: Entry) -> None:
        self.machine.begin(entry)

    def advance(self) -> bool:
        return self.machine.advance()

    def finish(self) -> EpochResult:
        return self.machine.finish()

    def pause_at(self, clock: int | None) -> None:
        self.hart.pause_at(clock)

    def breakpoints(self, addresses: Sequence[int], *, record: bool = False) -> None:
        self.hart.breakpoints(addresses, record=record)

    def watch(self, ranges: Sequence[Range]) -> None:
        self.hart.watch(ranges)

    def hits(self) -> list[Hit]:
        return self.hart.hits()

    def keep(self) -> Still:
        return [*pack_disks(self.disks), *self.machine.save()]

    def go_back(self, still: Still) -> None:
        for disk in self.disks:
            disk.clear()
        self.machine.restore(load_disks(still, self.disks))

    def drop(self, still: Still) -> None:
        pass
