# SPDX-License-Identifier: GPL-2.0-or-later
"""`stat` and `verify`: what they count and conclude."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replay.entry import Entry, EpochResult
from replay.errors import LogDamaged
from replay.inspect import stat, verify

Pair = tuple[Entry, EpochResult]
Stream = Callable[..., Iterator[Pair]]


def test_stat_counts_what_was_written(tmp_path: Path, streams: dict[str, Stream], record: Callable[..., Path]) -> None:
    pairs = list(streams["mixed"](300, first=11))
    path = record(tmp_path / "a.log", pairs, state=(10, [("ram", bytes(5000))]))
    found = stat(path)
    assert (found.entries, found.first_sequence, found.last_sequence, found.starts_after) == (300, 11, 310, 10)
    assert (found.engine, found.pair, found.notes) == ("toy 1.0", "pair0", {"by": "a test"})
    assert (found.closed, found.tail) == (True, "")
    events = [event for entry, _ in pairs for event in entry.events]
    assert sum(found.events.values()) == len(events)
    assert found.events["packet"] == sum(event.kind == 2 for event in events)
    assert found.event_bytes["packet"] == sum(len(event.data) for event in events if event.kind == 2)
    assert sum(found.record_bytes.values()) == found.bytes == path.stat().st_size
    assert found.records["state"] == found.records["state_end"] == found.records["end"] == 1
    assert found.reasons["idle"] == sum(result.reason == 1 for _, result in pairs)
    assert found.reasons["poweroff"] == sum(result.reason == 4 for _, result in pairs)
    assert found.page_digests == sum(result.pages != 0 for _, result in pairs)
    assert (found.clock_first, found.clock_last) == (pairs[0][0].clock, pairs[-1][1].clock)
    assert (found.time_first, found.time_last) == (pairs[0][0].time, pairs[-1][1].time)
    table = json.loads(json.dumps(found.as_dict()))
    assert table["bytes_per_entry"] == found.record_bytes["entries"] / 300
    assert table["guest_seconds"] == pytest.approx((found.time_last - found.time_first) / 1e7)
    assert table["entries_per_guest_second"] == pytest.approx(300 / found.guest_seconds)
    assert table["compression"] > 0.5


def test_stat_of_a_log_without_entries(tmp_path: Path, record: Callable[..., Path]) -> None:
    table = stat(record(tmp_path / "a.log", [], close=False)).as_dict()
    assert (table["entries"], table["bytes_per_entry"], table["bytes_per_guest_second"]) == (0, 0.0, 0.0)
    assert (table["first_sequence"], table["starts_after"], table["closed"]) == (None, None, False)


def test_stat_tells_a_torn_tail(tmp_path: Path, streams: dict[str, Stream], record: Callable[..., Path]) -> None:
    path = record(tmp_path / "a.log", list(streams["mixed"](30)))
    path.write_bytes(path.read_bytes()[:-30])
    assert "file ends inside record" in stat(path).tail


def test_the_verdict_on_a_whole_a_running_a_torn_a_damaged_and_no_log(
    tmp_path: Path, streams: dict[str, Stream], record: Callable[..., Path]
) -> None:
    path = record(tmp_path / "a.log", list(streams["mixed"](30)))
    data = path.read_bytes()
    whole = verify(path)
    assert (whole.state, whole.exit_code, whole.closed, whole.last_sequence) == ("whole", 0, True, 30)
    assert "30 entries, ended by its recorder" in whole.words
    path.write_bytes(data[:-28])
    running = verify(path)
    assert (running.state, running.exit_code, running.closed) == ("whole", 0, False)
    assert "was killed between two records" in running.words
    path.write_bytes(data[:-30])
    torn = verify(path)
    assert (torn.state, torn.exit_code) == ("torn", 0)
    assert torn.offset is not None
    assert torn.cut_bytes == len(data) - 30 - torn.offset
    path.write_bytes(data[:-35] + b"!" + data[-34:])
    damaged = verify(path)
    assert (damaged.state, damaged.exit_code) == ("damaged", 1)
    assert "damaged at offset" in damaged.words
    with pytest.raises(LogDamaged):
        stat(path)
    path.write_text("no log")
    assert (verify(path).state, verify(path).exit_code) == ("unreadable", 1)
    assert verify(tmp_path / "missing").exit_code == 1
    for verdict in (whole, running, torn, damaged):
        assert json.loads(json.dumps(verdict.as_dict()))["state"] == verdict.state
