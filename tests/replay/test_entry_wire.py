# SPDX-License-Identifier: GPL-2.0-or-later
"""The wire form of an entry: what goes in comes out, and hostile bytes are refused with the field's name."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.event import Event
from replay.entry import U64_MAX, Entry, EpochResult, decode_entry, encode_entry, recorded
from replay.errors import LogError

U63 = st.integers(0, (1 << 63) - 1)
EVENTS = st.lists(st.builds(Event, U63, U63, st.binary(max_size=40)), max_size=4).map(tuple)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    time, span = draw(U63), draw(U63)
    return Entry(draw(U63), draw(U63), time, time + span, draw(U63), draw(EVENTS), draw(U63))


def raw(**changes: Any) -> bytes:
    """A good entry's fields with some replaced, packed."""
    fields = {"sequence": 1, "clock": 2, "time": 3, "time_max": 4, "budget": 5, "events": [[1, 0, b"x"]], "flags": 0}
    return msgpack.packb(list((fields | changes).values()))  # type: ignore[no-any-return]


@settings(max_examples=200, deadline=None)
@given(entries())
def test_an_entry_survives_the_wire(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry
    assert decode_entry(memoryview(encode_entry(entry))) == entry


def test_defaults_at_the_end_are_not_sent() -> None:
    bare = Entry(7, 1, 2, 3, 4)
    assert msgpack.unpackb(encode_entry(bare)) == [7, 1, 2, 3, 4]
    assert msgpack.unpackb(encode_entry(Entry(7, 1, 2, 3, 4, (), 2))) == [7, 1, 2, 3, 4, [], 2]
    assert msgpack.unpackb(encode_entry(Entry(7, 1, 2, 3, 4, (Event(1, 0, b"k"),)))) == [7, 1, 2, 3, 4, [[1, 0, b"k"]]]


def test_the_largest_numbers_fit() -> None:
    entry = Entry(U64_MAX, 0, U64_MAX, U64_MAX, U64_MAX, (Event(U64_MAX, U64_MAX, b""),), U64_MAX)
    assert decode_entry(encode_entry(entry)) == entry


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (raw(sequence=-1), "entry's sequence is -1"),
        (raw(clock="2"), "entry's clock is str"),
        (raw(time=True), "entry's time is bool"),
        (raw(time_max=None), "entry's time_max is NoneType"),
        (raw(budget=1.5), "entry's budget is float"),
        (raw(time=9), "time_max 4 is below its time 9"),
        (raw(clock=U64_MAX), "passes the end of the clock"),
        (raw(flags=-2), "entry's flags is -2"),
        (raw(flags=[1]), "entry's flags is list"),
        (raw(events=b""), "events are bytes, not an array"),
        (raw(events=[[1, 0]]), "event 0 is not [kind, unit, data]"),
        (raw(events=[[1, 0, b""], 7]), "event 1 is not [kind, unit, data]"),
        (raw(events=[[-1, 0, b""]]), "event 0 kind is -1"),
        (raw(events=[[1, "u", b""]]), "event 0 unit is str"),
        (raw(events=[[1, 0, "text"]]), "event 0 data is str"),
        (raw(events=[[1, 0, b""]] * 5000), "5000 events, more than 4096"),
        (msgpack.packb([1, 2, 3, 4]), "not an array of 5 to 7 fields"),
        (msgpack.packb([1] * 8), "not an array of 5 to 7 fields"),
        (msgpack.packb({"sequence": 1}), "not an array of 5 to 7 fields"),
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x91" * 5000, "not msgpack"),
        (raw() + b"\0", "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", "not msgpack"),
        (b"\xc6\xff\xff\xff\xff", "not msgpack"),
    ],
)
def test_a_bad_field_is_named(data: bytes, words: str) -> None:
    with pytest.raises(LogError) as caught:
        decode_entry(data)
    assert words in str(caught.value)


def test_events_hold_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replay.entry.EVENT_BYTES_MAX", 100)
    assert decode_entry(raw(events=[[1, 0, bytes(50)]] * 2)).events[1].data == bytes(50)
    with pytest.raises(LogError, match="more than 100 bytes"):
        decode_entry(raw(events=[[1, 0, bytes(50)], [1, 0, bytes(51)]]))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_entry_or_a_log_error(data: bytes) -> None:
    try:
        entry = decode_entry(data)
    except LogError:
        return
    assert decode_entry(encode_entry(entry)) == entry


@settings(max_examples=300, deadline=None)
@given(entries(), st.data())
def test_a_changed_entry_is_an_entry_or_a_log_error(entry: Entry, data: st.DataObject) -> None:
    packed = bytearray(encode_entry(entry))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_entry(bytes(packed))
    except LogError as error:
        assert "entry" in str(error)


def test_the_log_keeps_the_low_half_of_the_digest() -> None:
    result = EpochResult(1, 1, 10, 20, 0x1234_5678_9ABC_DEF0, 77)
    assert recorded(result).digest == 0x9ABC_DEF0
    assert recorded(result).pages == 77


def test_an_entry_without_events_takes_few_bytes() -> None:
    assert len(encode_entry(Entry(100_000, 1 << 40, 1 << 33, (1 << 33) + 80_000, 8_000_000))) <= 40
