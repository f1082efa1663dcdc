# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints while recording: a thread of its own writes `LOG.ckpt` from copy-on-write snapshots.

    guest's thread   ... entry | begin a snapshot, save the state | entry | entry ... | the next one ...
    other thread                 pages and chunks -> groups -> LZ4 -> file            waits

Between two entries the guest stands still for a fraction of a millisecond. What a checkpoint costs is paid from a
credit that grows with the guest's CPU time, so that together they cost no more than a share of it (`Keep.share`):
where little has changed they are dense, after much has changed there is a pause, and there are none while the guest
idles. A file that has become too large is thinned out (replay/checkpoint_thinning.py).

Nothing here can harm the recording: whatever fails is told once, and from there on there are no more checkpoints.
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ftvm.checkpoints import DISK, PAGES, PAGES_PER_GROUP, SPACING_MAX, SPACING_MIN, spacing
from ftvm.chunk_snapshot import ChunkSeries, FollowedDisk
from ftvm.ram_snapshot import PAGE, RamSnapshot, SnapshotSeries
from ftvm.scratch_disk import CHUNK
from replay.checkpoint_file import Mark, path_of
from replay.checkpoint_thinning import thinned
from replay.checkpoint_writer import CheckpointWriter
from replay.divergence import DIGEST_MASK
from replay.entry import EpochResult
from replay.errors import LogBusy, LogError
from replay.header import LogHeader

Sections = list[tuple[str, bytes]]
SIZE_MAX: Final = 256 << 20
COUNT_MAX: Final = 192
FINAL_SPACING: Final = 20_000_000  # before the one at the recording's end
INTERVAL_S: Final = 0.2
SHARE: Final = 0.03
CREDIT_S: Final = 0.06  # that is there at the beginning, and is saved up at most
FLUSH_S: Final = 1e-3  # for the guest to fill its TLB again
PAGE_S: Final = 1.5e-6  # for the guest to get a page's write permission back, and for its copy
GUESS_S: Final = 8e-6  # of a page altogether, before that is known
LOOK_S: Final = 0.02
RETRY_S: Final = 1.0
BATCH: Final = 16 * PAGES_PER_GROUP
NICE: Final = 5


class Saved(Protocol):
    """What this needs of a machine."""

    sequence: int

    @property
    def clock(self) -> int: ...

    def snapshots(self) -> SnapshotSeries: ...

    def save_state(self) -> Sections: ...


class Changes:
    """What a machine and its disks change, from an entry on."""

    def __init__(self, machine: Saved, disks: Sequence[FollowedDisk]) -> None:
        """Between two epochs."""
        self.since = machine.sequence
        self.ram = machine.snapshots()
        self.ram.begin(exact=False).end()
        self.disks = [ChunkSeries(disk) for disk in disks]

    def begin(self, *, changed: bool) -> tuple[RamSnapshot, int]:
        """A snapshot, between two epochs; and the number of chunks in it, whose series are begun, too."""
        chunks = sum(series.begin(changed=changed) for series in self.disks)
        return self.ram.begin(changed=changed), chunks

    def pages(self) -> int:
        """About how many would be in the next one."""
        return self.ram.changed() + CHUNK // PAGE * sum(series.changed() for series in self.disks)

    def close(self) -> None:
        """Follow them no longer."""
        self.ram.close()
        for series in self.disks:
            series.close()


@dataclass(frozen=True, slots=True)
class Keep:
    """How checkpoints are to be made."""

    size_max: int = SIZE_MAX  # bytes of the file
    tell: Callable[[str], None] = lambda text: None  # hears, once, that there will be no more, and why
    spacing_max: int = SPACING_MAX  # of the clock; `spacing` tells where they may be denser
    interval_s: float = INTERVAL_S  # at least
    share: float = SHARE  # of the guest's time, that they may cost


@dataclass(frozen=True, slots=True)
class _Job:
    mark: Mark
    sections: Sections
    ram: RamSnapshot
    pages: int
    pause_s: float


