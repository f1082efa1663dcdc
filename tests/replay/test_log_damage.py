# SPDX-License-Identifier: GPL-2.0-or-later
"""What can happen to a log: every flipped bit is found, every cut end is told, and the two are not confused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from replay.entry import Entry, EpochResult, RecordedResult, recorded
from replay.errors import LogDamaged, LogError
from replay.header import LogHeader
from replay.inspect import verify
from replay.log_reader import LogReader
from replay.log_scan import Record, Scan
from replay.log_writer import LogWriter
from replay.record import Kind

Pair = tuple[Entry, EpochResult]
STATE = [("ram", bytes(3000) + b"end"), ("cpu", b"\1\2"), ("empty", b"")]


@dataclass(frozen=True, slots=True)
class Recording:
    """A small log: its bytes, what was written to it, and where its records lie."""

    path: Path
    data: bytes
    pairs: list[tuple[Entry, RecordedResult]]
    start: int  # of the first record
    records: list[Record]

    def whole_entries(self, size: int) -> int:
        """How many entries are in records that end by `size`."""
        return sum(r.header.count for r in self.records if r.offset + r.size <= size)

    def record_at(self, offset: int) -> Record:
        return next(r for r in self.records if r.offset <= offset < r.offset + r.size)


@pytest.fixture(params=["cold", "from a checkpoint"])
def recording(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    streams: dict[str, Callable[..., Iterator[Pair]]],
    record: Callable[..., Path],
) -> Recording:
    """Both makers: a log of a cold machine, and one that starts from a checkpoint."""
    pairs = [*streams["mixed"](24, first=8)]
    state = (7, STATE) if request.param != "cold" else None
    path = record(tmp_path / "small.log", pairs, state=state)
    fd = os.open(path, os.O_RDONLY)
    scan = Scan(fd, path)
    records = list(scan)
    os.close(fd)
    assert sum(r.header.kind == Kind.ENTRIES for r in records) >= 3
    return Recording(path, path.read_bytes(), [(e, recorded(r)) for e, r in pairs], scan.start, records)


def read(path: Path) -> tuple[list[tuple[Entry, RecordedResult]], LogReader]:
    with LogReader(path) as reader:
        reader.state()
        return list(reader), reader


def test_every_flipped_bit_is_found_where_it_is(recording: Recording) -> None:
    """And everything before the damage is still handed out."""
    path = recording.path.with_name("flipped.log")
    path.write_bytes(recording.data)
    fd = os.open(path, os.O_RDWR)
    for bit in range(8 * len(recording.data)):
        offset = bit // 8
        os.pwrite(fd, bytes((recording.data[offset] ^ 1 << bit % 8,)), offset)
        pairs: list[tuple[Entry, RecordedResult]] = []
        whole = 0
        with pytest.raises(LogError) as caught, LogReader(path) as reader:
            reader.state()
            pairs.extend(reader)
        os.pwrite(fd, recording.data[offset : offset + 1], offset)
        if offset >= recording.start:
            damaged = recording.record_at(offset)
            assert isinstance(caught.value, LogDamaged), f"bit {bit}: {caught.value}"
            assert (caught.value.offset, caught.value.record) == (damaged.offset, damaged.index), f"bit {bit}"
            assert str(damaged.offset) in str(caught.value)
            whole = recording.whole_entries(damaged.offset)
        assert pairs == recording.pairs[:whole], f"bit {bit}"
    os.close(fd)
    assert read(path)[0] == recording.pairs


def test_entries_before_the_damage_are_readable(recording: Recording) -> None:
    damaged = recording.records[-2]
    data = bytearray(recording.data)
    data[damaged.offset + 9] ^= 4
    recording.path.write_bytes(data)
    pairs = []
    with LogReader(recording.path) as reader, pytest.raises(LogDamaged) as caught:
        for pair in reader:
            pairs.append(pair)
    assert pairs == recording.pairs[: recording.whole_entries(damaged.offset)]
    assert caught.value.sequence == pairs[-1][0].sequence
    verdict = verify(recording.path)
    assert (verdict.state, verdict.exit_code, verdict.offset) == ("damaged", 1, damaged.offset)


def test_every_truncation_is_told(recording: Recording) -> None:
    """Bytes cut and the last whole sequence; at a record's boundary nothing is cut, but the log has no end."""
    boundaries = {r.offset for r in recording.records if r.header.kind not in (Kind.STATE, Kind.STATE_END)}
    for size in range(recording.start, len(recording.data)):
        recording.path.write_bytes(recording.data[:size])
        verdict = verify(recording.path)
        assert verdict.exit_code == 0, verdict.words
        assert not verdict.closed
        whole = recording.whole_entries(size)
        assert verdict.entries == whole
        if size in boundaries or size == recording.start:
            assert (verdict.state, verdict.cut_bytes) == ("whole", 0)
        else:
            assert verdict.state == "torn"
            assert verdict.offset is not None
            assert verdict.offset + verdict.cut_bytes == size
            assert f"{verdict.cut_bytes} bytes" in verdict.words
        if whole:
            assert verdict.last_sequence == recording.pairs[whole - 1][0].sequence
            assert read(recording.path)[0] == recording.pairs[:whole]


