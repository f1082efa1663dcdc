# SPDX-License-Identifier: GPL-2.0-or-later
"""Decodes records of entries on demand: cheap walking over what nobody asked for, exact contexts for what is wanted.

Entries are differences to those before them, back to the last record with the KEY flag. So records are kept undecoded
from one KEY to the next; only when a wanted entry comes up is that chain decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from replay.batch import BatchDecoder, Recorded
from replay.errors import LogError
from replay.log_scan import Record, Scan
from replay.record import Kind


class RecordChain:
    """Feed it every record of entries in order."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._decoder = BatchDecoder(scan.header.rate)
        self._waiting: list[Record] = []

    def skip(self, record: Record) -> None:
        """Nobody wants this record's entries, but those of a later one may depend on them."""
        if record.header.key:
            self._waiting.clear()
        self._waiting.append(record)

    def decode(self, record: Record) -> list[Recorded]:
        """The record's entries."""
        if record.header.key:
            self._waiting.clear()
        for earlier in self._waiting:
            self._decode(earlier)
        self._waiting.clear()
        return self._decode(record)

    def _decode(self, record: Record) -> list[Recorded]:
        body, header = self._scan.body(record), record.header
        try:
            return self._decoder.decode(body, header.sequence, header.count, header.key)
        except LogError as error:
            raise self._scan.damage(record, str(error)) from None


def recorded_entries(scan: Scan, first: int = 0) -> Iterator[Recorded]:
    """All entries of a log from sequence `first` on."""
    chain = RecordChain(scan)
    for record in scan:
        if record.header.kind != Kind.ENTRIES:
            continue
        if record.last < first:
            chain.skip(record)
            continue
        for pair in chain.decode(record):
            if pair[0].sequence >= first:
                yield pair


@dataclass(frozen=True, slots=True)
class Split:
    """Where a log is cut so that nothing after some sequence is left: at `offset`, then `kept` is written again."""

    offset: int
    kept: list[Recorded]
    entries: int  # before the offset
    last_sequence: int | None  # before the offset


def split_after(scan: Scan, sequence: int) -> Split:
    """The place to cut a log, so that `sequence` is its last entry."""
    chain = RecordChain(scan)
    entries, last = 0, None
    for record in scan:
        if record.header.kind == Kind.ENTRIES and record.last > sequence:
            kept = [pair for pair in chain.decode(record) if pair[0].sequence <= sequence]
            return Split(record.offset, kept, entries, last)
        if record.header.kind == Kind.ENTRIES:
            chain.skip(record)
        entries, last = scan.entries, scan.last_sequence
    return Split(scan.end, [], entries, last)
