# SPDX-License-Identifier: GPL-2.0-or-later
"""The delta coding of entries with their results, and the variable-length integers under it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.event import Event
from replay.batch import RECENT, BatchDecoder, BatchEncoder, Recorded
from replay.entry import U64_MAX, Entry, EpochResult, RecordedResult, recorded
from replay.errors import LogError
from replay.varint import fold, put, take, take_many, unfold

Stream = Callable[[int], Iterator[tuple[Entry, EpochResult]]]
NUMBER = st.one_of(st.integers(0, 300), st.integers(0, 1 << 20), st.integers(0, (1 << 63) - 1))


@st.composite
def recorded_entries(draw: st.DrawFn) -> list[Recorded]:
    """Entries that follow one another in sequence and in nothing else."""
    found = []
    for sequence in range(5, 5 + draw(st.integers(1, 6))):
        clock, time, budget, run = draw(NUMBER), draw(NUMBER), draw(NUMBER), draw(NUMBER)
        events = tuple(draw(st.lists(st.builds(Event, NUMBER, NUMBER, st.binary(max_size=20)), max_size=2)))
        entry = Entry(sequence, clock, time, time + draw(NUMBER), budget, events, draw(NUMBER))
        digest, pages = draw(st.integers(0, 0xFFFF_FFFF)), draw(st.sampled_from((0, 1, U64_MAX)))
        found.append((entry, RecordedResult(draw(NUMBER), clock + run, draw(NUMBER), digest, pages)))
    return found


def encoded(pairs: list[Recorded], rate: int, encoder: BatchEncoder | None = None, key: bool = True) -> bytes:
    encoder = encoder or BatchEncoder(rate)
    encoder.begin(key)
    for entry, result in pairs:
        encoder.add(entry, result)
    assert encoder.size == len(encoder.body())
    return encoder.body()


@settings(max_examples=300, deadline=None)
@given(recorded_entries(), st.sampled_from((0, 1, 30)), st.integers(0, 6))
def test_what_goes_in_comes_out(pairs: list[Recorded], rate: int, cut: int) -> None:
    """Also when the batch is cut in two, the second one depending on the first."""
    assert BatchDecoder(rate).decode(encoded(pairs, rate), 5, len(pairs), True) == pairs
    encoder, decoder = BatchEncoder(rate), BatchDecoder(rate)
    found: list[Recorded] = []
    for part, key in ((pairs[:cut], True), (pairs[cut:], False)):
        if part or key:
            body = encoded(part, rate, encoder, key)
            found += decoder.decode(body, 5 + len(found), len(part), key)
    assert found == pairs


@pytest.mark.parametrize("name", ["computing", "idle", "block", "mixed"])
def test_lifelike_streams_come_out_as_they_went_in(name: str, streams: dict[str, Stream]) -> None:
    pairs = [(entry, recorded(result)) for entry, result in streams[name](250)]
    assert BatchDecoder(30).decode(encoded(pairs, 30), 1, 250, True) == pairs


def test_a_key_batch_forgets_all_before() -> None:
    pair = (Entry(9, 1 << 40, 1 << 35, 1 << 36, 77_777), RecordedResult(1, (1 << 40) + 5, 1 << 35, 3))
    encoder = BatchEncoder(30)
    first = encoded([pair], 30, encoder)
    assert encoded([pair], 30, encoder, key=True) == first
    assert len(encoded([pair], 30, encoder, key=False)) < len(first)


def test_more_budgets_than_are_remembered() -> None:
    budgets = [*range(100, 100 + 2 * RECENT), *range(100, 100 + 2 * RECENT), 101, 101, 100]
    pairs = []
    for index, budget in enumerate(budgets):
        pairs.append((Entry(index, 50 * index, 0, 0, budget), RecordedResult(1, 50 * index + 50, 0, 0)))
    assert BatchDecoder(0).decode(encoded(pairs, 0), 0, len(pairs), True) == pairs


def test_an_ordinary_entry_is_one_byte_two_numbers_and_its_digest(streams: dict[str, Stream]) -> None:
    pairs = [(entry, recorded(result)) for entry, result in streams["idle"](200)]
    first, rest = len(encoded(pairs[:2], 30)), len(encoded(pairs, 30))
    assert (rest - first) / (len(pairs) - 2) <= 8.5


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(1, 8), st.sampled_from((0, 30)))
def test_any_bytes_are_entries_or_a_log_error(body: bytes, count: int, rate: int) -> None:
    try:
        pairs = BatchDecoder(rate).decode(body, 5, count, True)
    except LogError:
        return
    assert [entry.sequence for entry, _ in pairs] == list(range(5, 5 + count))
    assert BatchDecoder(rate).decode(encoded(pairs, rate), 5, count, True) == pairs


@settings(max_examples=300, deadline=None)
@given(recorded_entries(), st.data())
def test_a_changed_batch_is_entries_or_a_log_error(pairs: list[Recorded], data: st.DataObject) -> None:
    body = bytearray(encoded(pairs, 30))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = BatchDecoder(30).decode(bytes(body), 5, len(pairs), True)
    except LogError:
        return
    assert all(0 <= result.clock <= U64_MAX and 0 <= result.time <= U64_MAX for _, result in found)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x00" * 5, "too short for 1 entries"),
        (b"\x00\x00\x00" + bytes(5), "1 bytes between entries and digests"),
        (b"\x08\x00\x00\x00" + bytes(4), "budget 0 of the recent ones, of which there are 0"),
        (b"\x80\x00\x00\x10" + bytes(4), "unknown marks 0x10"),
        (b"\x80\x00\x00\x08" + bytes(4), "page digest"),
        (b"\x04\x00\x00\xff\xff\x7f" + bytes(4), "events, more than"),
        (b"\x04\x00\x00\x01\x01\x00\x70" + bytes(4), "does not fit its entry"),
        (b"\x40\x00\x01" + bytes(4), "impossible end: clock -1"),
        (b"\x00" + b"\xff" * 12, "too long"),
        (b"\x00" * 2 + b"\xff" * 5, "ends inside the number"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(body: bytes, words: str) -> None:
    with pytest.raises(LogError) as caught:
        BatchDecoder(30).decode(body, 0, 1, True)
    assert words in str(caught.value)


def test_an_impossible_result_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        BatchEncoder(0).add(Entry(1, 100, 0, 0, 5), RecordedResult(0, 99, 0, 0))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1 << 66), max_size=5))
def test_numbers_survive(values: list[int]) -> None:
    out = bytearray()
    for value in values:
        put(out, value)
    assert take_many(bytes(out), 0, len(values)) == (values, len(out))


@settings(max_examples=100, deadline=None)
@given(st.integers(-(1 << 65), 1 << 65))
def test_folding_is_reversible_and_keeps_small_numbers_small(value: int) -> None:
    assert unfold(fold(value)) == value
    assert fold(value) <= 2 * abs(value)


def test_a_number_that_never_ends_is_refused() -> None:
    with pytest.raises(LogError, match="too long"):
        take(b"\x80" * 20, 0)
    with pytest.raises(LogError, match="ends inside the number"):
        take(b"\x80", 0)
    with pytest.raises(LogError, match="ends inside the number"):
        take(b"", 0)
