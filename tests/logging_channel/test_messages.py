# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed bodies: whatever a peer sends ends in a message or in an error that names the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_channel.errors import ChannelError
from logging_channel.messages import (
    Ack,
    Goodbye,
    GoodbyeCode,
    Heartbeat,
    Hello,
    Refuse,
    StateBegin,
    StateChunk,
    StateCredit,
    StateEnd,
    Welcome,
    entry_body,
    split_entry_body,
)

U64 = st.integers(0, (1 << 64) - 1)
TEXT = st.text(max_size=40)
KINDS = [Hello, Welcome, Refuse, Ack, Heartbeat, StateBegin, StateChunk, StateEnd, StateCredit, Goodbye]
HELLO = Hello(1, b"\x01\x02", {"kernel": "aa", "disk": "bb"}, "unicorn 2.1.4", "disk0", "b", 3, 90, 100, False)
MESSAGES = st.one_of(
    st.builds(Hello, U64, st.binary(), st.dictionaries(TEXT, TEXT, max_size=3), TEXT, TEXT, TEXT, U64, U64, U64,
              st.booleans()),
    st.builds(Welcome, U64, U64, U64, st.booleans()),
    st.builds(Refuse, TEXT, st.booleans()),
    st.lists(U64, min_size=3, max_size=3).map(sorted).flatmap(
        lambda three: st.builds(Ack, st.just(three[2]), st.just(three[1]), U64, st.just(three[0]), st.integers(0, 1))),
    st.builds(Heartbeat, U64, U64, U64, U64, st.booleans()),
    st.builds(StateBegin, U64, st.binary()),
    st.builds(StateChunk, U64, TEXT, U64, st.binary()),
    st.builds(StateEnd, U64, U64),
    st.builds(StateCredit, U64),
    st.builds(Goodbye, U64, TEXT),
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary(max_size=9) | TEXT,
    lambda inner: st.lists(inner, max_size=11) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=15,
)


@given(MESSAGES)
@settings(max_examples=120)
def test_every_message_survives_the_wire(message: Any) -> None:
    """Decoding gives back an equal message."""
    assert type(message).decode(message.encode()) == message


@given(st.sampled_from(KINDS), st.binary(max_size=120) | VALUES.map(msgpack.packb))
@settings(max_examples=120)
def test_any_body_gives_a_message_or_a_channel_error(kind: Any, body: bytes) -> None:
    """No other exception ever comes out of a decoder."""
    try:
        assert isinstance(kind.decode(body), kind)
    except ChannelError as error:
        assert kind.__name__ in str(error)


@given(MESSAGES, st.data())
@settings(max_examples=120)
def test_a_truncated_message_is_refused(message: Any, data: st.DataObject) -> None:
    """At whatever byte it is cut."""
    body = message.encode()
    with pytest.raises(ChannelError):
        type(message).decode(body[: data.draw(st.integers(0, len(body) - 1))])


@pytest.mark.parametrize(
    ("position", "value", "field"),
    [
        (0, -1, "protocol"),
        (0, True, "protocol"),
        (1, "text", "configuration"),
        (2, {"kernel": 5}, "images"),
        (2, {str(n): "" for n in range(257)}, "images"),
        (3, b"bytes", "engine"),
        (4, "x" * 5000, "pair_name"),
        (6, 1.5, "term"),
        (7, None, "executed"),
        (9, 1, "wants_state"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(position: int, value: Any, field: str) -> None:
    """The operator reads which field of which message was wrong."""
    values = msgpack.unpackb(HELLO.encode())
    values[position] = value
    with pytest.raises(ChannelError, match=f"field '{field}' of a Hello must be"):
        Hello.decode(msgpack.packb(values))


def test_a_message_of_another_release_is_refused_in_words() -> None:
    """One field more or less is another protocol."""
    with pytest.raises(ChannelError, match="array of 10 fields: is the peer of another release"):
        Hello.decode(msgpack.packb([1, 2, 3]))


def test_extension_types_are_refused() -> None:
    """Neither timestamps nor anything else is ever built from a peer's bytes."""
    for extension in (msgpack.ExtType(5, b"code"), msgpack.Timestamp(1, 2)):
        with pytest.raises(ChannelError):
            StateCredit.decode(msgpack.packb([extension]))


def test_deep_nesting_is_refused() -> None:
    """A body of nothing but opening brackets does not exhaust the stack."""
    with pytest.raises(ChannelError, match="not valid msgpack"):
        Refuse.decode(b"\x91" * 100_000)


def test_an_ack_that_contradicts_itself_is_refused() -> None:
    """Nobody has executed what was not received, or synced what was not executed."""
    for ack in (Ack(5, 6, 0, 0), Ack(5, 4, 0, 5)):
        with pytest.raises(ChannelError, match="contradicts itself"):
            Ack.decode(ack.encode())


def test_a_heartbeat_with_unknown_flags_is_refused() -> None:
    """Only the bit for pending work exists."""
    body = bytearray(Heartbeat(1, 2, 3, 4, True).encode())
    body[-4] = 2
    with pytest.raises(ChannelError, match="unknown flags 0x2"):
        Heartbeat.decode(bytes(body))


@given(U64, st.binary(max_size=50))
def test_an_entry_keeps_its_bytes_and_what_was_released(released: int, entry: bytes) -> None:
    """The entry stays opaque."""
    assert split_entry_body(entry_body(released, entry)) == (released, entry)


def test_an_entry_without_room_for_released_is_refused() -> None:
    """Seven bytes are too few."""
    with pytest.raises(ChannelError, match="7 bytes"):
        split_entry_body(bytes(7))


PEER = replace(HELLO, member="a")


def test_members_of_one_pair_match() -> None:
    """Equal in everything but name, term and progress."""
    assert HELLO.mismatch(replace(PEER, term=9, executed=1, received=1, wants_state=True)) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": 2}, "speaks protocol 2, this side speaks 1"),
        ({"pair_name": "disk1"}, "belongs to pair 'disk1', this side to 'disk0'"),
        ({"engine": "unicorn 2.0"}, "runs engine 'unicorn 2.0'"),
        ({"configuration": b"\xff"}, "has machine configuration ff, this side 0102"),
        ({"images": {"kernel": "aa", "disk": "cc"}}, "has image 'disk' as cc, this side as bb"),
        ({"images": {"kernel": "aa"}}, "has image 'disk' as missing"),
        ({"member": "b"}, "has the name of this side"),
    ],
)
def test_a_mismatch_is_told_in_words(change: dict[str, Any], words: str) -> None:
    """Each difference that matters has its words, with both values."""
    assert words in (HELLO.mismatch(replace(PEER, **change)) or "")


def test_goodbye_codes_are_stable() -> None:
    """They travel between releases."""
    assert [code.value for code in GoodbyeCode] == [1, 2, 3, 4, 5, 6, 7]
