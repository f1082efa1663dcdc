# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a golden log, once for each released format: `python tests/replay/golden/generate.py format-N.ftvmlog`.

The stored file is what counts: the test reads it and compares it with what these functions say was recorded. Never make
a file anew for a format that was released; when the format changes, add a file and keep the old ones readable.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from hashlib import shake_256

from devices.event import Event, EventKind
from replay.entry import Entry, RecordedResult
from replay.header import LogHeader
from replay.log_writer import LogWriter
from replay.state import Sections

U64_MAX = (1 << 64) - 1
STATE_SEQUENCE = 40


def header() -> LogHeader:
    """A header with every field in use."""
    return LogHeader(
        machine=b'name = "golden"\n[machine]\nmemory = 16777216\n',
        configuration="c0" * 32,
        images={"kernel": "5e" * 32, "disk0": "d1" * 32},
        engine="unicorn 2.1.4",
        rate=30,
        pair="golden",
        notes={"made by": "tests/replay/golden/generate.py", "parent": ""},
    )


def sections() -> Sections:
    """A checkpoint with a long, a short and an empty section."""
    return [("ram", bytes(100_000) + b"tail"), ("hart", bytes(range(200))), ("empty", b"")]


def pairs() -> Iterator[tuple[Entry, RecordedResult]]:
    """Every kind of event, reason and flag; foretold and other clocks, times and budgets; large numbers at the end."""
    sequence, clock, time = STATE_SEQUENCE + 1, 123_456, 7_000_000
    budgets = (900_000, 900_000, 65_536, 900_000, 70_001)
    for index in range(300):
        kinds = [kind for kind in EventKind if (index + kind) % 9 == 0]
        events = tuple(Event(kind, index % 3, bytes([kind]) * (index % 50)) for kind in kinds)
        if index == 150:  # a record of the long form
            events += (Event(EventKind.BLOCK_REQUEST, 0, shake_256(b"golden").digest(66_000)),)
        reason, budget = index % 4 if index % 5 else 1, budgets[index % 5]
        entry = Entry(sequence, clock, time, time + 80_000 + index % 2, budget, events, index % 4)
        clock += budget + index % 120 if reason == 0 else 800 + index % 7
        reached = min(time + (clock - entry.clock) // 30, entry.time_max) + (index % 10 == 0)
        pages = 0xFEDC_BA98_7654_3210 - index if entry.flags & 1 else 0
        yield entry, RecordedResult(reason, clock, reached, (index * 0x9E37_79B1 + 1) & 0xFFFF_FFFF, pages)
        sequence, time = sequence + 1, reached + (10_000 if reason == 1 else 0) + index % 3
        clock += index % 100 == 99  # a clock that does not follow from the entry before
    yield Entry(sequence, 1, 2, 3, 0), RecordedResult(77, 1, 2, 0xFFFF_FFFF, 1)
    last = Entry(sequence + 1, U64_MAX - 5, U64_MAX - 9, U64_MAX, 5, (Event(U64_MAX, U64_MAX, b""),), U64_MAX)
    yield last, RecordedResult(U64_MAX, U64_MAX, U64_MAX, 0, U64_MAX)


def main(path: str) -> None:
    """Write the log; an existing file is refused."""
    with LogWriter(path, header()) as writer:
        writer.write_state(STATE_SEQUENCE, sections())
        for entry, result in pairs():
            writer.append(entry, result, 0.004 * entry.sequence)


if __name__ == "__main__":
    main(sys.argv[1])
