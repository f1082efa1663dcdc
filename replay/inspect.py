# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks into a log without running its guest: `stat` counts, `verify` checks structure.

Both stream. `stat` raises `LogError` at damage; `verify` never does, its verdict says it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from devices.event import Event, EventKind
from replay.batch import Recorded
from replay.errors import LogDamaged, LogError
from replay.log_reader import LogReader
from replay.log_scan import Record, Scan
from replay.pack import Pack
from replay.record import FORMAT, Kind
from replay.record_chain import RecordChain
from replay.state import StateReader

TICKS_PER_SECOND: Final = 10_000_000
REASONS: Final = ("limit", "idle", "restarted", "reset", "poweroff", "stopped", "failed")  # ftvm.machine.EpochEnd


@dataclass(slots=True)
class LogStat:
    """What is in a log. Bytes are as in the file unless said otherwise; guest time in ticks of 100 ns."""

    path: str
    format: int
    engine: str
    configuration: str
    images: dict[str, str]
    pair: str
    notes: dict[str, str]
    bytes: int
    starts_after: int | None = None  # sequence of the checkpoint that the log starts from
    first_sequence: int | None = None
    last_sequence: int | None = None
    entries: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    event_bytes: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    record_bytes: dict[str, int] = field(default_factory=dict)
    expanded_bytes: int = 0  # of the entries' bodies, decompressed
    page_digests: int = 0
    clock_first: int = 0
    clock_last: int = 0
    time_first: int = 0
    time_last: int = 0
    closed: bool = False
    tail: str = ""

    @property
    def guest_seconds(self) -> float:
        """Guest time from the first entry's start to the last one's end."""
        return (self.time_last - self.time_first) / TICKS_PER_SECOND

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the rates that follow from the counts."""
        stored = self.record_bytes.get("entries", 0)
        seconds = self.guest_seconds
        rates = {
            "guest_seconds": seconds,
            "bytes_per_entry": stored / self.entries if self.entries else 0.0,
            "bytes_per_guest_second": stored / seconds if seconds else 0.0,
            "entries_per_guest_second": self.entries / seconds if seconds else 0.0,
            "compression": self.expanded_bytes / stored if stored else 0.0,
        }
        return asdict(self) | rates


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found. `state` is "whole", "torn", "damaged", or "unreadable" (no log, or none that ftvm reads)."""

    path: str
    state: str
    words: str
    entries: int
    last_sequence: int | None
    closed: bool
    cut_bytes: int
    offset: int | None  # where the log was cut, or is damaged

    @property
    def exit_code(self) -> int:
        """0 when everything that is there is as it was written."""
        return 0 if self.state in ("whole", "torn") else 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def stat(path: str | Path) -> LogStat:
    """Counts over a whole log."""
    with LogReader(path) as reader:
        header = reader.header
        found = LogStat(
            str(path), FORMAT, header.engine, header.configuration, dict(header.images), header.pair,
            dict(header.notes), os.stat(path).st_size, reader.state_sequence,
        )  # fmt: skip
        _count_entries(found, iter(reader))
        found.closed, found.tail = reader.closed, str(reader.tail or "")
    _count_records(found, Path(path))
    return found


def verify(path: str | Path) -> Verdict:
    """Check every record, every entry and the checkpoint's shape, without running anything."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        words = f"cannot open the log {path}: {error.strerror}"
        return Verdict(str(path), "unreadable", words, 0, None, False, 0, None)
    scan: Scan | None = None
    try:
        scan = Scan(fd, Path(path))
        if (pack := Pack.find(fd, str(path))) is not None:
            pack.verify()
        _walk(scan)
    except LogDamaged as error:
        entries = scan.entries if scan else 0
        return Verdict(str(path), "damaged", str(error), entries, error.sequence, False, 0, error.offset)
    except LogError as error:
        return Verdict(str(path), "unreadable", str(error), 0, None, False, 0, None)
    finally:
        os.close(fd)
    return _sound(scan)


def reason_name(reason: int) -> str:
    """Why an epoch ended, in words."""
    return REASONS[reason] if reason < len(REASONS) else f"reason {reason}"


def kind_name(event: Event) -> str:
    """The name of an event's kind, as in the counts."""
    try:
        return EventKind(event.kind).name.lower()
    except ValueError:
        return f"kind_{event.kind}"


def _sound(scan: Scan) -> Verdict:
    count = f"{scan.name}: {scan.entries} entries" + (", ended by its recorder" if scan.closed else "")
    if scan.tail is not None:
        words = f"{count}; torn tail: {scan.tail}"
        return Verdict(
            scan.name, "torn", words, scan.entries, scan.last_sequence, scan.closed, scan.tail.size, scan.tail.offset
        )
    words = count if scan.closed else f"{count}; its recorder was still running, or was killed between two records"
    return Verdict(scan.name, "whole", words, scan.entries, scan.last_sequence, scan.closed, 0, None)


def _walk(scan: Scan) -> None:
    chain, state = RecordChain(scan), StateReader(keep=False)
    for record in scan:
        if record.header.kind == Kind.ENTRIES:
            chain.decode(record)
        elif record.header.kind in (Kind.STATE, Kind.STATE_END):
            _check_piece(scan, record, state)


def _check_piece(scan: Scan, record: Record, state: StateReader) -> None:
    body = scan.body(record)
    try:
        if record.header.kind == Kind.STATE:
            state.feed(body)
        else:
            state.finish(body)
    except LogError as error:
        raise scan.damage(record, str(error)) from None


def _count_entries(found: LogStat, pairs: Iterator[Recorded]) -> None:
    reasons: Counter[str] = Counter()
    events: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for entry, result in pairs:
        if found.entries == 0:
            found.first_sequence, found.clock_first, found.time_first = entry.sequence, entry.clock, entry.time
        found.entries += 1
        found.last_sequence, found.clock_last, found.time_last = entry.sequence, result.clock, result.time
        found.page_digests += bool(result.pages)
        reasons[reason_name(result.reason)] += 1
        for event in entry.events:
            events[kind_name(event)] += 1
            sizes[kind_name(event)] += len(event.data)
    found.reasons, found.events, found.event_bytes = dict(reasons), dict(events), dict(sizes)


def _count_records(found: LogStat, path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        scan = Scan(fd, path)
        records: Counter[str] = Counter()
        sizes: Counter[str] = Counter({"header": scan.start - scan.base})
        found.bytes -= scan.base  # what a pack holds beside the log
        for record in scan:
            name = record.header.kind.name.lower()
            records[name] += 1
            sizes[name] += record.size
            if record.header.kind == Kind.ENTRIES:
                found.expanded_bytes += len(scan.body(record))
    finally:
        os.close(fd)
    found.records, found.record_bytes = dict(records), dict(sizes)
