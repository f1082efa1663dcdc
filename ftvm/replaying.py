# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine rebuilt from what a log says of itself, and run through all of it again.

    header: machine file -> configuration -> images (bundled guests by name, files by path) -> digests must be the log's
    state:  disk/N -> scratch disks;  the rest, when there is any -> Machine.restore
    entries -> Machine.run -> every recorded digest compared

Nothing of the recording's host is needed but the files of kernel and initrd; disks are in memory. Guest time comes from
the entries, so a replay takes as long as the guest computed, not as long as it waited.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.event import Output, OutputKind
from ftvm.config import MachineConfig, load, load_text
from ftvm.config_error import ConfigError
from ftvm.finding import Finding
from ftvm.image import ImageError, ImageFiles, load_image
from ftvm.live import seconds
from ftvm.machine import ENGINE, FINAL, EpochEnd, Machine
from ftvm.scratch_disk import ScratchDisk, load_disks
from replay.divergence import Divergence
from replay.entry import Entry, EpochResult
from replay.errors import LogDamaged, LogError
from replay.header import LogHeader
from replay.log_reader import LogReader
from replay.log_scan import Scan
from replay.pack import INITRD, KERNEL, Pack
from replay.replayer import replay

Sections = list[tuple[str, bytes]]
IMAGES = (KERNEL, INITRD)


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a replay stands after an entry. Time in ticks of 100 ns."""

    entries: int = 0
    sequence: int | None = None
    clock: int = 0
    time: int = 0


@dataclass(slots=True)
class Report:
    """How far a replay came; of a replay that failed, how far it had come."""

    log: str
    verified: bool
    entries: int = 0
    last_sequence: int | None = None
    clock: int = 0
    time: int = 0  # guest time reached, in ticks of 100 ns
    elapsed: float = 0.0  # seconds of the host
    end: str = ""  # how the guest ended, "" when the log ends before that
    closed: bool = False  # the recorder ended the log
    cut: str = ""  # what was cut from a torn tail
    divergence: Divergence | None = None
    finding: Finding | None = None  # what has made it diverge
    damage: str = ""  # what is wrong with the log behind the last entry

    @property
    def sound(self) -> bool:
        """Whether the whole log was replayed, and nothing differed."""
        return self.divergence is None and not self.damage

    def stands_at(self, reached: Reached) -> None:
        """Take in how far the machine is."""
        self.entries, self.last_sequence = reached.entries, reached.sequence
        self.clock, self.time = reached.clock, reached.time

    @property
    def guest_seconds(self) -> float:
        """Guest time reached."""
        return seconds(self.time)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "log": self.log,
            "entries": self.entries,
            "last_sequence": self.last_sequence,
            "guest_seconds": self.guest_seconds,
            "time": self.time,
            "clock": self.clock,
            "seconds": round(self.elapsed, 3),
            "verified": self.verified,
            "end": self.end or None,
            "closed": self.closed,
            "cut": self.cut or None,
            "divergence": None if self.divergence is None else self.divergence.as_dict(),
            "finding": None if self.finding is None else self.finding.as_dict(),
            "damage": self.damage or None,
        }

    def words(self) -> str:
        """For people."""
        checked = "every digest as recorded" if self.verified else "digests were not compared"
        speed = self.clock / max(self.elapsed, 1e-9) / 1e6
        lines = [
            f"{self.entries:,} entries replayed, {self.guest_seconds:.3f} s of guest time reached, clock {self.clock:,}"
            f" ({self.elapsed:.3f} s, {speed:,.1f} MB of code a second); {checked}"
        ]
        if self.end:
            lines.append(f"the guest ended: {self.end}")
        elif self.sound and not self.closed and not self.cut:
            lines.append("the log was not ended by its recorder: it was killed, or still runs")
        if self.cut:
            lines.append(f"torn tail: {self.cut}")
        return "\n".join(lines)


class Rebuilt:
    """The machine of a log, in the form that a replay drives. Raises LogError for what the machine cannot take."""

    def __init__(self, config: MachineConfig, path: Path, debug: bool = False, files: ImageFiles | None = None) -> None:
        self._path = path
        self.files = files
        """The images, where the log is a pack."""
        self.disks = [ScratchDisk(disk.size or 0) for disk in config.disk]
        self.machine = Machine(config, load_image(config, files), self.disks, debug=debug)
        self.end: EpochEnd | None = None
        self.reached = self.reached_before = Reached()

    def run(self, entry: Entry) -> EpochResult:
        """One epoch."""
        if self.end is not None:
            raise LogError(f"{self._path}: entry {entry.sequence} follows the guest's end ({self.end.name.lower()})")
        try:
            result = self.machine.run(entry)
        except ValueError as error:
            raise LogError(f"{self._path}: {error}") from None
        self.reached_before = self.reached
        self.reached = Reached(self.reached.entries + 1, entry.sequence, result.clock, result.time)
        if result.reason in FINAL:
            self.end = EpochEnd(result.reason)
        return result

    def restore(self, sections: Sections) -> None:
        """Start from the disks, and from the machine's state if there is one, that the log begins with."""
        try:
            state = load_disks(sections, self.disks)
            if state:
                self.machine.restore(state)
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(f"{self._path}: what the log begins with does not fit its machine: {error}") from None

    def close(self) -> None:
        """Release the engine."""
        self.machine.close()


