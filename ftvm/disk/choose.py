# SPDX-License-Identifier: GPL-2.0-or-later
"""Which side's images are the newest, when neither side runs: the question of every cold start.

Only the side that took a term over ever let anything out in it, so the images wanted are those of the winner of the
last term, if it took that term over; else those of the winner of the term before it, and so on. A side that won a term
and did not take it over emitted nothing in it, and what it had acknowledged only in memory, the primary before it had
executed itself.

    latest grant    what is noted                     newest
    --------------- --------------------------------- -------------------------------------------------
    none            both new or missing               nobody's yet: the pair is new
    none            anything else                     refused: the arbiter has forgotten its grants
    term T          a side took over T                that side
    term T          a side ended cleanly in T         that side
    term T          nobody took over T                the side that took over the highest term, if it is certain
                                                      that no missing side took over a higher one
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ftvm.arbiter.arbiter import Grant
from ftvm.disk.errors import ColdStartRefused
from ftvm.disk.metadata import ImageMetadata, ImageState

Sides = Mapping[str, ImageMetadata | None]


def choose(grants: Iterable[Grant], sides: Sides, pair: str) -> str | None:
    """The side whose images are the newest, or None for a new pair. ColdStartRefused when that cannot be known.

    `grants` holds the arbiter's latest grant, and earlier ones as far as they are known; `sides` holds both sides'
    notes, None where there is none.
    """
    known = {grant.term: grant for grant in grants}
    latest = max(known, default=0)
    present = {name: note for name, note in sides.items() if note is not None}
    _check(present, latest, pair)
    if not latest:
        return None
    complete = [name for name, note in present.items() if note.state is ImageState.CLEAN and note.term == latest]
    owner = [name for name, note in present.items() if note.took_over == latest]
    if found := owner or complete:
        return _usable(found[0], present)
    return _before(latest, known, sides, present)


def _check(present: Mapping[str, ImageMetadata], latest: int, pair: str) -> None:
    for name, note in present.items():
        if note.pair != pair:
            raise ColdStartRefused(f"side {name}'s images belong to the pair {note.pair!r}, not to {pair!r}")
        highest = max(note.term, note.took_over)
        if highest > latest:
            raise ColdStartRefused(
                f"side {name}'s images come from term {highest}, but the arbiter's last grant is "
                f"{f'term {latest}' if latest else 'none'}: is this the pair's own arbiter? If its grants are lost for "
                "good, start a new pair from that side's images"
            )


def _before(latest: int, known: Mapping[int, Grant], sides: Sides, present: Mapping[str, ImageMetadata]) -> str:
    """Nobody whose note we have took over the latest term: look at the terms before it."""
    if not present:
        raise ColdStartRefused(f"the arbiter has granted term {latest}, but neither side's images are there")
    best = max(present, key=lambda name: (present[name].took_over, known[latest].winner == name))
    for missing in sides.keys() - present.keys():
        for term in range(present[best].took_over + 1, latest + 1):
            grant = known.get(term)
            if grant is None or grant.winner == missing:
                raise ColdStartRefused(
                    f"side {missing}'s images are missing, and they may be newer than side {best}'s: side {missing} "
                    f"may have been live in term {term}. Bring them back, or start a new pair from side {best}'s images"
                )
    return _usable(best, present)


def _usable(name: str, present: Mapping[str, ImageMetadata]) -> str:
    if present[name].state is ImageState.JOINING:
        raise ColdStartRefused(
            f"side {name} was the last to be live, but its images are the rest of an interrupted copy from a later "
            "primary that the arbiter does not know"
        )
    return name
