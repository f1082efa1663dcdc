# SPDX-License-Identifier: GPL-2.0-or-later
"""`Replay`: a recording's guest run again, epoch by epoch, for what a log does not keep: outputs, interrupts, disks.

    log -> entry -> Machine.run -> compared with the log -> ReplayedEpoch: inputs, outputs, interrupts

It streams: an epoch is in memory until the next one is asked for. A recording of which there are checkpoints is taken
up at the last one before the first epoch that was asked for; otherwise the guest runs from the beginning.

Interrupts are seen as arrivals at the handler that `stvec` names as the epoch begins, with the cause that is then in
`scause`: where a guest sets another handler in the middle of an epoch, those of this epoch which it takes are missing.
Of more than half a million traps in one epoch, those in the middle are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, Self

from devices.event import Event
from devices.event import Output as MachineOutput
from ftvm.checkpoints import checkpoints_of
from ftvm.debugger import Debugger
from ftvm.hart import BYTES_PER_TICK, Hit
from ftvm.machine import Machine
from ftvm.records.happening import INTERRUPTS, DiskRequest, Epoch, Interrupt, Output, ReplayedEpoch, epoch_of
from ftvm.replaying import rebuild
from replay.batch import Recorded
from replay.divergence import Divergence, differences
from replay.errors import LogError
from replay.log_reader import LogReader

INTERRUPT_BIT: Final = 1 << 63
VECTORED: Final = 1
Progress = Callable[[int], None]


class Replay:
    """Iterate over it once, and close it. LogError, ConfigError or ImageError when there is no such machine here.

    While iterating: Divergence at the first epoch that goes otherwise (with `verify`), LogError at damage.
    """

    def __init__(
        self,
        path: Path,
        machine_file: Path | None = None,
        *,
        first: int = 0,
        last: int | None = None,
        verify: bool = True,
        interrupts: bool = False,
        disks: bool = False,
        progress: Progress = lambda entries: None,
    ) -> None:
        """`progress` hears of entries done, also of those before `first`."""
        self._first, self._last = first, last
        self._verify, self._interrupts, self._progress = verify, interrupts, progress
        self._outputs: list[Output] = []
        self._asked: list[DiskRequest] = []
        self._event: tuple[int, Event] | None = None
        self.verified = 0
        """Epochs whose digests were compared so far."""
        if first > 1 and _has_checkpoints(path):
            self._start_from_checkpoint(path, machine_file)
        else:
            self._start_anew(path, machine_file)
        self.machine.emit = self._emit
        for unit, disk in enumerate(self._disks if disks else ()):
            disk.observer = partial(self._disk_asked, unit)

    def _start_anew(self, path: Path, machine_file: Path | None) -> None:
        self._reader = LogReader(path)
        try:
            self._rebuilt = rebuild(path, self._reader.header, machine_file, debug=self._interrupts)
        except BaseException:
            self._reader.close()
            raise
        self._close: Callable[[], None] = self._close_both
        self.machine: Machine = self._rebuilt.machine
        self._disks = self._rebuilt.disks
        try:
            state = self._reader.state()
            if state is not None:
                self._rebuilt.restore(state.sections)
        except BaseException:
            self.close()
            raise
        self._entries: Iterator[Recorded] = iter(self._reader)

    def _start_from_checkpoint(self, path: Path, machine_file: Path | None) -> None:
        debugger = Debugger.open(path, machine_file, verify=self._verify)
        self._close = debugger.close
        self.machine = debugger.machine
        self._disks = debugger.disks
        try:
            debugger.tell_progress(self._progress)
            timeline = debugger.timeline
            timeline.seek(timeline.behind(min(self._first - 1, timeline.entries.last)))
        except BaseException:
            self.close()
            raise
        self._entries = timeline.entries.since(timeline.position.sequence + 1)

    def __iter__(self) -> Iterator[ReplayedEpoch]:
        for entry, expected in self._entries:
            if self._last is not None and entry.sequence > self._last:
                return
            if entry.events:
                self._event = (entry.sequence, entry.events[-1])
            self._outputs, self._asked = [], []
            wanted = entry.sequence >= self._first
            request = self.machine.journal.next_number if self.machine.journal is not None else 0
            handlers = self._watch_handlers() if self._interrupts and wanted else ()
            try:
                result = self.machine.run(entry)
            except ValueError as error:
                raise LogError(f"entry {entry.sequence} does not fit its machine: {error}") from None
            if self._verify and (found := differences(expected, result)):
                raise Divergence(entry, found, self._event)
            self.verified += self._verify
            self._progress(1)
            if wanted:
                epoch = epoch_of(entry, expected)
                taken = tuple(self._taken(epoch)) if handlers else ()
                yield ReplayedEpoch(epoch, tuple(self._outputs), taken, tuple(self._asked), request)

    def _emit(self, sequence: int, index: int, output: MachineOutput) -> None:
        if sequence >= self._first:
            machine = self.machine
            self._outputs.append(
                Output(sequence, index, machine.clock, machine.time, output.kind, output.unit, output.data,
                       output.offset, output.durable)
            )  # fmt: skip

    def _disk_asked(self, unit: int, command: str, offset: int, length: int) -> None:
        machine = self.machine
        place = machine.sequence, len(self._asked), machine.clock, machine.time
        self._asked.append(DiskRequest(*place, unit, command, offset, length))

    def _watch_handlers(self) -> tuple[int, ...]:
        vector = self.machine.hart.registers()["stvec"]
        base = vector & ~3
        handlers = (base,) if vector & 3 != VECTORED else tuple(base + 4 * cause for cause in INTERRUPTS)
        self.machine.hart.hits()
        self.machine.hart.breakpoints(handlers, record=True)
        return handlers

    def _taken(self, epoch: Epoch) -> Iterator[Interrupt]:
        """The interrupts of an epoch, from its hits; an arrival may be noted twice."""
        seen: Hit | None = None
        index = 0
        for hit in self.machine.hart.hits():
            if not hit.value & INTERRUPT_BIT or (seen is not None and seen.clock == hit.clock):
                continue
            seen = hit
            time = min(epoch.time + (hit.clock - epoch.clock) // BYTES_PER_TICK, epoch.time_end)
            yield Interrupt(epoch.sequence, index, hit.clock, time, hit.value & ~INTERRUPT_BIT, hit.address)
            index += 1

    def _close_both(self) -> None:
        self._rebuilt.close()
        self._reader.close()

    def close(self) -> None:
        """Release machine and log."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _has_checkpoints(path: Path) -> bool:
    """Beside the log, or in a pack."""
    with LogReader(path) as reader:
        found = checkpoints_of(path, reader.header)
    if found is not None:
        found.close()
    return found is not None
