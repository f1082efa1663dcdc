# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a log: foreign and newer files are refused in words, reading streams, a log may start from a checkpoint."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lz4.block
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.event import Event
from replay.entry import Entry, EpochResult, recorded
from replay.errors import LogDamaged, LogError
from replay.header import LogHeader, decode_header
from replay.log_reader import LogReader
from replay.log_writer import LogWriter
from replay.record import KEY, PREAMBLE, Kind, expand, frame, frame_preamble, parse_header
from replay.varint import put

Pair = tuple[Entry, EpochResult]
Stream = Callable[..., Iterator[Pair]]


@pytest.mark.parametrize("data", [b"hello, world", b"\x7fELF" + bytes(100), b"\x89PNG\r\n\x1a\n", b"\0" * 64])
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(LogError, match="this file is not an ftvm log"):
        LogReader(tmp_path / "x")


def test_a_newer_format_is_refused_with_its_number(tmp_path: Path, header: LogHeader) -> None:
    preamble = PREAMBLE.pack(b"\x89ftvmlog", 7, 10)
    (tmp_path / "x").write_bytes(preamble + struct.pack("<I", zlib.crc32(preamble)) + bytes(20))
    with pytest.raises(LogError, match=r"format 7 is newer than this ftvm reads \(1\)"):
        LogReader(tmp_path / "x")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot open the log"):
        LogReader(tmp_path / "missing.log")


def test_the_header_says_what_the_log_belongs_to(
    tmp_path: Path, header: LogHeader, record: Callable[..., Path]
) -> None:
    with LogReader(record(tmp_path / "a.log", [])) as reader:
        assert reader.header == header
        assert list(reader) == []
        reader.check_against(configuration="12" * 32, images=dict(header.images), engine="toy 1.0", pair="pair0")
        for changes, words in (
            ({"engine": "toy 2.0"}, "recorded with engine 'toy 1.0', here it is 'toy 2.0'"),
            ({"images": {**header.images, "kernel": "99" * 32}}, "image 'kernel' has digest 9999999999999999"),
            ({"images": {}}, "image 'kernel' of the recording is missing"),
            ({"configuration": "34" * 32}, "the machine is configured differently"),
            ({"configuration": "34" * 32, "machine": b'name = "you"\nmemory = 64\n'}, '-name = "toy", +name = "you"'),
            ({"pair": "pair1"}, "it belongs to pair 'pair0', not to 'pair1'"),
        ):
            same = {"configuration": "12" * 32, "images": dict(header.images), "engine": "toy 1.0"}
            with pytest.raises(LogError) as caught:
                reader.check_against(**{**same, **changes})  # type: ignore[arg-type]
            assert words in str(caught.value)
            assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": "text"}, "machine is str, not bytes"),
        ({"rate": -1}, "rate -1"),
        ({"rate": True}, "rate is bool"),
        ({"images": {"a": 1}}, "images does not map names to strings"),
        ({"notes": []}, "notes is list"),
        ({"surprise": 1}, "does not have exactly the fields"),
    ],
)
def test_a_header_with_wrong_fields_is_refused(header: LogHeader, change: dict[str, Any], words: str) -> None:
    fields = msgpack.unpackb(header.encode()) | change
    with pytest.raises(LogError) as caught:
        decode_header(msgpack.packb(fields))
    assert words in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_or_a_log_error(data: bytes) -> None:
    with pytest.raises(LogError):
        decode_header(data)


def test_a_log_can_be_read_again_and_in_parts(
    tmp_path: Path, streams: dict[str, Stream], record: Callable[..., Path]
) -> None:
    pairs = list(streams["mixed"](60, first=3))
    expected = [(entry, recorded(result)) for entry, result in pairs]
    with LogReader(record(tmp_path / "a.log", pairs)) as reader:
        for first in range(66):
            assert list(reader.entries(first)) == expected[max(first - 3, 0) :]
        assert (reader.last_sequence, reader.closed, reader.tail) == (62, True, None)


def test_a_log_that_is_being_written_shows_its_whole_records(
    tmp_path: Path, header: LogHeader, streams: dict[str, Stream]
) -> None:
    with LogWriter(tmp_path / "a.log", header) as writer, LogReader(tmp_path / "a.log") as reader:
        for index, (entry, result) in enumerate(streams["mixed"](5)):
            assert len(list(reader)) == index
            writer.append(entry, result, 0.0)
            writer.flush()
        assert not reader.closed


def test_a_checkpoint_comes_back_as_it_was(
    tmp_path: Path, streams: dict[str, Stream], record: Callable[..., Path]
) -> None:
    noise = os.urandom(1 << 20)
    sections = [("ram", bytes(3 << 20) + noise + b"tail"), ("exactly one piece", noise), ("none", b""), ("cpu", b"x")]
    path = record(tmp_path / "a.log", list(streams["mixed"](10, first=1001)), state=(1000, sections))
    assert path.stat().st_size < 2.2 * (1 << 20)
    with LogReader(path) as reader:
        assert reader.state_sequence == 1000
        for _ in range(2):
            state = reader.state()
            assert state is not None
            assert (state.sequence, state.sections) == (1000, sections)
            assert len(list(reader)) == 10


