# SPDX-License-Identifier: GPL-2.0-or-later
"""The body of an ENTRIES record: up to 255 entries with their results, as differences, column by column.

Almost everything about an entry follows from the one before: its sequence, its start clock, usually its budget. So an
entry is one *head* byte, two numbers and four bytes of digest; only what could not be foretold goes to *extras*.
Columns need no lengths: the record's header has the count, and every column is parsed to its end.

    heads    count bytes       bits 0-1 reason (3: in extras), 2 EVENTS, 3 BUDGET, 4 SPAN, 5 REACHED, 6 SHORT, 7 RARE
    times    count varints     guest time at the start: behind the time reached by the last entry; or, when that one
                               ended idle, the folded difference to "as long after it as the last time that happened"
    clocks   count varints     clock at the end: bytes past start + budget; with SHORT (it ended before), the folded
                               difference between its run and the run of the last SHORT entry
    extras   per entry, only as its head says:
             RARE      a byte: 1 CLOCK, 2 TIME (the time in its column is absolute), 4 FLAGS, 8 PAGES;
                       then CLOCK: start clock as varint, FLAGS: varint, PAGES: u64
             reason 3  the reason as varint
             SPAN      time_max - time as varint, when it is not that of the last entry
             BUDGET    varint: below 8 an index into the recently used budgets, latest first; else 8 + folded difference
             REACHED   time at the end, as folded difference to min(time + run // rate, time_max)
             EVENTS    varint count, then kind, unit and length as varints and the data of each
    digests  count times u32   the low half of each result's digest

What an entry is compared with is the `Context`. A record with the KEY flag starts from a fresh one (all zero), so that
reading may begin there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from devices.event import Event
from replay.entry import (
    EVENT_BYTES_MAX,
    EVENTS_MAX,
    U64_MAX,
    Entry,
    EpochResult,
    RecordedResult,
    check_entry,
)
from replay.errors import LogError
from replay.varint import fold, put, take, take_many, unfold

COUNT_MAX: Final = 255
REASON, EVENTS, BUDGET, SPAN, REACHED, SHORT, RARE = 0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80
RARE_CLOCK, RARE_TIME, RARE_FLAGS, RARE_PAGES, RARE_ALL = 0x01, 0x02, 0x04, 0x08, 0x0F
REASON_IDLE, REASON_IN_EXTRAS = 1, 3
RECENT: Final = 8
U32: Final = Struct("<I")
U64: Final = Struct("<Q")

Recorded = tuple[Entry, RecordedResult]


@dataclass(slots=True)
class Context:
    """What the next entry is compared with: the last entry and its result, and a few values seen before."""

    rate: int  # clock per tick of guest time; 0 when unknown
    clock: int = 0  # at the end of the last entry
    time: int = 0  # at its start
    reached: int = 0  # time at its end
    idle: bool = False
    gap: int = 0  # between the starts of an idle entry and its successor, the last time
    run: int = 0  # of the last SHORT entry
    span: int = 0
    budget: int = 0
    recent: list[int] = field(default_factory=list)

    def expected_time(self) -> int:
        """Where the next entry's time is likely to be."""
        return self.time + self.gap if self.idle else self.reached

    def expected_reached(self, time: int, time_max: int, run: int) -> int:
        """The guest time at the end of an epoch, by the rule of guest time."""
        return min(time + run // self.rate, time_max) if self.rate else time

    def use_budget(self, budget: int) -> None:
        """Make `budget` the latest."""
        if budget in self.recent:
            self.recent.remove(budget)
        self.recent.insert(0, budget)
        del self.recent[RECENT:]
        self.budget = budget

    def advance(self, time: int, reason: int, clock: int, reached: int) -> None:
        """Remember an entry that ran from `time` to `clock` and `reached`."""
        if self.idle:
            self.gap = time - self.time
        self.idle = reason == REASON_IDLE
        self.time, self.clock, self.reached = time, clock, reached


class BatchEncoder:
    """Collects entries into one body. `begin` starts the next; the context lives on unless it is a key batch."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.context = Context(rate)
        self.count = 0
        self._heads, self._times, self._clocks = bytearray(), bytearray(), bytearray()
        self._extras, self._digests = bytearray(), bytearray()

    def begin(self, key: bool) -> None:
        """An empty batch; a key batch depends on nothing before it."""
        if key:
            self.context = Context(self.rate)
        self.count = 0
        for column in (self._heads, self._times, self._clocks, self._extras, self._digests):
            column.clear()

    @property
    def size(self) -> int:
        """Bytes so far, before compression."""
        return len(self._times) + len(self._clocks) + len(self._extras) + 5 * self.count

    def body(self) -> bytes:
        """The batch so far."""
        return b"".join((self._heads, self._times, self._clocks, self._extras, self._digests))

    def add(self, entry: Entry, result: EpochResult | RecordedResult) -> None:
        """Append one entry with its result."""
        context = self.context
        time, budget = entry.time, entry.budget
        run, span = result.clock - entry.clock, entry.time_max - time
        assert run >= 0 and span >= 0 and len(entry.events) <= EVENTS_MAX, f"entry {entry.sequence} is impossible"
        reason = result.reason
        head = min(reason, REASON_IN_EXTRAS)
        rare = self._rare(entry, result.pages)
        extras: list[int] = [reason] if head == REASON_IN_EXTRAS else []
        put(self._times, self._time(time, rare))
        if run >= budget:
            put(self._clocks, run - budget)
        else:
            head |= SHORT
            put(self._clocks, fold(run - context.run))
            context.run = run
        if span != context.span:
            head |= SPAN
            context.span = span
            extras.append(span)
        if budget != context.budget:
            head |= BUDGET
            extras.append(self._budget(budget))
        error = result.time - context.expected_reached(time, entry.time_max, run)
        if error:
            head |= REACHED
            extras.append(fold(error))
        if rare:
            head |= RARE
            self._put_rare(rare, entry, result.pages)
        for value in extras:
            put(self._extras, value)
        if entry.events:
            head |= EVENTS
            self._put_events(entry.events)
        self._heads.append(head)
        self._digests += U32.pack(result.digest & 0xFFFF_FFFF)
        context.advance(time, reason, result.clock, result.time)
        self.count += 1

    def _rare(self, entry: Entry, pages: int) -> int:
        rare = RARE_CLOCK if entry.clock != self.context.clock else 0
        if entry.time < self.context.reached:
            rare |= RARE_TIME
        if entry.flags:
            rare |= RARE_FLAGS
        return rare | RARE_PAGES if pages else rare

    def _time(self, time: int, rare: int) -> int:
        if rare & RARE_TIME:
            return time
        context = self.context
        return fold(time - context.expected_time()) if context.idle else time - context.reached

    def _budget(self, budget: int) -> int:
        context = self.context
        recent = context.recent
        value = recent.index(budget) if budget in recent else RECENT + fold(budget - context.budget)
        context.use_budget(budget)
        return value

    def _put_rare(self, rare: int, entry: Entry, pages: int) -> None:
        self._extras.append(rare)
        if rare & RARE_CLOCK:
            put(self._extras, entry.clock)
        if rare & RARE_FLAGS:
            put(self._extras, entry.flags)
        if rare & RARE_PAGES:
            self._extras += U64.pack(pages)

    def _put_events(self, events: tuple[Event, ...]) -> None:
        extras = self._extras
        put(extras, len(events))
        for event in events:
            put(extras, event.kind)
            put(extras, event.unit)
            put(extras, len(event.data))
            extras += event.data


class BatchDecoder:
    """Turns bodies back into entries; keeps the context from one to the next."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.context = Context(rate)

    def decode(self, body: bytes, first: int, count: int, key: bool) -> list[Recorded]:
        """The entries of a body, of which the first has sequence `first`; `LogError` when it is not a batch."""
        if key:
            self.context = Context(self.rate)
        if len(body) < 7 * count:
            raise LogError(f"body of {len(body)} bytes is too short for {count} entries")
        times, at = take_many(body, count, count)
        clocks, at = take_many(body, at, count)
        found = []
        for index in range(count):
            digest = U32.unpack_from(body, len(body) - 4 * (count - index))[0]
            entry, result, at = self._entry(body, at, first + index, body[index], times[index], clocks[index], digest)
            found.append((entry, result))
        if (rest := len(body) - 4 * count - at) != 0:
            raise LogError(f"body of {len(body)} bytes has {rest} bytes between entries and digests")
        return found

    def _entry(
        self, body: bytes, at: int, sequence: int, head: int, time: int, end: int, digest: int
    ) -> tuple[Entry, RecordedResult, int]:
        context = self.context
        clock, flags, pages, reason, span = context.clock, 0, 0, head & REASON, context.span
        absolute = False
        if head & RARE:
            absolute, clock, flags, pages, at = _take_rare(body, at, clock)
        if reason == REASON_IN_EXTRAS:
            reason, at = take(body, at)
        if head & SPAN:
            span, at = take(body, at)
            context.span = span
        if head & BUDGET:
            value, at = take(body, at)
            context.use_budget(self._recent(value) if value < RECENT else context.budget + unfold(value - RECENT))
        if not absolute:
            time = context.expected_time() + (unfold(time) if context.idle else time)
        if head & SHORT:
            run = context.run = context.run + unfold(end)
        else:
            run = context.budget + end
        reached = context.expected_reached(time, time + span, run)
        if head & REACHED:
            value, at = take(body, at)
            reached += unfold(value)
        events: tuple[Event, ...] = ()
        if head & EVENTS:
            events, at = _take_events(body, at)
        entry = check_entry(Entry(sequence, clock, time, time + span, context.budget, events, flags))
        if run < 0 or clock + run > U64_MAX or not 0 <= reached <= U64_MAX or reason > U64_MAX:
            end_words = f"clock {clock + run}, time {reached}, reason {reason}"
            raise LogError(f"entry {sequence} has an impossible end: {end_words}")
        context.advance(time, reason, clock + run, reached)
        return entry, RecordedResult(reason, clock + run, reached, digest, pages), at

    def _recent(self, index: int) -> int:
        if index >= len(self.context.recent):
            raise LogError(f"budget {index} of the recent ones, of which there are {len(self.context.recent)}")
        return self.context.recent[index]


def _take_rare(body: bytes, at: int, clock: int) -> tuple[bool, int, int, int, int]:
    rare, at = take(body, at)
    if rare > RARE_ALL:
        raise LogError(f"entry has the unknown marks {rare:#x}")
    flags = pages = 0
    if rare & RARE_CLOCK:
        clock, at = take(body, at)
    if rare & RARE_FLAGS:
        flags, at = take(body, at)
    if rare & RARE_PAGES:
        if at + U64.size > len(body):
            raise LogError("body ends inside a page digest")
        pages = U64.unpack_from(body, at)[0]
        at += U64.size
    return bool(rare & RARE_TIME), clock, flags, pages, at


def _take_events(body: bytes, at: int) -> tuple[tuple[Event, ...], int]:
    count, at = take(body, at)
    if count > EVENTS_MAX:
        raise LogError(f"entry has {count} events, more than {EVENTS_MAX}")
    events = []
    total = 0
    for _ in range(count):
        (kind, unit, length), at = take_many(body, at, 3)
        total += length
        if max(kind, unit) > U64_MAX:
            raise LogError(f"event of kind {kind} for unit {unit} is impossible")
        if total > EVENT_BYTES_MAX or at + length > len(body):
            raise LogError(f"event of {length} bytes does not fit its entry")
        events.append(Event(kind, unit, body[at : at + length]))
        at += length
    return tuple(events), at
