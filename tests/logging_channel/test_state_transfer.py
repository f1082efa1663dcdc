# SPDX-License-Identifier: GPL-2.0-or-later
"""A checkpoint crosses under credit, whole or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_channel.errors import ChannelError
from logging_channel.messages import StateBegin, StateChunk, StateCredit, StateEnd
from logging_channel.state_transfer import StateReceiver, StateSender

PIECES = [("ram", 0, b"a" * 60), ("ram", 60, b"b" * 60), ("disk", 0, b"c" * 60), ("disk", 60, b"")]
BEGIN = StateBegin(180, b"what the parts are")


def transfer(pieces: list[tuple[str, int, bytes]], window: int) -> tuple[list[tuple[str, int, bytes]], int]:
    """Run a transfer to its end; return what arrived and the most bytes that were under way at a time."""
    sender, receiver = StateSender(pieces), StateReceiver(BEGIN, window)
    sender.grant(receiver.first_credit())
    arrived: list[tuple[str, int, bytes]] = []
    under_way: list[StateChunk] = []
    most = 0
    while not receiver.finished:
        while isinstance(message := sender.next(), StateChunk):
            receiver.accept(message)
            under_way.append(message)
        most = max(most, sum(len(chunk.data) for chunk in under_way))
        if isinstance(message, StateEnd):
            receiver.end(message)
        else:
            assert under_way, "stuck: no credit and nothing under way"
        if under_way:
            chunk = under_way.pop(0)
            arrived.append((chunk.name, chunk.offset, chunk.data))
            if (credit := receiver.consumed(len(chunk.data))) is not None:
                sender.grant(credit)
    return arrived + [(chunk.name, chunk.offset, chunk.data) for chunk in under_way], most


PIECE = st.tuples(st.text(max_size=5), st.integers(0, 1 << 40), st.binary(max_size=100))


@given(st.lists(PIECE, max_size=30), st.integers(1, 300))
@settings(max_examples=200)
def test_everything_arrives_in_order_within_the_window(pieces: list[tuple[str, int, bytes]], window: int) -> None:
    """At most a window and one chunk are under way, and small windows do not get stuck."""
    arrived, most = transfer(pieces, window)
    assert arrived == pieces
    assert most < window + max((len(data) for _, _, data in pieces), default=0) + 1


def test_nothing_is_sent_without_credit() -> None:
    """The joiner opens the transfer."""
    sender = StateSender(PIECES)
    assert sender.next() is None
    sender.grant(StateCredit(1))
    assert sender.next() == StateChunk(0, *PIECES[0])
    assert sender.next() is None


def test_nothing_follows_the_end() -> None:
    """The end is told once."""
    sender = StateSender([])
    sender.grant(StateCredit(10))
    assert isinstance(sender.next(), StateEnd)
    assert sender.finished and sender.next() is None


def received(count: int) -> tuple[StateReceiver, StateSender]:
    """A receiver that has taken `count` of the pieces."""
    sender, receiver = StateSender(PIECES), StateReceiver(BEGIN)
    sender.grant(receiver.first_credit())
    for _ in range(count):
        chunk = sender.next()
        assert isinstance(chunk, StateChunk)
        receiver.accept(chunk)
    return receiver, sender


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_chunk_out_of_order_is_refused(index: int) -> None:
    """Repeated or skipped."""
    receiver, _ = received(2)
    with pytest.raises(ChannelError, match=f"chunk {index} of the state came where 2 was due"):
        receiver.accept(StateChunk(index, *PIECES[0]))


def test_a_chunk_without_credit_is_refused() -> None:
    """The joiner's memory is bounded whatever the primary does."""
    receiver = StateReceiver(BEGIN, 50)
    receiver.accept(StateChunk(0, "ram", 0, bytes(60)))
    with pytest.raises(ChannelError, match="came without credit"):
        receiver.accept(StateChunk(1, "ram", 60, bytes(60)))


def test_an_end_too_early_or_with_another_digest_is_refused() -> None:
    """A state is taken over whole or not at all."""
    receiver, sender = received(4)
    end = sender.next()
    assert isinstance(end, StateEnd)
    with pytest.raises(ChannelError, match="ends after 5 chunks, 4 have come"):
        receiver.end(replace(end, chunks=5))
    with pytest.raises(ChannelError, match="digest"):
        receiver.end(replace(end, digest=end.digest ^ 1))
    assert not receiver.finished
    receiver.end(end)
    assert receiver.finished


@pytest.mark.parametrize("change", [{"name": "rom"}, {"offset": 61}, {"data": b"b" * 59 + b"x"}])
def test_the_digest_covers_name_place_and_data(change: dict[str, object]) -> None:
    """Any of them changed on the way is found at the end."""
    sender, receiver = StateSender(PIECES), StateReceiver(BEGIN)
    sender.grant(receiver.first_credit())
    while isinstance(message := sender.next(), StateChunk):
        receiver.accept(replace(message, **change) if message.index == 1 else message)  # type: ignore[arg-type]
    assert isinstance(message, StateEnd)
    with pytest.raises(ChannelError, match="digest"):
        receiver.end(message)