def test_a_log_without_a_checkpoint_has_none(tmp_path: Path, record: Callable[..., Path]) -> None:
    with LogReader(record(tmp_path / "a.log", [])) as reader:
        assert (reader.state_sequence, reader.state()) == (None, None)


def test_reading_needs_memory_for_one_record_only(tmp_path: Path, header: LogHeader) -> None:
    with LogWriter(tmp_path / "a.log", header) as writer:
        for n in range(1, 129):
            entry = Entry(n, 0, 0, 0, 0, (Event(2, 0, os.urandom(1 << 17)),))
            writer.append(entry, EpochResult(n, 1, 0, 0, 0), 0.0)
    with LogReader(tmp_path / "a.log") as reader:
        tracemalloc.start()
        try:
            assert sum(len(entry.events[0].data) for entry, _ in reader) == 128 << 17
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2 << 20


def craft(header: LogHeader, *records: bytes) -> bytes:
    return frame_preamble(header.encode()) + b"".join(records)


def forge(kind: int, body: bytes, *, flags: int = KEY, count: int = 0, sequence: int = 0) -> bytes:
    """A record that has right checks and whatever else one likes."""
    head = struct.pack("<BBHQ", kind | flags, count, len(body), sequence)
    check = zlib.crc32(head, sequence & 0xFFFF_FFFF)
    return head + struct.pack("<I", check) + body + struct.pack("<I", zlib.crc32(body, check))


def bomb() -> bytes:
    """A small compressed body that says it is huge."""
    body = bytearray()
    put(body, 79 << 20)
    return bytes(body) + bytes(lz4.block.compress(bytes(1000), store_size=False))


ENTRY = bytes(1 + 1 + 1 + 4)
PIECE = bytes((1, 1)) + b"a" + bytes(2) + b"data"


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([forge(9, bytes(8))], "kind 9 is not known in format 1"),
        ([forge(0, bytes(7) + b"x")], "kind 0 is not known"),
        ([forge(Kind.ENTRIES, ENTRY)], "it holds no entry"),
        ([forge(Kind.ENTRIES, ENTRY, count=1, sequence=4)] * 2, "it goes on with sequence 4"),
        ([forge(Kind.ENTRIES, ENTRY, count=2)], "too short for 2 entries"),
        ([forge(Kind.ENTRIES, ENTRY, count=1), forge(Kind.STATE, PIECE)], "a checkpoint follows entries"),
        ([forge(Kind.STATE, PIECE), forge(Kind.ENTRIES, ENTRY, count=1)], "the checkpoint before it has no end"),
        ([forge(Kind.STATE, PIECE), forge(Kind.STATE_END, bytes(12))], "pieces are missing"),
        ([forge(Kind.STATE, b"\1\xff\0\0")], "malformed"),
        ([forge(Kind.STATE, b"\0" + PIECE[1:]), forge(Kind.STATE, PIECE.replace(b"a", b"b", 1))], "goes over into 'b'"),
        ([forge(Kind.ENTRIES, b"abc", count=1)], "body's length 3 is impossible"),
        ([forge(Kind.ENTRIES, bomb(), flags=KEY | 0x20, count=1)], "says that it expands to"),
        ([forge(Kind.ENTRIES, b"\x10zzzzzzzz", flags=KEY | 0x20, count=1)], "expands to 7 bytes, not to 16"),
        ([forge(Kind.ENTRIES, b"\x10\xf0" + bytes(9), flags=KEY | 0x20, count=1)], "cannot be decompressed"),
        ([forge(0x80 | Kind.END, bytes(8))], "kind 132 is not known"),
        ([forge(Kind.ENTRIES, b"\xff" * 12, flags=KEY | 0x20, count=1)], "too long"),
        ([forge(Kind.END, bytes(8)), forge(Kind.END, bytes(8))], "follows the end of the log"),
        ([forge(Kind.END, b"\1" + bytes(7))], "does not end a log of 0 entries"),
    ],
)
def test_well_checked_nonsense_is_refused_in_words(
    tmp_path: Path, header: LogHeader, records: list[bytes], words: str
) -> None:
    """Checks only guard against accidents; nothing that a file says is believed beyond its bounds."""
    (tmp_path / "x").write_bytes(craft(header, *records))
    with pytest.raises(LogDamaged) as caught, LogReader(tmp_path / "x") as reader:
        reader.state()
        list(reader)
    assert words in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(list(Kind)), st.binary(max_size=200), st.integers(0, 255), st.booleans(), st.booleans())
def test_any_checked_record_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: int, body: bytes, count: int, key: bool, packed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.log"
    header = LogHeader(b"", "", {}, "")
    flags = KEY | (0x20 if packed else 0)
    path.write_bytes(craft(header, forge(kind, body, flags=flags, count=count)))
    try:
        with LogReader(path) as reader:
            reader.state()
            list(reader)
    except LogError as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=4, max_size=300), st.integers(0, 255), st.integers(0, (1 << 64) - 1), st.booleans())
def test_a_framed_record_comes_back(body: bytes, count: int, sequence: int, key: bool) -> None:
    data = frame(Kind.ENTRIES, body, count=count, sequence=sequence, key=key)
    header = parse_header(data, sequence)
    assert (header.kind, header.count, header.sequence, header.key) == (Kind.ENTRIES, count, sequence, key)
    assert expand(header, data[header.size :]) == body
    assert len(data) <= len(body) + (20 if key else 12)
