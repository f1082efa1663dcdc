# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of a machine: their header, their beginning, and how one goes on after a failover.

A recording starts with the disks' contents when they hold anything (a log cannot contain what was on a disk before),
and with the machine's state when it does not start at power-on. The live side writes it. When a backup goes live, it
cuts what the dead primary had written and this side never received, and adds what this side has executed and the
primary had not yet written: so one file holds the surviving history. Checkpoints beside it, in `LOG.ckpt`, are cut in
the same way (ftvm/checkpointing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final, Protocol

from ftvm.checkpointing import Changes, Checkpointer, Keep
from ftvm.chunk_snapshot import FollowedDisk
from ftvm.config import MachineConfig
from ftvm.hart import BYTES_PER_TICK
from ftvm.image import LoadedImage
from ftvm.machine import ENGINE, Machine
from ftvm.scratch_disk import Chunked, pack_disks
from replay.checkpoint_file import path_of
from replay.entry import Entry, EpochResult
from replay.errors import LogError
from replay.header import LogHeader
from replay.log_writer import LogWriter


def header_of(
    config: MachineConfig, image: LoadedImage, machine_file: bytes, notes: Mapping[str, str] | None = None
) -> LogHeader:
    """The header of a recording of this machine."""
    return LogHeader(
        machine=machine_file,
        configuration=config.digest(),
        images=dict(image.digests),
        engine=ENGINE,
        rate=BYTES_PER_TICK,
        pair=config.name,
        notes=notes or {},
    )


def keep_aside(path: Path) -> Path | None:
    """Rename an earlier recording, which a new one would replace; its new path, or None when there is none."""
    if not path.exists() or not path.stat().st_size:
        return None
    taken = (path.with_name(f"{path.name}.{number}") for number in count(1))
    aside = next(candidate for candidate in taken if not candidate.exists())
    path.rename(aside)
    checkpoints = path_of(path)
    if checkpoints.exists():
        checkpoints.rename(path_of(aside))
    return aside


NOTHING_LACKS: Final = (1 << 64) - 1  # where there is no recording to go on with, a backup need not keep results


class RecordedDisk(Chunked, FollowedDisk, Protocol):
    """A disk whose contents a recording begins with, and whose changes its checkpoints hold."""


class Recording:
    """A log that is being written.

    With `on_failure`, a recording that can no longer be written (a full disk) is given up and told once, and the
    machine runs on: for a pair, availability comes first. Without, `LogError` is raised.
    """

    def __init__(
        self,
        writer: LogWriter,
        on_failure: Callable[[str], None] | None = None,
        checkpoints: Checkpointer | None = None,
    ) -> None:
        self.writer = writer
        self.failed = False
        self.checkpoints = checkpoints
        self._on_failure = on_failure

    @classmethod
    def begin(
        cls,
        path: Path,
        header: LogHeader,
        machine: Machine,
        disks: Sequence[RecordedDisk],
        replace: bool = False,
        on_failure: Callable[[str], None] | None = None,
        keep: Keep | None = None,
    ) -> Recording:
        """A new recording from the machine's present state; LogError when the file exists or cannot be made."""
        writer = LogWriter(path, header, replace=replace)
        path_of(path).unlink(missing_ok=True)  # of a recording that was here before
        sections = pack_disks(disks)
        if machine.sequence:
            sections = machine.save() + sections
        if sections:
            writer.write_state(machine.sequence, sections)
        checkpoints = None if keep is None else Checkpointer.begin(path, header, machine, disks, keep)
        return cls(writer, on_failure, checkpoints)

    @classmethod
    def go_on(
        cls,
        path: Path,
        header: LogHeader,
        machine: Machine,
        disks: Sequence[RecordedDisk],
        on_failure: Callable[[str], None] | None = None,
        keep: Keep | None = None,
        changes: Changes | None = None,
    ) -> Recording:
        """An existing recording, cut behind what the machine has executed.

        `changes`: what the machine has changed since it began to follow; without it, the next checkpoint holds all.
        """
        writer = LogWriter.resume(path, header)
        base = writer.base
        writer.truncate_after(machine.sequence)
        checkpoints = None
        if keep is not None:
            checkpoints = Checkpointer.go_on(path, header, machine, disks, keep, changes, base)
        return cls(writer, on_failure, checkpoints)

    def catch_up(self, recent: Sequence[tuple[Entry, EpochResult]]) -> None:
        """Add what was executed and is not in the file yet; a failure when something between is missing."""
        self._guard(lambda: self._catch_up(recent))

    def _catch_up(self, recent: Sequence[tuple[Entry, EpochResult]]) -> None:
        for entry, result in recent:
            last = self.writer.last_sequence or 0
            if entry.sequence > last + 1:
                raise LogError(f"{self.writer.path}: entries {last + 1} to {entry.sequence - 1} are lost")
            if entry.sequence == last + 1:
                self.writer.append(entry, result, 0.0)
        self.writer.flush()

    @property
    def recorded(self) -> int:
        """Last entry handed to write(2); of a recording that was given up, NOTHING_LACKS."""
        return NOTHING_LACKS if self.failed else self.writer.written_sequence or 0

    def append(self, entry: Entry, result: EpochResult, now: float) -> None:
        """One epoch."""
        self._guard(lambda: self.writer.append(entry, result, now))
        if self.checkpoints is not None:
            self.checkpoints.after(result)

    def tick(self, now: float) -> None:
        """Write what has waited long enough."""
        self._guard(lambda: self.writer.flush_due(now))

    def flush(self) -> None:
        """Write everything now."""
        self._guard(self.writer.flush)

    def close(self) -> None:
        """The recording ends in order; the machine is still there."""
        self._end_checkpoints(final=not self.failed)
        self._guard(self.writer.close)

    def abandon(self) -> None:
        """Write nothing more, not even what waits: another side goes on with the file."""
        self.failed = True
        self.writer.abandon()
        self._end_checkpoints(final=False)

    def _end_checkpoints(self, *, final: bool) -> None:
        checkpoints, self.checkpoints = self.checkpoints, None
        if checkpoints is not None:
            checkpoints.close(final=final)

    def _guard(self, step: Callable[[], object]) -> None:
        if self.failed:
            return
        try:
            step()
        except LogError as error:
            if self._on_failure is None:
                raise
            self.failed = True
            self.writer.abandon()
            self._end_checkpoints(final=False)
            self._on_failure(f"the recording ends here: {error}")