def rebuild(path: Path, header: LogHeader, machine_file: Path | None = None, *, debug: bool = False) -> Rebuilt:
    """The machine that a header describes; LogError, ConfigError or ImageError when there is no such machine here.

    `machine_file` stands in for the recorded one, e.g. because the kernel lies elsewhere on this host.
    """
    try:
        return _rebuilt(path, header, machine_file, debug)
    except LogError as error:
        raise LogError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _rebuilt(path: Path, header: LogHeader, machine_file: Path | None, debug: bool) -> Rebuilt:
    # Before anything is built: an engine's other version may not even have this configuration.
    header.check_against(configuration=header.configuration, images=header.images, engine=ENGINE)
    config = config_of_log(path, header, machine_file)
    files = images_in(path) if machine_file is None else None
    try:
        rebuilt = Rebuilt(config, path, debug, files)
    except ImageError as error:
        raise LogError(f"{path}: the guest that was recorded cannot be loaded here: {error}") from None
    header.check_against(configuration=config.digest(), images=rebuilt.machine.image.digests, engine=ENGINE)
    return rebuilt


def config_of_log(path: Path, header: LogHeader, machine_file: Path | None = None) -> MachineConfig:
    """The machine that a header describes, or a machine file instead; LogError or ConfigError."""
    config = _recorded(path, header) if machine_file is None else load(machine_file)
    if not all(disk.size for disk in config.disk):
        raise ConfigError(f"{machine_file}: say every disk's size: a replay has no images to take it from")
    return config


def images_in(path: Path) -> ImageFiles | None:
    """The images in a pack; None for a log that is none. LogError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LogError(f"cannot open the log {path}: {error.strerror}") from None
    try:
        pack = Pack.find(fd, str(path))
        return None if pack is None else {name: pack.content(name) for name in IMAGES if name in pack.members}
    finally:
        os.close(fd)


def _recorded(path: Path, header: LogHeader) -> MachineConfig:
    if not header.machine:
        raise LogError(f"{path}: the log holds no machine file; give one with --machine")
    return load_text(header.machine, Path(f"{path}(machine file)"))


Inquire = Callable[[Divergence, Rebuilt], Finding]


def run_replay(
    path: Path,
    *,
    verify: bool = True,
    machine_file: Path | None = None,
    console_fd: int | None = None,
    progress: Callable[[int], None] = lambda entries: None,
    inquire: Inquire | None = None,
) -> Report:
    """Replay a whole log; `progress` hears of entries done. A Divergence is in the report, a damaged log raises.

    `inquire` looks into a divergence while the machine that showed it is still there.
    """
    report = Report(str(path), verify)
    with LogReader(path) as reader:
        rebuilt = rebuild(path, reader.header, machine_file)
        try:
            if console_fd is not None:
                rebuilt.machine.emit = _Screen(console_fd).emit
            _drive(rebuilt, reader, report, progress)
            if report.divergence is not None and inquire is not None:
                report.finding = inquire(report.divergence, rebuilt)
        finally:
            rebuilt.close()
    return report


def _drive(rebuilt: Rebuilt, reader: LogReader, report: Report, progress: Callable[[int], None]) -> None:
    began, told = time.perf_counter(), 0

    def tell(entries: int, clock: int, ticks: int) -> None:
        nonlocal told
        progress(entries - told)
        told = entries

    try:
        done = replay(rebuilt, reader, verify=report.verified, progress=tell)
        report.closed = done.closed
        report.cut = "" if done.tail is None else str(done.tail)
    except LogDamaged as damage:
        report.damage = str(damage)
    except Divergence as divergence:
        report.divergence = divergence
    report.elapsed = time.perf_counter() - began
    report.stands_at(rebuilt.reached if report.divergence is None else rebuilt.reached_before)
    report.end = "" if rebuilt.end is None or report.divergence is not None else rebuilt.end.name.lower()


def entries_in(path: Path) -> int:
    """How many entries there are, for a progress display: a quick walk that decodes none. LogError when unreadable."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise LogError(f"cannot open the log {path}: {error.strerror}") from None
    try:
        scan = Scan(fd, path)
        with suppress(LogDamaged):  # the replay itself comes to the damage, and tells what was before it
            for _ in scan:
                pass
        return scan.entries
    finally:
        os.close(fd)


class _Screen:
    """Shows the guest's console."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def emit(self, sequence: int, index: int, output: Output) -> None:
        if output.kind == OutputKind.CONSOLE:
            data = output.data
            while data:
                data = data[os.write(self._fd, data) :]
