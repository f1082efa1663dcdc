# SPDX-License-Identifier: GPL-2.0-or-later
"""The arbiter: an atomic test-and-set on a term. At most one side goes live per term.

Suspicion never suffices. Whoever wants to go on alone asks for the successor of the term in which it was itself in
sync; the first to ask is granted it, durably and for ever, and everybody else who asks is shown the same grant:

    grant = arbiter.acquire(term + 1, winner=me, members=(me,))
    live = grant.winner == me        # asking again gives the same answer, so a crash after winning loses nothing

The answer is a fact only once `acquire` returned. When it raises, nothing is known: wait, emit nothing, ask again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

FIRST_TERM = 1


class ArbiterError(Exception):
    """No grant can be had; whoever hears this does not go live."""


class ArbiterUnavailable(ArbiterError):
    """The arbiter cannot be reached now; asking again later may succeed."""


class ArbiterDamaged(ArbiterError):
    """What the arbiter holds cannot be trusted; an operator has to look, asking again will not help."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Who won a term, and which sides were in sync with it then.

    `granted_at` is wall time in seconds since 1970 on the winner's host: for people to read, never to decide by.
    """

    term: int
    winner: str
    members: tuple[str, ...]
    granted_at: float = 0.0


class Arbiter(Protocol):
    """What a side needs of an arbiter; every call may block for as long as its storage does."""

    def latest(self) -> Grant | None:
        """The grant of the highest term so far; None when no term was ever granted. Raises ArbiterError."""
        ...

    def acquire(self, term: int, winner: str, members: tuple[str, ...]) -> Grant:
        """Grant `term` to `winner` unless it is granted already; either way return the grant that stands.

        Terms are granted one after the other from FIRST_TERM: asking for one whose predecessor is unknown raises
        ArbiterDamaged, since it means that this is not the storage that earlier terms were granted in.
        """
        ...
