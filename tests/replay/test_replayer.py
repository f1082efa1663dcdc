# SPDX-License-Identifier: GPL-2.0-or-later
"""Recording and replaying a toy machine: what was recorded comes out again, or the first difference is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.event import Event
from replay.divergence import Difference, Divergence, differences, event_words
from replay.entry import Entry, EpochResult, RecordedResult
from replay.errors import LogDamaged
from replay.header import LogHeader
from replay.log_reader import LogReader
from replay.log_writer import LogWriter
from replay.recorder import Recorder
from replay.replayer import replay

Entries = Callable[..., Iterator[Entry]]
COUNT = 40


@pytest.fixture
def log(tmp_path: Path, header: LogHeader, toy: type[Any], toy_log: Entries) -> Path:
    path = tmp_path / "toy.log"
    with LogWriter(path, header) as writer:
        recorder = Recorder(toy(), writer)
        for entry in toy_log(COUNT):
            assert recorder.run(entry, 0.01 * entry.sequence).sequence == entry.sequence
    return path


def test_a_recording_replays(log: Path, toy: type[Any]) -> None:
    machine = toy()
    with LogReader(log) as reader:
        summary = replay(machine, reader)
    assert (summary.entries, summary.last_sequence, summary.verified, summary.closed) == (COUNT, COUNT, True, True)
    assert (summary.clock, summary.tail) == (machine.clock, None)
    assert summary.time > 500 * COUNT


@pytest.mark.parametrize("field", ["reason", "clock", "time", "digest", "pages"])
@pytest.mark.parametrize("sequence", [1, 20, COUNT])
def test_the_first_wrong_result_is_named(log: Path, toy: type[Any], field: str, sequence: int) -> None:
    with LogReader(log) as reader, pytest.raises(Divergence) as caught:
        replay(toy(fault=(sequence, field)), reader)
    found = caught.value
    assert (found.sequence, found.field, found.actual - found.expected) == (sequence, field, 1)
    assert found.clock == 1000 * sequence
    assert f"divergence in entry {sequence}, which starts at clock {1000 * sequence}: {field} is" in str(found)
    if sequence < 3:
        assert found.event is None
        assert "no event was delivered before" in str(found)
    else:
        last = sequence - sequence % 3
        assert found.event == (last, Event(1, 0, b"key %d" % last))
        assert f"console input for unit 0, {len(b'key %d' % last)} bytes" in str(found)
        assert f"in entry {last}" in str(found)
    assert found.as_dict()["sequence"] == sequence


def test_an_event_that_was_lost_shows_at_its_entry(log: Path, toy: type[Any]) -> None:
    class Deaf(toy):  # type: ignore[misc]
        def run(self, entry: Entry) -> EpochResult:
            stripped = Entry(entry.sequence, entry.clock, entry.time, entry.time_max, entry.budget, (), entry.flags)
            return super().run(entry if entry.sequence != 21 else stripped)  # type: ignore[no-any-return]

    with LogReader(log) as reader, pytest.raises(Divergence) as caught:
        replay(Deaf(), reader)
    assert caught.value.sequence == 21
    assert {d.field for d in caught.value.differences} >= {"digest", "clock"}
    assert caught.value.field == "clock"


def test_without_verification_everything_runs(log: Path, toy: type[Any]) -> None:
    with LogReader(log) as reader:
        summary = replay(toy(fault=(5, "digest")), reader, verify=False)
    assert (summary.entries, summary.verified) == (COUNT, False)


def test_a_replay_can_stop_early_and_tells_its_progress(log: Path, toy: type[Any]) -> None:
    told: list[tuple[int, int, int]] = []
    with LogReader(log) as reader:
        summary = replay(toy(), reader, until=17, progress=lambda *numbers: told.append(numbers))
    assert summary.last_sequence == 17
    assert told == [(17, summary.clock, summary.time)]


def test_a_recording_can_start_from_a_checkpoint(
    tmp_path: Path, header: LogHeader, toy: type[Any], toy_log: Entries
) -> None:
    path = tmp_path / "late.log"
    machine = toy()
    entries = list(toy_log(COUNT))
    for entry in entries[:25]:
        machine.run(entry)
    with LogWriter(path, header) as writer:
        writer.write_state(25, machine.save())
        recorder = Recorder(machine, writer)
        for entry in entries[25:]:
            recorder.run(entry, 0.0)
    restored = toy()
    with LogReader(path) as reader:
        summary = replay(restored, reader)
    assert (summary.entries, summary.last_sequence) == (15, COUNT)
    assert restored.save() == machine.save()


def test_a_torn_log_replays_to_its_last_whole_record(log: Path, toy: type[Any]) -> None:
    log.write_bytes(log.read_bytes()[:-40])
    with LogReader(log) as reader:
        summary = replay(toy(), reader)
    assert summary.tail is not None
    assert not summary.closed
    assert summary.last_sequence == summary.entries == summary.tail.last_sequence
    assert 0 < summary.entries < COUNT


def test_a_damaged_log_replays_up_to_the_damage(log: Path, toy: type[Any]) -> None:
    data = bytearray(log.read_bytes())
    data[-60] ^= 1
    log.write_bytes(data)
    done: list[int] = []

    class Counting(toy):  # type: ignore[misc]
        def run(self, entry: Entry) -> EpochResult:
            done.append(entry.sequence)
            return super().run(entry)  # type: ignore[no-any-return]

    with LogReader(log) as reader, pytest.raises(LogDamaged) as caught:
        replay(Counting(), reader)
    assert done == list(range(1, len(done) + 1))
    assert caught.value.sequence == done[-1]


def test_only_the_low_half_of_the_digest_was_recorded() -> None:
    expected = RecordedResult(0, 10, 20, 0x1111_2222)
    assert differences(expected, EpochResult(1, 0, 10, 20, 0xFFFF_FFFF_1111_2222)) == ()
    found = differences(expected, EpochResult(1, 0, 10, 20, 0x1111_2223))
    assert found == (Difference("digest", 0x1111_2222, 0x1111_2223),)
    assert str(found[0]) == "digest is 0x11112223, expected 0x11112222"


def test_events_are_told_in_words() -> None:
    assert event_words(Event(2, 1, bytes(range(20)))) == "packet for unit 1, 20 bytes (000102030405060708090a0b...)"
    assert event_words(Event(99, 0, b"")) == "kind 99 for unit 0, 0 bytes"
