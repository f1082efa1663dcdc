# SPDX-License-Identifier: GPL-2.0-or-later
"""A toy machine, synthetic streams of entries with results, and the logs made of them, for the tests of replay."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.event import Event, EventKind
from replay.entry import Entry, EntryFlag, EpochResult
from replay.header import LogHeader
from replay.log_writer import LogWriter
from replay.state import Sections

RATE = 30  # clock per tick
Pair = tuple[Entry, EpochResult]
Stream = Callable[..., Iterator[Pair]]


class ToyMachine:
    """Sums what it is given. `fault` = (sequence, field) makes that field of that result wrong."""

    def __init__(self, fault: tuple[int, str] | None = None) -> None:
        self.clock = self.total = 0
        self.fault = fault

    def run(self, entry: Entry) -> EpochResult:
        for event in entry.events:
            self.total = zlib.crc32(event.data, self.total)
        self.clock = entry.clock + entry.budget + self.total % 40
        time = min(entry.time + (self.clock - entry.clock) // RATE, entry.time_max)
        pages = self.total << 20 | 1 if entry.flags & EntryFlag.DIGEST_PAGES else 0
        digest = self.total << 32 | self.clock ^ self.total
        fields = {"reason": 0, "clock": self.clock, "time": time, "digest": digest, "pages": pages}
        if self.fault is not None and self.fault[0] == entry.sequence:
            fields[self.fault[1]] += 1
        return EpochResult(entry.sequence, **fields)  # type: ignore[arg-type]

    def save(self) -> Sections:
        return [("clock", self.clock.to_bytes(8, "little")), ("total", self.total.to_bytes(4, "little"))]

    def restore(self, sections: Sections) -> None:
        values = {name: int.from_bytes(data, "little") for name, data in sections}
        self.clock, self.total = values["clock"], values["total"]


def toy_entries(count: int, first: int = 1, clock: int = 0) -> Iterator[Entry]:
    """Entries of fixed clock, every third with an event, every fifth with a digest of pages."""
    for sequence in range(first, first + count):
        events = (Event(EventKind.CONSOLE_INPUT, 0, b"key %d" % sequence),) if sequence % 3 == 0 else ()
        flags = EntryFlag.DIGEST_PAGES if sequence % 5 == 0 else 0
        yield Entry(sequence, clock + 1000 * sequence, 500 * sequence, 500 * sequence + 80, 900, events, flags)


def computing(count: int, *, seed: int = 1, first: int = 1) -> Iterator[Pair]:
    """A guest that computes: 8 ms epochs, a steered budget, guest time that reaches its bound."""
    chance = random.Random(seed)
    clock = reached = host = 0
    budget = 8_000_000
    for sequence in range(first, first + count):
        host += 80_000 + chance.randint(-3000, 3000)
        time = max(reached, host)
        if chance.random() < 0.15:
            budget = int(budget * chance.choice((0.8, 1.25)))
        entry = Entry(sequence, clock, time, time + 80_000, budget)
        clock += budget + chance.randint(0, 120)
        reached = min(time + (clock - entry.clock) // RATE, entry.time_max)
        yield entry, EpochResult(sequence, 0, clock, reached, chance.getrandbits(64))


def idle(count: int, *, period: int = 10_000, seed: int = 2, first: int = 1) -> Iterator[Pair]:
    """A guest that wakes up every `period` ticks (0.1 ms late on the average), handles its timer and sleeps again."""
    chance = random.Random(seed)
    clock = time = 0
    for sequence in range(first, first + count):
        entry = Entry(sequence, clock, sequence * period + chance.randint(0, 2000), 0, 20_000_000)
        entry = Entry(sequence, clock, entry.time, entry.time + 500_000, entry.budget)
        clock += chance.choice((812, 812, 812, 1260))
        time = entry.time + (clock - entry.clock) // RATE
        yield entry, EpochResult(sequence, 1, clock, time, chance.getrandbits(64))


def block(count: int, *, data: int = 4096, seed: int = 3, first: int = 1) -> Iterator[Pair]:
    """A block service under load: each entry brings one write request, 22 bytes and `data` random ones."""
    chance = random.Random(seed)
    clock = time = 0
    for sequence in range(first, first + count):
        time += chance.randint(1500, 6000)
        head = struct.pack(">QHQI", sequence, 1, chance.randrange(1 << 14) * 4096, data)
        event = Event(EventKind.BLOCK_REQUEST, 0, head + chance.randbytes(data))
        entry = Entry(sequence, clock, time, time + 500_000, 90_000, (event,))
        clock += chance.randint(9_000, 14_000)
        reached = time + (clock - entry.clock) // RATE
        yield entry, EpochResult(sequence, 1, clock, reached, chance.getrandbits(64))
        time = reached


def mixed(count: int, *, seed: int = 4, first: int = 1) -> Iterator[Pair]:
    """A little of everything that a log can hold."""
    chance = random.Random(seed)
    clock = time = 0
    for sequence in range(first, first + count):
        events = tuple(
            Event(chance.randint(1, 7), chance.randint(0, 2), chance.randbytes(chance.choice((0, 3, 40))))
            for _ in range(chance.choice((0, 0, 1, 2)))
        )
        clock += chance.choice((0, 0, 0, 7))
        entry = Entry(
            sequence, clock, time, time + chance.choice((0, 100, 80_000)), chance.choice((900, 65_536)), events,
            chance.choice((0, 0, 1, 3)),
        )  # fmt: skip
        clock += chance.randint(0, 70_000)
        time = min(time + (clock - entry.clock) // RATE, entry.time_max) + chance.choice((0, 0, 5))
        pages = chance.getrandbits(64) if entry.flags & 1 else 0
        yield entry, EpochResult(sequence, chance.randint(0, 4), clock, time, chance.getrandbits(64), pages)
        time += chance.choice((0, 12, 40_000))


STREAMS: dict[str, Stream] = {"computing": computing, "idle": idle, "block": block, "mixed": mixed}


@pytest.fixture
def streams() -> dict[str, Stream]:
    return STREAMS


@pytest.fixture
def toy() -> type[ToyMachine]:
    return ToyMachine


@pytest.fixture
def toy_log() -> Callable[..., Iterator[Entry]]:
    return toy_entries


@pytest.fixture
def header() -> LogHeader:
    images = {"kernel": "ab" * 32, "disk0": "cd" * 32}
    return LogHeader(b'name = "toy"\nmemory = 64\n', "12" * 32, images, "toy 1.0", RATE, "pair0", {"by": "a test"})


@pytest.fixture
def record(header: LogHeader) -> Callable[..., Path]:
    """Writes `pairs` to a log, 10 ms apart."""

    def write(path: Path, pairs: list[Pair], *, state: tuple[int, Sections] | None = None, close: bool = True) -> Path:
        writer = LogWriter(path, header, replace=True)
        if state is not None:
            writer.write_state(*state)
        for index, (entry, result) in enumerate(pairs):
            writer.append(entry, result, 0.01 * index)
        if close:
            writer.close()
        else:
            writer.flush()
            writer.abandon()
        return path

    return write
