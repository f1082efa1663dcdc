# SPDX-License-Identifier: GPL-2.0-or-later
"""`Entry`: all that one epoch is given; `EpochResult`: all that came of it. And the entry's form on the wire.

An entry is a promise: it is complete before the epoch starts, so whoever has it can run the same epoch. On the wire it
is one msgpack array from which defaults at the end are left out, because most entries have neither events nor flags:

    [sequence, clock, time, time_max, budget]
    [sequence, clock, time, time_max, budget, [[kind, unit, data], ...]]
    [sequence, clock, time, time_max, budget, [[kind, unit, data], ...], flags]

All integers are unsigned 64-bit. Whatever comes from the wire is checked field by field: `decode_entry` returns an
entry that the machine can run, or raises `LogError` with the field's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Final, Protocol

import msgpack

from devices.event import Event, Output
from replay.errors import LogError

U64_MAX: Final = (1 << 64) - 1
EVENTS_MAX: Final = 4096  # in one entry
EVENT_BYTES_MAX: Final = 64 << 20  # of all events of one entry together; a block client's largest write is 32 MiB
FIELDS: Final = ("sequence", "clock", "time", "time_max", "budget")
INTEGERS: Final = [int] * len(FIELDS)
NUMBERS: Final = (*FIELDS, "flags")


class EntryFlag(IntFlag):
    """What else an entry asks for."""

    DIGEST_PAGES = 1  # digest the RAM pages dirtied since the last such entry, at the end of this epoch
    PROTECTED = 2  # from here on the backup is in sync and the output rule is in force


@dataclass(frozen=True, slots=True)
class Entry:
    """What one epoch is given. Clock in bytes of retired code, times in ticks of 100 ns."""

    sequence: int
    clock: int  # at the start of the epoch
    time: int  # guest time at the start
    time_max: int  # guest time never passes this within the epoch
    budget: int  # the epoch ends at the first block entry where clock >= start + budget
    events: tuple[Event, ...] = ()  # delivered before the guest runs
    flags: int = 0


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What came of one epoch. `reason` is the engine's stop reason, `clock` and `time` are those at the end."""

    sequence: int
    reason: int
    clock: int
    time: int
    digest: int  # u64: registers, devices, outputs, DMA
    pages: int = 0  # u64: dirtied RAM pages, when the entry asked for it; else 0
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedResult:
    """What the log keeps of a result: all but the outputs, and the low 32 bits of the digest."""

    reason: int
    clock: int
    time: int
    digest: int
    pages: int = 0


class Runs(Protocol):
    """Anything that runs entries: the machine, or a toy in a test."""

    def run(self, entry: Entry) -> EpochResult: ...


def recorded(result: EpochResult) -> RecordedResult:
    """The part of a result that a log keeps."""
    return RecordedResult(result.reason, result.clock, result.time, result.digest & 0xFFFF_FFFF, result.pages)


def encode_entry(entry: Entry) -> bytes:
    """The entry as it goes over the wire."""
    fields: list[Any] = [entry.sequence, entry.clock, entry.time, entry.time_max, entry.budget]
    if entry.events or entry.flags:
        fields.append([(event.kind, event.unit, event.data) for event in entry.events])
        if entry.flags:
            fields.append(entry.flags)
    packed: bytes = msgpack.packb(fields)
    return packed


def decode_entry(data: bytes | memoryview) -> Entry:
    """The entry in `data`; anything else is a `LogError` that names the field."""
    try:
        fields = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise LogError(f"entry of {len(data)} bytes is not msgpack: {error}") from None
    if type(fields) is not list or not 5 <= len(fields) <= 7:
        raise LogError("entry is not an array of 5 to 7 fields")
    numbers = fields[:5]
    if [type(value) for value in numbers] != INTEGERS:
        name, value = next((n, v) for n, v in zip(FIELDS, numbers, strict=True) if type(v) is not int)
        raise _bad_number(f"entry's {name}", value)
    events = decode_events(fields[5]) if len(fields) > 5 else ()
    flags = fields[6] if len(fields) > 6 else 0
    if type(flags) is not int:
        raise _bad_number("entry's flags", flags)
    sequence, clock, time, time_max, budget = numbers
    return check_entry(Entry(sequence, clock, time, time_max, budget, events, flags))


def decode_events(rows: object) -> tuple[Event, ...]:
    """Events from their msgpack form `[[kind, unit, data], ...]`, checked."""
    if type(rows) is not list:
        raise LogError(f"entry's events are {type(rows).__name__}, not an array")
    if len(rows) > EVENTS_MAX:
        raise LogError(f"entry has {len(rows)} events, more than {EVENTS_MAX}")
    events = tuple(_decode_event(index, row) for index, row in enumerate(rows))
    if sum(len(event.data) for event in events) > EVENT_BYTES_MAX:
        raise LogError(f"entry's events hold more than {EVENT_BYTES_MAX} bytes")
    return events


def check_entry(entry: Entry) -> Entry:
    """The entry itself, when its numbers fit their types and one another; else `LogError`."""
    numbers = (entry.sequence, entry.clock, entry.time, entry.time_max, entry.budget, entry.flags)
    if max(numbers) > U64_MAX or min(numbers) < 0:
        name, value = next((n, v) for n, v in zip(NUMBERS, numbers, strict=True) if not 0 <= v <= U64_MAX)
        raise _bad_number(f"entry's {name}", value)
    if entry.time_max < entry.time or entry.clock + entry.budget > U64_MAX:
        raise _contradiction(entry.clock, entry.time, entry.time_max, entry.budget)
    return entry


def _decode_event(index: int, row: object) -> Event:
    if type(row) is not list or len(row) != 3:
        raise LogError(f"entry's event {index} is not [kind, unit, data]")
    kind, unit, data = row
    for name, value in (("kind", kind), ("unit", unit)):
        if type(value) is not int or not 0 <= value <= U64_MAX:
            raise _bad_number(f"entry's event {index} {name}", value)
    if type(data) is not bytes:
        raise LogError(f"entry's event {index} data is {type(data).__name__}, not bytes")
    return Event(kind, unit, data)


def _bad_number(what: str, value: object) -> LogError:
    shown = value if type(value) is int else type(value).__name__
    return LogError(f"{what} is {shown}, not an unsigned 64-bit number")


def _contradiction(clock: int, time: int, time_max: int, budget: int) -> LogError:
    if time_max < time:
        return LogError(f"entry's time_max {time_max} is below its time {time}")
    return LogError(f"entry's budget {budget} from clock {clock} passes the end of the clock")
