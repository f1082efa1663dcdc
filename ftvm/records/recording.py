# SPDX-License-Identifier: GPL-2.0-or-later
"""`Recording`: a log opened for scripts: what it says of itself, its epochs, its inputs; and, by a replay, its outputs.

    with Recording.open("crash.log") as recording:
        for event in recording.inputs(kinds=["packet"]):
            print(event.position, event.summary)
        with recording.debugger() as debugger:
            debugger.timeline.seek(event.position)

Reading streams, whatever the log's size, and needs nothing but the file. `replay`, `outputs`, `console` and
`debugger` run the guest, so they need its images on this host; a machine file given to `open` stands in for the
recorded one, say because the kernel lies elsewhere now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ftvm.records.happening import TICKS_PER_SECOND, Epoch, Happening, Input, Output, ReplayedEpoch, epoch_of
from replay import inspect
from replay.header import LogHeader
from replay.inspect import LogStat, Verdict
from replay.log_reader import LogReader

if TYPE_CHECKING:
    from ftvm.config import MachineConfig
    from ftvm.debugger import Debugger
    from ftvm.records.replayed import Progress, Replay


class Recording:
    """An open log. Iterating yields its epochs, each time anew."""

    def __init__(self, reader: LogReader, machine_file: Path | None = None) -> None:
        self._reader = reader
        self._machine_file = machine_file

    @classmethod
    def open(cls, path: str | Path, machine_file: str | Path | None = None) -> Self:
        """LogError when this is no log, or none that this ftvm reads."""
        return cls(LogReader(path), None if machine_file is None else Path(machine_file))

    # -- what it says of itself ---------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Where the log is."""
        return self._reader.path

    @property
    def header(self) -> LogHeader:
        """Engine, images with their digests, pair, and the machine file as bytes."""
        return self._reader.header

    @property
    def machine(self) -> MachineConfig:
        """The machine that was recorded; ConfigError when its file is not one that this ftvm knows."""
        from ftvm.config import load_text

        return load_text(self.header.machine, Path(f"{self.path}(machine file)"))

    @property
    def starts_after(self) -> int:
        """The sequence of the checkpoint that the log starts from; 0 when it starts at power-on."""
        return self._reader.state_sequence or 0

    @property
    def tail(self) -> str:
        """What was cut from the end of the log of a killed recorder, as the latest walk to its end has found; or ""."""
        return str(self._reader.tail or "")

    @property
    def closed(self) -> bool:
        """Whether its recorder ended it in order, as the latest walk to its end has found."""
        return self._reader.closed

    def statistics(self) -> LogStat:
        """Counts of entries, events and bytes; one walk through the log. LogError at damage."""
        return inspect.stat(self.path)

    def verify(self) -> Verdict:
        """Whether the file is whole, torn or damaged; the guest is not run. Never raises."""
        return inspect.verify(self.path)

    # -- what is in it ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Epoch]:
        return self.epochs()

    def epochs(self, first: int = 0, last: int | None = None) -> Iterator[Epoch]:
        """The epochs with first <= sequence <= last. LogError at damage, behind all that is before it."""
        for entry, result in self._reader.entries(first):
            if last is not None and entry.sequence > last:
                return
            yield epoch_of(entry, result)

    def inputs(
        self, first: int = 0, last: int | None = None, *, kinds: Collection[str] | None = None
    ) -> Iterator[Input]:
        """The events of these epochs, of these kinds (`Input.kind`); of all, when none are named."""
        for epoch in self.epochs(first, last):
            for event in epoch.inputs:
                if kinds is None or event.kind in kinds:
                    yield event

    def at_time(self, seconds: float) -> Epoch | None:
        """The first epoch that ends at this guest time or later; None behind the end."""
        ticks = round(seconds * TICKS_PER_SECOND)
        return next((epoch for epoch in self if epoch.time_end >= ticks), None)

    # -- what only running it again tells -----------------------------------------------------------------------------

    def replay(
        self,
        first: int = 0,
        last: int | None = None,
        *,
        verify: bool = True,
        interrupts: bool = False,
        disks: bool = False,
        progress: Progress = lambda entries: None,
    ) -> Replay:
        """The guest run again: an iterator of `ReplayedEpoch` to be closed (or `with`).

        With `interrupts` and `disks`, also the interrupts that the guest took, and what it asked of its disks. With
        `verify`, Divergence at the first epoch whose result is not the recorded one. LogError, ConfigError or
        ImageError when its machine cannot be built here. `progress` hears of epochs done.
        """
        from ftvm.records.replayed import Replay

        return Replay(
            self.path,
            self._machine_file,
            first=first,
            last=last,
            verify=verify,
            interrupts=interrupts,
            disks=disks,
            progress=progress,
        )

    def outputs(
        self, first: int = 0, last: int | None = None, *, kinds: Collection[str] | None = None
    ) -> Iterator[Output]:
        """What the guest sent out in these epochs, by a replay: see there."""
        with self.replay(first, last) as replay:
            for replayed in replay:
                for output in replayed.outputs:
                    if kinds is None or output.kind in kinds:
                        yield output

    def happenings(
        self,
        first: int = 0,
        last: int | None = None,
        *,
        replay: bool = False,
        interrupts: bool = False,
        disks: bool = False,
        progress: Progress = lambda entries: None,
    ) -> Iterator[Happening]:
        """Inputs; with `replay` outputs too, with `interrupts` and `disks` these too: all in the order of positions.

        `progress` hears of epochs done.
        """
        for each in self.walk(first, last, replay=replay, interrupts=interrupts, disks=disks, progress=progress):
            yield from each.happenings

    def walk(
        self,
        first: int = 0,
        last: int | None = None,
        *,
        replay: bool = False,
        interrupts: bool = False,
        disks: bool = False,
        progress: Progress = lambda entries: None,
    ) -> Iterator[ReplayedEpoch]:
        """Each epoch with what happened in it, as `happenings` says."""
        if not (replay or interrupts or disks):
            for epoch in self.epochs(first, last):
                progress(1)
                yield ReplayedEpoch(epoch)
            return
        with self.replay(first, last, interrupts=interrupts, disks=disks, progress=progress) as epochs:
            yield from epochs

    def console(self, first: int = 0, last: int | None = None) -> bytes:
        """All that the guest wrote to its console in these epochs, by a replay."""
        return b"".join(output.data for output in self.outputs(first, last, kinds={"console_output"}))

    def debugger(self, *, verify: bool = True) -> Debugger:
        """The machine at the recording's beginning, with a timeline that moves it; to be closed (or `with`)."""
        from ftvm.debugger import Debugger

        return Debugger.open(self.path, self._machine_file, verify=verify)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
