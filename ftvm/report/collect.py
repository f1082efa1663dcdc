# SPDX-License-Identifier: GPL-2.0-or-later
"""`Collected`: all that the page shows of a recording, in one walk, of bounded size.

totals    entries, clock, guest time, why epochs ended; of each kind of happening its count and bytes
bins      the same over guest time
details   every happening of a kind as a row while there are few, then every second, every fourth, ...
verdict   how the walk ended: whole, torn, damaged, diverged, or refused
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from devices.event import OutputKind
from ftvm.records.happening import Epoch, Happening, Output, ReplayedEpoch
from ftvm.records.printable import printable
from ftvm.records.query import with_whole_lines
from ftvm.records.recording import Recording
from ftvm.report.bins import Bins, packed
from ftvm.report.sample import Sample
from replay.divergence import Divergence
from replay.entry import U64_MAX
from replay.errors import LogDamaged, LogError

DETAILS_MAX: Final = 4000  # of each kind
SUMMARY_MAX: Final = 160  # characters
KINDS_MAX: Final = 64  # a damaged log may name any number of kinds
OTHER: Final = "other"

Row = tuple[int, str, str, int, str]
"""time, position, kind, bytes, summary"""


@dataclass(slots=True)
class KindCount:
    """How often, and how many bytes."""

    direction: str
    count: int = 0
    bytes: int = 0
    rows: Sample[Row] = field(default_factory=lambda: Sample(DETAILS_MAX))


@dataclass(slots=True)
class Collected:
    """What a walk has found. Clock in bytes of code, times in ticks of 100 ns."""

    entries: int = 0
    first_sequence: int = 0
    last_sequence: int = 0
    clock: int = 0  # that passed
    time_start: int = 0
    time_end: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    page_digests: int = 0
    kinds: dict[str, KindCount] = field(default_factory=dict)
    bins: Bins = field(default_factory=Bins)
    replayed: bool = False
    verified: int = 0  # epochs whose digests were compared, and agreed
    divergence: str = ""
    damage: str = ""
    tail: str = ""
    closed: bool = False

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with the recording; a torn tail is not wrong."""
        return not self.divergence and not self.damage

    def rows(self) -> list[Row]:
        """All that were kept, by their time."""
        return sorted((row for kind in self.kinds.values() for row in kind.rows.kept), key=lambda row: row[0])

    def series(self) -> dict[str, list[int]]:
        """By name: `epochs`, `busy` (ticks), `code` (bytes), `n KIND`, `b KIND` (bytes)."""
        return {name: packed(values) for name, values in self.bins.series().items()}


def collect(
    recording: Recording,
    first: int = 0,
    last: int | None = None,
    *,
    replay: bool,
    progress: Callable[[int], None] = lambda entries: None,
) -> Collected:
    """Walk through these epochs. What is wrong is in the result; LogError when they cannot be replayed here."""
    found = Collected(replayed=replay)
    walk = _Walk(found)
    epochs = recording.walk(first, last, replay=replay, interrupts=replay, disks=replay, progress=progress)
    try:
        for happening in with_whole_lines(walk.happenings(epochs)):
            walk.count(happening)
    except Divergence as divergence:
        found.divergence = str(divergence)
    except LogDamaged as damage:
        found.damage = str(damage)
    except LogError as error:
        if not found.entries:
            raise
        found.damage = str(error)
    found.verified = found.entries if replay else 0
    with suppress(LogError):
        next(recording.epochs(U64_MAX), None)  # to the end, decoding nothing
        found.tail, found.closed = recording.tail, recording.closed
    return found


class _Walk:
    """Counts epochs as they go by."""

    def __init__(self, found: Collected) -> None:
        self._found = found

    def happenings(self, epochs: Iterable[ReplayedEpoch]) -> Iterator[Happening]:
        """What happened in the epochs, which are counted."""
        for each in epochs:
            self._count_epoch(each.epoch)
            yield from each.happenings

    def _count_epoch(self, epoch: Epoch) -> None:
        found, bins = self._found, self._found.bins
        if not found.entries:
            found.first_sequence, found.time_start = epoch.sequence, epoch.time
        ran, took = max(0, epoch.clock_end - epoch.clock), max(0, epoch.time_end - epoch.time)
        found.entries += 1
        found.last_sequence, found.time_end = epoch.sequence, max(found.time_end, epoch.time_end)
        found.clock += ran
        found.reasons[epoch.reason] += 1
        found.page_digests += bool(epoch.pages)
        bins.add("epochs", epoch.time)
        bins.spread("busy", epoch.time, epoch.time_end, took)
        bins.spread("code", epoch.time, epoch.time_end, ran)

    def count(self, happening: Happening) -> None:
        """One happening; of the console, a line."""
        kind = happening.kind
        kinds = self._found.kinds
        if kind not in kinds and len(kinds) >= KINDS_MAX:
            kind = OTHER
        counted = kinds.get(kind)
        if counted is None:
            counted = kinds[kind] = KindCount(happening.direction)
        size = len(happening.payload)
        counted.count += 1
        counted.bytes += size
        self._found.bins.add(f"n {kind}", happening.time)
        if size:
            self._found.bins.add(f"b {kind}", happening.time, size)
        counted.rows.offer(_row(happening, kind, size) if counted.rows.wants_next() else None)


def _row(happening: Happening, kind: str, size: int) -> Row:
    if isinstance(happening, Output) and happening.code == OutputKind.CONSOLE:
        summary = printable(happening.data.rstrip(b"\r\n"), SUMMARY_MAX)
    else:
        summary = happening.summary
        summary = summary if len(summary) <= SUMMARY_MAX else summary[:SUMMARY_MAX] + "..."
    return happening.time, str(happening.position), kind, size, summary


def facts(recording: Recording, found: Collected) -> dict[str, Any]:
    """What the page says about the recording, for JSON."""
    header = recording.header
    return {
        "name": recording.path.name,
        "bytes": recording.path.stat().st_size,
        "pair": header.pair,
        "engine": header.engine,
        "configuration": header.configuration,
        "images": dict(header.images),
        "notes": dict(header.notes),
        "machine": header.machine.decode("utf-8", "replace"),
        "starts_after": recording.starts_after,
        "entries": found.entries,
        "first": found.first_sequence,
        "last": found.last_sequence,
        "clock": found.clock,
        "start": found.time_start,
        "end": found.time_end,
        "reasons": dict(found.reasons),
        "page_digests": found.page_digests,
        "replayed": found.replayed,
        "verified": found.verified,
        "divergence": found.divergence,
        "damage": found.damage,
        "tail": found.tail,
        "closed": found.closed,
    }
