# SPDX-License-Identifier: GPL-2.0-or-later
"""The books of the demo: which version of each block a read may show, and what it means when it shows another.

A block is written by one client, one write at a time, so its versions 1, 2, 3... have a total order; version 0 is the
zeros it starts with. A zeroing version (TRIM, WRITE_ZEROES) shows as zeros. Per block the books hold

    newest      the newest version ever issued
    floor       the oldest version that a read issued now may show: the newest acknowledged or already read back one
    witnessed   the newest version that was ever read back

A read may show any version from the floor *when it was issued* up to the newest issued when it is answered: a write in
flight may or may not be visible yet, but what was acknowledged, or once seen, must stay. It may also show a mix of
these versions' bytes, since NBD promises nothing about a read that overlaps a write (qemu-nbd does tear such reads, at
any byte); a mix vouches for nothing. A TRIM leaves the content unspecified, and so does a write that was answered with
an error: neither raises the floor until its version is seen.

Anything else is a finding, and of exactly one kind:

    doubled   the block shows a version older than one that had been *read back* before. The newer version was on the
              disk and an older one came over it: a write was executed a second time, late (a twin of a resent
              request), or an old state of the disk came back.
    lost      the block shows a version older than the acknowledged one, and no newer one was ever read back: the
              acknowledged write was promised, but it was never there for anyone to see.
    corrupt   the content is no version of this block at all: damage, another block's data, a version never issued, or
              a mix with bytes of none of the versions that may be shown (torn).

Both lost and doubled show an older version after a newer was acknowledged; from outside, what tells them apart is
whether the newer one had ever been there. That is why the load reads back the writes that matter most: the ones on top
of a resent write, where a late twin would strike. A finding is counted once: until the block's floor rises again,
further reads that show the same are not new ones.

No I/O, no clock: the caller says what was issued, acknowledged and read.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ftvm.demo.content import ZERO, ZEROS, Damage, Pattern

FINDINGS_KEPT_MAX: Final = 100


class Change(StrEnum):
    """What a version does to its block."""

    DATA = "data"
    ZERO = "zero"
    TRIM = "trim"


class Kind(StrEnum):
    """What a finding is."""

    LOST = "lost"
    DOUBLED = "doubled"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise: at which block, and what was seen instead of what, in words."""

    kind: Kind
    block: int
    text: str


@dataclass(frozen=True, slots=True)
class Expectation:
    """What was known of a block when a read of it was issued."""

    floor: int
    witnessed: int


@dataclass(slots=True)
class _Block:
    client: int
    newest: int = 0
    floor: int = 0
    witnessed: int = 0
    writing: Change | None = None
    reported: int = -1  # the floor at the last finding
    zeroing: list[int] = field(default_factory=lambda: [0])  # all versions that show as zeros, ascending


