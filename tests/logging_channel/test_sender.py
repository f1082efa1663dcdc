# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's half: its state table, what it keeps, and what it sends again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from logging_channel.errors import ChannelError
from logging_channel.messages import Ack, AckFlag
from logging_channel.sender import Sender, SenderState
from logging_channel.window import Limits

D, A, E = SenderState.DETACHED, SenderState.ATTACHED, SenderState.ENDED


def sender_in(state: SenderState) -> Sender:
    """A sender with three entries, of which a connection was given two."""
    sender = Sender()
    sender.attach(0)
    for sequence in (1, 2):
        sender.put(sequence, b"entry %d" % sequence, 0.0)
    drain(sender)
    sender.put(3, b"entry 3", 0.0)
    if state is D:
        sender.detach()
    elif state is E:
        sender.end()
    return sender


def drain(sender: Sender) -> list[int]:
    """Give everything unsent to a connection that takes it; return the sequences."""
    given = []
    while (unsent := sender.next_unsent()) is not None:
        sequence, data = unsent
        assert data == b"entry %d" % sequence
        given.append(sequence)
        sender.advance()
    return given


ACTIONS: dict[str, Callable[[Sender], object]] = {
    "attach": lambda sender: sender.attach(0),
    "put": lambda sender: sender.put(4, b"entry 4", 0.0),
    "acknowledge": lambda sender: sender.acknowledge(Ack(1, 1, 0, 0)),
    "detach": lambda sender: sender.detach(),
    "end": lambda sender: sender.end(),
}
TABLE = {  # (state, action) -> next state, None when illegal
    (D, "attach"): A, (D, "put"): D, (D, "acknowledge"): None, (D, "detach"): D, (D, "end"): E,
    (A, "attach"): None, (A, "put"): A, (A, "acknowledge"): A, (A, "detach"): D, (A, "end"): E,
    (E, "attach"): None, (E, "put"): None, (E, "acknowledge"): None, (E, "detach"): E, (E, "end"): E,
}  # fmt: skip


@pytest.mark.parametrize(("state", "action"), TABLE)
def test_the_state_table_holds(state: SenderState, action: str) -> None:
    """Legal actions lead to the table's state, illegal ones are our own bugs and change nothing."""
    sender, expected = sender_in(state), TABLE[state, action]
    assert sender.state is state
    if expected is None:
        with pytest.raises(AssertionError):
            ACTIONS[action](sender)
        assert sender.state is state
    else:
        ACTIONS[action](sender)
        assert sender.state is expected


@pytest.mark.parametrize(("state", "given"), [(D, []), (A, [3]), (E, [])])
def test_only_an_attached_sender_has_something_to_send(state: SenderState, given: list[int]) -> None:
    """Entries put while nobody listens wait."""
    assert drain(sender_in(state)) == given


def test_entries_follow_each_other() -> None:
    """A gap or a repetition in what is put is our own bug."""
    sender = Sender(last=9)
    for wrong in (9, 11):
        with pytest.raises(AssertionError, match="does not follow 9"):
            sender.put(wrong, b"", 0.0)
    sender.put(10, b"", 0.0)


def test_what_the_transport_did_not_take_is_offered_again() -> None:
    """Without `advance` the same entry is next."""
    sender = sender_in(A)
    assert sender.next_unsent() == sender.next_unsent() == (3, b"entry 3")


def test_after_a_reconnect_everything_behind_what_the_peer_holds_is_sent_again() -> None:
    """From the peer's word, whatever acks were lost."""
    for held in (0, 1, 2):
        sender = sender_in(D)
        sender.attach(held)
        assert drain(sender) == list(range(held + 1, 4))
        assert sender.unacked == 3 - held
        assert sender.resends == 2 - held


def test_a_joiner_that_cannot_continue_is_refused() -> None:
    """It holds less than what was forgotten, or more than was ever sent."""
    sender = sender_in(A)
    sender.acknowledge(Ack(2, 0, 0, 0))
    sender.detach()
    for held in (1, 3):
        assert not sender.can_attach(held)
        with pytest.raises(ChannelError, match="must take the state over"):
            sender.attach(held)
        assert sender.state is D
    sender.attach(2)
    assert drain(sender) == [3]


def test_received_frees_memory_and_executed_opens_the_window() -> None:
    """Receipt and execution are acknowledged apart."""
    sender = sender_in(A)
    assert sender.acknowledge(Ack(2, 0, 0, 0))
    assert (sender.unacked, sender.window.entries) == (1, 3)
    assert sender.acknowledge(Ack(2, 1, 0xD1, 1))
    assert (sender.unacked, sender.window.entries, sender.digest, sender.durable) == (1, 2, 0xD1, 1)


def test_an_ack_without_news_says_so() -> None:
    """Repeated and older acks change nothing."""
    sender = sender_in(A)
    assert sender.acknowledge(Ack(2, 1, 7, 1))
    assert not sender.acknowledge(Ack(2, 1, 7, 1))
    assert not sender.acknowledge(Ack(1, 1, 7, 0))
    assert sender.stale_acks == 1
    assert (sender.received, sender.executed, sender.durable, sender.digest) == (2, 1, 1, 7)


def test_an_ack_of_what_was_never_sent_is_refused() -> None:
    """Entry 3 was put, but no connection was given it."""
    sender = sender_in(A)
    with pytest.raises(ChannelError, match="acknowledges entry 3, the last one sent is 2"):
        sender.acknowledge(Ack(3, 0, 0, 0))
    assert (sender.received, sender.unacked) == (0, 3)


def test_a_gap_told_by_the_backup_is_filled() -> None:
    """The resend flag sets the cursor back behind what was received."""
    sender = sender_in(A)
    assert drain(sender) == [3]
    sender.acknowledge(Ack(1, 0, 0, 0, AckFlag.RESEND))
    assert drain(sender) == [2, 3]


def test_what_is_acknowledged_meanwhile_is_not_sent_again() -> None:
    """A resend goes on behind the newest ack."""
    sender = sender_in(A)
    assert drain(sender) == [3]
    sender.acknowledge(Ack(1, 0, 0, 0, AckFlag.RESEND))
    sender.acknowledge(Ack(2, 0, 0, 0))
    assert drain(sender) == [3]
    sender.acknowledge(Ack(1, 0, 0, 0, AckFlag.RESEND))
    sender.acknowledge(Ack(3, 0, 0, 0))
    assert drain(sender) == []


def test_the_window_speaks_through_the_sender() -> None:
    """A full window delays without end, an executed entry opens it."""
    sender = Sender(limits=Limits(max_entries=1))
    sender.attach(0)
    assert sender.delay(0.0) == 0.0
    sender.put(1, b"entry 1", 0.0)
    assert sender.delay(0.0) == float("inf")
    drain(sender)
    sender.acknowledge(Ack(1, 1, 0, 0))
    assert sender.delay(0.0) == 0.0
