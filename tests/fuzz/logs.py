# SPDX-License-Identifier: GPL-2.0-or-later
"""Logs as files: damaged ones, and ones whose checks are right but whose contents are not."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgpack

from devices.event import Event
from ftvm.records.lines import epoch_lines
from ftvm.records.recording import Recording
from replay import inspect
from replay.entry import Entry, EpochResult
from replay.errors import LogError
from replay.header import LogHeader
from replay.log_reader import LogReader
from replay.log_writer import LogWriter
from replay.record import Kind, frame, frame_preamble
from tests.fuzz.engine import ROOT, Target

GOLDEN = ROOT / "tests" / "replay" / "golden" / "format-1.ftvmlog"
HEADER = LogHeader(b'name = "f"\n', "12" * 32, {"kernel": "ab" * 32}, "toy", 30)


@contextlib.contextmanager
def log_file(data: bytes) -> Iterator[Path]:
    """A file of these bytes, in memory where the host has such a place."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=place, suffix=".ftvmlog") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def pairs(count: int, seed: int) -> Iterator[tuple[Entry, EpochResult]]:
    """Entries with results, a little of everything."""
    chance = Random(seed)
    clock = time = 0
    for sequence in range(1, count + 1):
        events = tuple(Event(chance.randint(1, 7), 0, chance.randbytes(chance.choice((0, 3, 60)))) for _ in range(2))
        entry = Entry(sequence, clock, time, time + 100, chance.choice((900, 65536)), events * chance.randrange(2),
                      chance.choice((0, 0, 1)))  # fmt: skip
        clock += chance.randrange(70_000)
        time += chance.randrange(101)
        yield entry, EpochResult(sequence, chance.randrange(5), clock, time, chance.getrandbits(64), entry.flags)


def written(seed: int, count: int, state: bool = False, close: bool = True) -> bytes:
    """A log."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log")
        writer = LogWriter(path, HEADER)
        if state:
            writer.write_state(0, [("ram", bytes(5000)), ("hart", b"h" * 100)])
        for number, (entry, result) in enumerate(pairs(count, seed)):
            writer.append(entry, result, number * 0.05)
        writer.flush()
        if close:
            writer.close()
        return path.read_bytes()


def log_samples() -> list[bytes]:
    samples = [written(1, 5), written(2, 40, close=False), written(3, 3, state=True), written(4, 0)]
    return [*samples, samples[1][:-5], samples[0] + bytes(1024), GOLDEN.read_bytes()[:20_000]]


def check_log(data: bytes) -> None:
    """Everything that reads a log reads it or refuses it in words, and all readers are of one mind."""
    with log_file(data) as path:
        entries, damaged = [], ""
        verdict = inspect.verify(path)
        assert verdict.exit_code in (0, 1)
        try:
            with LogReader(path) as reader:
                for entry, _ in reader:
                    entries.append(entry)
                with contextlib.suppress(LogError):
                    reader.state()
        except LogError as error:
            damaged = str(error)
            assert damaged
        sequences = [entry.sequence for entry in entries]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences))) if sequences else True
        assert verdict.exit_code or not damaged, f"verify calls it sound, but reading it says: {damaged}"
        for read in (lambda: inspect.stat(path), lambda: shown(path)):
            with contextlib.suppress(LogError):
                read()
                assert not damaged, "an inspector did not see what the reader saw"


def shown(path: Path) -> int:
    """All that `ftvm log show` prints; how many lines that is."""
    with Recording.open(path) as recording:
        lines = [line for epoch in recording for line in epoch_lines(epoch, epoch.inputs)]
    assert all(line.isprintable() for line in lines), "a line can do something to a terminal"
    return len(lines)


def record_samples() -> list[bytes]:
    """Cases are [header, [[kind, count, key, sequence, body], ...]]: the checks are made by `assembled`."""
    samples = []
    for data in (written(1, 5), written(2, 40), written(3, 3, state=True)):
        with log_file(data) as path, LogReader(path) as reader:
            scan = reader._scan
            records = []
            for entry in reader:
                del entry
            scan = type(scan)(reader._fd, path)
            for record in scan:
                head = record.header
                records.append([int(head.kind), head.count, head.key, head.sequence, scan.body(record)])
            samples.append(bytes(msgpack.packb([HEADER.encode(), records])))
    return samples


def assembled(case: bytes) -> bytes | None:
    """The log that a case describes; None when it describes none."""
    try:
        header, records = msgpack.unpackb(case, strict_map_key=False)
        parts = [frame_preamble(header)]
        for kind, count, key, sequence, body in records:
            parts.append(frame(Kind(kind), body.ljust(4, b"\0"), count=count & 0xFF, sequence=sequence, key=bool(key)))
    except Exception:  # a mutated case need not have any sense
        return None
    return b"".join(parts)


def check_records(data: bytes) -> None:
    """As `check_log`, behind the checksums."""
    log = assembled(data)
    if log is not None:
        check_log(log)


TARGETS = [
    Target("log", log_samples, check_log),
    Target("log-records", record_samples, check_records, packed_at=0),
]
