# SPDX-License-Identifier: GPL-2.0-or-later
"""`Divergence`: two runs of the same entries gave different results; this says at which entry, and in what.

The first entry after which the results differ is where to look; what differs first in FIELD_ORDER is most telling: a
guest that ended elsewhere (clock) took another path, one that ended alike with another digest computed something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devices.event import Event, EventKind
from replay.entry import Entry, EpochResult, RecordedResult

FIELD_ORDER: Final = ("clock", "reason", "time", "digest", "pages")
HEX_FIELDS: Final = ("digest", "pages")
DIGEST_MASK: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a result that is not as expected."""

    field: str
    expected: int
    actual: int

    def __str__(self) -> str:
        if self.field in HEX_FIELDS:
            return f"{self.field} is {self.actual:#x}, expected {self.expected:#x}"
        return f"{self.field} is {self.actual}, expected {self.expected}"


class Divergence(Exception):
    """Raised at the first entry whose result differs. `field`, `expected`, `actual` are of the first difference."""

    def __init__(self, entry: Entry, differences: tuple[Difference, ...], event: tuple[int, Event] | None) -> None:
        assert differences
        self.sequence = entry.sequence
        self.clock = entry.clock  # at the start of the epoch
        self.differences = differences
        self.field = differences[0].field
        self.expected = differences[0].expected
        self.actual = differences[0].actual
        self.event = event  # the last one delivered until then, with the sequence of its entry
        super().__init__(self.message())

    def message(self) -> str:
        """The whole story in one line."""
        before = "no event was delivered before"
        if self.event is not None:
            before = f"the last event before was {event_words(self.event[1])} in entry {self.event[0]}"
        found = ", ".join(map(str, self.differences))
        return f"divergence in entry {self.sequence}, which starts at clock {self.clock}: {found}; {before}"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        event = None
        if self.event is not None:
            event = {"sequence": self.event[0], "kind": self.event[1].kind, "unit": self.event[1].unit,
                     "bytes": len(self.event[1].data)}  # fmt: skip
        return {
            "sequence": self.sequence,
            "clock": self.clock,
            "differences": [{"field": d.field, "expected": d.expected, "actual": d.actual} for d in self.differences],
            "event": event,
        }


def differences(expected: RecordedResult, actual: EpochResult) -> tuple[Difference, ...]:
    """All that differs between what was recorded and what came out; empty when they agree."""
    if (
        expected.clock == actual.clock
        and expected.digest == actual.digest & DIGEST_MASK
        and expected.time == actual.time
        and expected.reason == actual.reason
        and expected.pages == actual.pages
    ):
        return ()
    found = []
    for field in FIELD_ORDER:
        old, new = getattr(expected, field), getattr(actual, field)
        if field == "digest":
            new &= DIGEST_MASK
        if old != new:
            found.append(Difference(field, old, new))
    return tuple(found)


def event_words(event: Event) -> str:
    """An event in a few words: what, where, how much, and its first bytes."""
    try:
        kind = EventKind(event.kind).name.lower().replace("_", " ")
    except ValueError:
        kind = f"kind {event.kind}"
    start = event.data[:12].hex() + ("..." if len(event.data) > 12 else "")
    return f"{kind} for unit {event.unit}, {len(event.data)} bytes" + (f" ({start})" if start else "")