class Checkpointer:
    """Call `after` behind each entry, `close` at the end; the machine is between two epochs then."""

    def __init__(
        self,
        open_writer: Callable[[], CheckpointWriter],
        machine: Saved,
        changes: Changes,
        keep: Keep,
        base: int,
        begins: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`base`: the entry behind which the recording begins; `begins`: the clock from which on there is none yet."""
        self.count = 0
        self._open_writer = open_writer
        self._writer: CheckpointWriter | None = None
        self._machine = machine
        self._changes = changes
        self._base = base
        self._keep = keep
        self._clock = clock
        self._due = clock() + keep.interval_s
        self._credit, self._credit_at = CREDIT_S, 0.0  # of the guest's thread: CPU time
        self._per_page = GUESS_S
        self._due_clock = begins + min(SPACING_MIN, keep.spacing_max)
        self._latest: EpochResult | None = None
        self._done_clock = begins
        self._size = 0  # of the latest one
        self._full: bool | None = None  # None: not known before the file is open
        self._news = threading.Condition()
        self._job: _Job | None = None
        self._closing = False
        self._trouble = ""
        self._over = False
        self._thread: threading.Thread | None = None

    @classmethod
    def begin(
        cls, log: Path, header: LogHeader, machine: Saved, disks: Sequence[FollowedDisk], keep: Keep
    ) -> Checkpointer:
        """For a new recording."""
        path = path_of(log)
        changes = Changes(machine, disks)
        return cls(lambda: CheckpointWriter(path, header), machine, changes, keep, machine.sequence, machine.clock)

    @classmethod
    def go_on(
        cls,
        log: Path,
        header: LogHeader,
        machine: Saved,
        disks: Sequence[FollowedDisk],
        keep: Keep,
        changes: Changes | None,
        base: int,
    ) -> Checkpointer:
        """For one that goes on behind the machine's present entry, after a failover."""
        path, executed = path_of(log), machine.sequence

        def open_writer() -> CheckpointWriter:
            found = CheckpointWriter.go_on(path, header, executed)
            return found if found is not None else CheckpointWriter(path, header)

        return cls(open_writer, machine, changes or Changes(machine, disks), keep, base)

    # -- the guest's thread -------------------------------------------------------------------------------------

    def after(self, result: EpochResult) -> None:
        """The entry with this result was run and recorded."""
        self._latest = result
        if result.clock >= self._due_clock and self._job is None and not self._over:
            self._when_due(result)

    def _when_due(self, result: EpochResult) -> None:
        if self._trouble:
            self._stop_for_good()
        elif (now := self._clock()) >= self._due:
            if self._affordable(time.thread_time()):
                self._begin(result, now)
            else:
                self._due = now + LOOK_S

    def _affordable(self, spent: float) -> bool:
        """Whether the credit is enough; it is when it cannot grow, too. `spent`: CPU time of the guest's thread."""
        if self._credit_at:
            self._credit = min(CREDIT_S, self._credit + self._keep.share * (spent - self._credit_at))
        self._credit_at = spent
        return self._credit >= min(CREDIT_S, self._changes.pages() * self._per_page)

    def _begin(self, result: EpochResult, now: float) -> None:
        if not self._ready(now):
            return
        full = bool(self._full)
        ram, chunks = self._changes.begin(changed=not full)
        if chunks * CHUNK > self._keep.size_max:
            self._trouble = f"the disks hold more than {self._keep.size_max >> 20} MiB that would have to be in one"
            self._stop_for_good()
            return
        self._full = False
        mark = Mark(result.sequence, result.clock, result.digest & DIGEST_MASK, full)
        pages = ram.left + chunks * (CHUNK // PAGE)
        job = _Job(mark, self._machine.save_state(), ram, pages, self._clock() - now)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()
        with self._news:
            self._job = job
            self._news.notify_all()

    def _ready(self, now: float) -> bool:
        if self._writer is not None:
            return True
        try:
            self._writer = self._open_writer()
        except LogBusy:  # a primary that has lost its term, and is about to go
            self._due = now + RETRY_S
            return False
        except LogError as error:
            self._trouble = str(error)
            self._stop_for_good()
            return False
        reached = self._base if self._writer.last is None else self._writer.last
        self._full = self._changes.since > reached
        return True

    def _stop_for_good(self) -> None:
        self._over = True
        self._changes.close()
        entry = 0 if self._latest is None else self._latest.sequence
        self._keep.tell(f"no checkpoints from entry {entry} on: {self._trouble}; the recording itself goes on")

    def close(self, *, final: bool = True) -> None:
        """End the thread; with `final`, after one more checkpoint where the recording ends."""
        latest = self._latest
        if final and not self._over and latest is not None and self._machine.sequence == latest.sequence:
            self.settle()
            if latest.clock >= self._done_clock + FINAL_SPACING and not self._trouble:
                self._begin(latest, self._clock())
                self.settle()
        with self._news:
            self._closing = True
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join()
        if not self._over:
            if self._trouble:
                self._stop_for_good()
            else:
                self._changes.close()
        self._over = True
        self._close_file()

    def settle(self) -> None:
        """Wait until the one that has begun is in the file, or has failed."""
        with self._news:
            self._news.wait_for(lambda: self._job is None)

    def _close_file(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with suppress(LogError):
            if writer.count:
                writer.close()
            else:
                writer.discard()

    # -- the other thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        while (job := self._wanted()) is not None:
            began = time.thread_time()
            try:
                self._write(job)
            except (LogError, OSError) as error:
                self._trouble = str(error)
            except Exception as error:  # our own bug, or the disk's; the guest is not to suffer from it
                self._trouble = f"{type(error).__name__}: {error}"
            cost = job.pause_s + FLUSH_S + time.thread_time() - began + job.pages * PAGE_S
            self._credit -= cost
            self._per_page = (self._per_page + cost / max(job.pages, 100)) / 2
            self._due = self._clock() + self._keep.interval_s
            self._done_clock = job.mark.clock
            self._due_clock = job.mark.clock + min(spacing(self._size), self._keep.spacing_max)
            with self._news:
                self._job = None
                self._news.notify_all()

    def _wanted(self) -> _Job | None:
        with self._news:
            self._news.wait_for(lambda: self._closing or (self._job is not None and not self._trouble))
            return None if self._closing else self._job

    def _write(self, job: _Job) -> None:
        writer = self._writer
        assert writer is not None
        writer.begin()
        for name, data in job.sections:
            writer.section(name, data)
        while len(pages := job.ram.take(BATCH)):
            if self._closing:
                return
            writer.pieces(PAGES, PAGE, PAGES_PER_GROUP, array("I", pages.numbers), pages.content)
            writer.zeros(PAGES, PAGE, PAGES_PER_GROUP, array("I", pages.zeros))
        for unit, series in enumerate(self._changes.disks):
            self._write_disk(writer, f"{DISK}{unit}", series)
        self._size = writer.commit(job.mark)
        self.count += 1
        if writer.size > self._keep.size_max or writer.count > COUNT_MAX:
            self._thin_out(writer)

    def _write_disk(self, writer: CheckpointWriter, name: str, series: ChunkSeries) -> None:
        while (piece := series.take()) is not None and not self._closing:
            index, content = piece
            if content.count(0) == len(content):
                writer.zeros(name, CHUNK, 1, [index])
            else:
                writer.pieces(name, CHUNK, 1, [index], content)

    def _thin_out(self, writer: CheckpointWriter) -> None:
        fresh = thinned(writer, self._keep.size_max, COUNT_MAX * 3 // 4)
        self._writer = fresh
        writer.close()
        if fresh.size > self._keep.size_max:
            self._trouble = f"one takes more than {self._keep.size_max >> 20} MiB"
