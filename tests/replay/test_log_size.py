# SPDX-License-Identifier: GPL-2.0-or-later
"""How many bytes a log takes on lifelike streams, framing and checks included: what the format was made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from replay.entry import Entry, EpochResult
from replay.header import LogHeader
from replay.log_writer import LogWriter

Pair = tuple[Entry, EpochResult]
TICKS_PER_SECOND = 10_000_000


def written(path: Path, header: LogHeader, pairs: Iterator[Pair]) -> tuple[int, int, float]:
    """Bytes and entries of a log flushed as it would be while running, and its guest seconds."""
    with LogWriter(path, header) as writer:
        start = writer.size
        for entry, result in pairs:
            writer.flush_due(entry.time / TICKS_PER_SECOND)
            writer.append(entry, result, entry.time / TICKS_PER_SECOND)
        writer.flush()
        return writer.size - start, writer.entries, entry.time / TICKS_PER_SECOND


def test_a_computing_guest_takes_10_bytes_an_entry_and_2_kb_a_second(
    tmp_path: Path, header: LogHeader, streams: dict[str, Callable[..., Iterator[Pair]]]
) -> None:
    size, entries, seconds = written(tmp_path / "a.log", header, streams["computing"](1500))
    assert size / entries <= 10
    assert size / seconds <= 1400


def test_a_1_khz_timer_takes_8_bytes_an_entry(
    tmp_path: Path, header: LogHeader, streams: dict[str, Callable[..., Iterator[Pair]]]
) -> None:
    size, entries, _ = written(tmp_path / "a.log", header, streams["idle"](5000, period=10_000))
    assert size / entries <= 8


def test_an_idle_guest_takes_200_bytes_a_second_at_10_wakeups(
    tmp_path: Path, header: LogHeader, streams: dict[str, Callable[..., Iterator[Pair]]]
) -> None:
    """Each of them in a record of its own, since none may wait for the next."""
    size, entries, seconds = written(tmp_path / "a.log", header, streams["idle"](600, period=1_000_000))
    assert entries / seconds > 9.9
    assert size / seconds <= 200


def test_a_block_write_takes_40_bytes_beside_its_data(
    tmp_path: Path, header: LogHeader, streams: dict[str, Callable[..., Iterator[Pair]]]
) -> None:
    size, entries, _ = written(tmp_path / "a.log", header, streams["block"](1000))
    assert size / entries - 4096 <= 40


def test_a_block_read_takes_40_bytes(
    tmp_path: Path, header: LogHeader, streams: dict[str, Callable[..., Iterator[Pair]]]
) -> None:
    size, entries, _ = written(tmp_path / "a.log", header, streams["block"](1000, data=0))
    assert size / entries <= 30
