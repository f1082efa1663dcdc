# SPDX-License-Identifier: GPL-2.0-or-later
"""Both sides' digests, compared in whichever order they come: an ack may be ahead of the primary's own execution.

Acks are cumulative, so only the sequences that an ack happens to name are compared. A digest covers all of the history
before it, so nothing is missed, a divergence is only found a few entries later.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first sequence at which the two sides are known to differ."""

    sequence: int
    ours: int
    theirs: int

    def __str__(self) -> str:
        return f"digests differ after entry {self.sequence}: {self.ours:#018x} here, {self.theirs:#018x} on the backup"


class DigestMatch:
    """Holds what only one side has told yet. Bounded by the window on one side, by one ack on the other."""

    def __init__(self) -> None:
        self.compared = 0  # how many sequences
        self._ours: dict[int, int] = {}  # finished here, not named by an ack yet
        self._ours_last = 0
        self._theirs: tuple[int, int] | None = None  # an ack for an entry this side has not finished

    def ours(self, sequence: int, digest: int) -> Mismatch | None:
        """This side has finished `sequence`; return the mismatch if the backup's digest is known and differs."""
        self._ours_last = sequence
        theirs = self._theirs
        if theirs is not None and sequence < theirs[0]:
            return None  # the later comparison covers it
        self._theirs = None
        if theirs is not None and sequence == theirs[0]:
            return self._compare(sequence, digest, theirs[1])
        self._ours[sequence] = digest
        return None

    def theirs(self, sequence: int, digest: int) -> Mismatch | None:
        """The backup has finished `sequence`; return the mismatch if this side's digest is known and differs."""
        if sequence > self._ours_last:
            self._theirs = (sequence, digest)
            self._ours.clear()
            return None
        ours = self._ours.get(sequence)
        if ours is None:
            return None  # compared before, or finished before this comparison began
        self._ours = {later: kept for later, kept in self._ours.items() if later > sequence}
        return self._compare(sequence, ours, digest)

    def _compare(self, sequence: int, ours: int, theirs: int) -> Mismatch | None:
        self.compared += 1
        return None if ours == theirs else Mismatch(sequence, ours, theirs)