def test_a_log_cut_inside_its_header_says_that_nothing_was_recorded(recording: Recording) -> None:
    for size in range(recording.start):
        recording.path.write_bytes(recording.data[:size])
        with pytest.raises(LogError, match="nothing was recorded"):
            LogReader(recording.path)
        assert verify(recording.path).state == "unreadable"


def test_recording_goes_on_after_every_truncation(
    recording: Recording, header: LogHeader, streams: dict[str, Callable[..., Iterator[Pair]]]
) -> None:
    pairs = [*streams["mixed"](24, first=8)]
    for size in range(recording.start, len(recording.data) + 1):
        recording.path.write_bytes(recording.data[:size])
        with LogWriter.resume(recording.path, header) as writer:
            whole = recording.whole_entries(size)
            assert writer.entries == whole
            if writer.last_sequence is None and recording.records[0].header.kind == Kind.STATE:
                writer.write_state(7, STATE)  # not even the checkpoint was whole
            for entry, result in pairs[whole:]:
                writer.append(entry, result, 0.0)
        assert read(recording.path)[0] == recording.pairs
        assert verify(recording.path).closed
        with LogReader(recording.path) as reader:
            state = reader.state()
            assert state is None or state.sections == STATE


@pytest.mark.parametrize("recording", ["from a checkpoint"], indirect=True)
def test_a_checkpoint_that_was_cut_leaves_nothing_to_replay(recording: Recording) -> None:
    second = recording.records[1]
    recording.path.write_bytes(recording.data[: second.offset + 3])
    with LogReader(recording.path) as reader:
        assert reader.state_sequence == 7
        with pytest.raises(LogError, match="there is nothing to replay"):
            reader.state()
        assert list(reader) == []
        assert reader.tail is not None
        assert "checkpoint" in reader.tail.why


@pytest.fixture
def long_log(tmp_path: Path, streams: dict[str, Callable[..., Iterator[Pair]]], record: Callable[..., Path]) -> Path:
    """A log of some sectors, written in one go before its machine's host lost power."""
    return record(tmp_path / "long.log", [*streams["computing"](400)], close=False)


def test_pages_that_a_crashed_host_left_zero_are_a_torn_tail(long_log: Path) -> None:
    data = long_log.read_bytes()
    with LogReader(long_log) as reader:
        total = len(list(reader))
    assert len(data) > 3000
    for start in (512, 1024, 2048, 2560):
        long_log.write_bytes(data[:start] + bytes(len(data) - start) + bytes(4096))
        with LogReader(long_log) as reader:
            count = len(list(reader))
            assert reader.tail is not None
            assert "zeros" in reader.tail.why
            assert reader.tail.offset <= start < reader.tail.offset + 300
            assert 0 < count < total


def test_zeros_behind_the_last_record_are_a_torn_tail(recording: Recording) -> None:
    for count in (1, 15, 512, 70_000):
        recording.path.write_bytes(recording.data + bytes(count))
        pairs, reader = read(recording.path)
        assert pairs == recording.pairs
        assert reader.tail is not None
        assert (reader.tail.offset, reader.tail.size) == (len(recording.data), count)


def test_zeros_with_data_behind_them_are_damage(long_log: Path) -> None:
    data = long_log.read_bytes()
    long_log.write_bytes(data[:1024] + bytes(512) + data[1536:])
    with LogReader(long_log) as reader, pytest.raises(LogDamaged):
        list(reader)


@pytest.mark.parametrize("garbage", [b"\xff", b"\x01" * 40, b"garbage at the end of a log, quite some of it"])
def test_garbage_behind_the_end_is_never_taken_for_entries(recording: Recording, garbage: bytes) -> None:
    recording.path.write_bytes(recording.data + garbage)
    try:
        pairs, reader = read(recording.path)
    except LogDamaged as error:
        assert error.offset == len(recording.data)
    else:
        assert pairs == recording.pairs
        assert reader.tail is not None
        assert reader.tail.size == len(garbage)


def test_a_record_that_was_lost_or_moved_is_damage(recording: Recording) -> None:
    entries = [r for r in recording.records if r.header.kind == Kind.ENTRIES]
    first, second = entries[0], entries[1]
    data = recording.data
    lost = data[: second.offset] + data[second.offset + second.size :]
    twice = data[: second.offset] + data[first.offset : first.offset + first.size] + data[second.offset :]
    without_first = data[: first.offset] + data[second.offset :]
    for changed in (lost, twice, without_first):
        recording.path.write_bytes(changed)
        with pytest.raises(LogDamaged):
            read(recording.path)


def test_a_log_of_which_the_end_was_pasted_on_is_damage(recording: Recording) -> None:
    end = recording.records[-1]
    assert end.header.kind == Kind.END
    recording.path.write_bytes(recording.data[: recording.records[-2].offset] + recording.data[end.offset :])
    with pytest.raises(LogDamaged, match="does not end a log of"):
        read(recording.path)
    recording.path.write_bytes(recording.data + recording.data[end.offset :])
    with pytest.raises(LogDamaged, match="follows the end"):
        read(recording.path)


def test_going_on_with_a_damaged_log_is_refused(recording: Recording, header: LogHeader) -> None:
    data = bytearray(recording.data)
    data[recording.records[-2].offset + 8] ^= 1
    recording.path.write_bytes(data)
    with pytest.raises(LogDamaged):
        LogWriter.resume(recording.path, header)
    assert recording.path.read_bytes() == data