class Tally:
    """The books over blocks 0 to len(owners) - 1; `owners[block]` is the client that alone writes it."""

    def __init__(self, owners: list[int], run: int) -> None:
        self.findings: list[Finding] = []  # the first of them; all are counted
        self.counts = dict.fromkeys(Kind, 0)
        self.checked = 0
        self._pattern = Pattern(run)
        self._blocks = [_Block(owner) for owner in owners]

    @property
    def size(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    def writing(self, block: int) -> bool:
        """Whether a write of this block is in flight."""
        return self._blocks[block].writing is not None

    def begin(self, block: int, client: int, change: Change) -> int:
        """A write is about to be issued; its version. One write per block at a time, by its owner."""
        entry = self._blocks[block]
        assert entry.client == client, f"client {client} writes block {block} of client {entry.client}"
        assert entry.writing is None, f"a second write of block {block} while one is in flight"
        entry.writing = change
        entry.newest += 1
        if change is not Change.DATA:
            entry.zeroing.append(entry.newest)
        return entry.newest

    def content(self, block: int) -> bytes:
        """The bytes of the newest version, to be written."""
        entry = self._blocks[block]
        return self._pattern.make(block, entry.newest, entry.client)

    def acknowledge(self, block: int) -> None:
        """The write in flight was answered with success."""
        entry = self._blocks[block]
        assert entry.writing is not None, f"block {block} has no write in flight"
        if entry.writing is not Change.TRIM:
            entry.floor = entry.newest
        entry.writing = None

    def fail(self, block: int) -> None:
        """The write in flight was answered with an error: it may or may not have happened."""
        entry = self._blocks[block]
        assert entry.writing is not None, f"block {block} has no write in flight"
        entry.writing = None

    def expect(self, block: int) -> Expectation:
        """To be asked when a read of the block is issued."""
        entry = self._blocks[block]
        return Expectation(entry.floor, entry.witnessed)

    def check(self, block: int, expectation: Expectation, data: bytes) -> Finding | None:
        """Compare what a read returned with what was known when it was issued; a finding when they disagree."""
        entry = self._blocks[block]
        self.checked += 1
        try:
            shown = self._pattern.versions(block, entry.client, data)
        except Damage as damage:
            if self._mixed(block, entry, expectation, data):
                return None
            return self._report(block, expectation, Kind.CORRUPT, str(damage))
        versions = {self._resolve(entry, expectation, version) for version in shown}
        if all(expectation.floor <= version <= entry.newest for version in versions):
            if len(versions) == 1:
                self._witness(entry, versions.pop())
            return None
        return self._blame(block, entry, expectation, versions)

    def _mixed(self, block: int, entry: _Block, expectation: Expectation, data: bytes) -> bool:
        """Whether every byte is that of a version that may be shown."""
        versions = range(expectation.floor, entry.newest + 1)
        contents = [self._content(block, entry, version) for version in versions]
        return all(byte in allowed for byte, *allowed in zip(data, *contents, strict=True))

    def _content(self, block: int, entry: _Block, version: int) -> bytes:
        at = bisect_left(entry.zeroing, version)
        zero = at < len(entry.zeroing) and entry.zeroing[at] == version
        return ZEROS if zero else self._pattern.make(block, version, entry.client)

    def _resolve(self, entry: _Block, expectation: Expectation, version: int) -> int:
        """Zeros stand for the oldest zeroing version that may be shown; failing that, for the newest one there is."""
        if version != ZERO:
            return version
        at = bisect_left(entry.zeroing, expectation.floor)
        return entry.zeroing[min(at, len(entry.zeroing) - 1)]

    def _witness(self, entry: _Block, version: int) -> None:
        entry.witnessed = max(entry.witnessed, version)
        entry.floor = max(entry.floor, version)

    def _blame(self, block: int, entry: _Block, expectation: Expectation, versions: set[int]) -> Finding | None:
        floor, witnessed = expectation.floor, expectation.witnessed
        if len(versions) > 1:
            text = f"torn between versions {', '.join(map(str, sorted(versions)))}; none before {floor} may be shown"
            return self._report(block, expectation, Kind.CORRUPT, text)
        version = versions.pop()
        if version > entry.newest:
            text = f"shows version {version}, but only {entry.newest} were ever issued"
            return self._report(block, expectation, Kind.CORRUPT, text)
        if version < witnessed:
            text = f"shows version {version} after version {witnessed} had been read back"
            return self._report(block, expectation, Kind.DOUBLED, text)
        text = f"shows version {version}, but version {floor} was acknowledged"
        return self._report(block, expectation, Kind.LOST, text)

    def _report(self, block: int, expectation: Expectation, kind: Kind, text: str) -> Finding | None:
        entry = self._blocks[block]
        if expectation.floor <= entry.reported:
            return None
        entry.reported = entry.floor
        finding = Finding(kind, block, f"block {block} {text}")
        self.counts[kind] += 1
        if len(self.findings) < FINDINGS_KEPT_MAX:
            self.findings.append(finding)
        return finding
