# SPDX-License-Identifier: GPL-2.0-or-later
"""The backup's half: in order, each once, and nothing but what was acknowledged after it stopped."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_channel import receiver as receiver_module
from logging_channel.errors import ChannelError
from logging_channel.messages import Ack, AckFlag
from logging_channel.receiver import Receiver, ReceiverState, Verdict

NEW, DUPLICATE, GAP, STOPPED = Verdict.NEW, Verdict.DUPLICATE, Verdict.GAP, Verdict.STOPPED


def holding(last: int) -> Receiver:
    """A receiver that has taken and acknowledged entries 1 to `last`."""
    receiver = Receiver()
    for sequence in range(1, last + 1):
        assert receiver.accept(sequence, 0, b"%d" % sequence) is NEW
    receiver.ack()
    return receiver


@pytest.mark.parametrize(("sequence", "verdict"), [(1, DUPLICATE), (3, DUPLICATE), (4, NEW), (5, GAP), (99, GAP)])
def test_the_state_table_holds(sequence: int, verdict: Verdict) -> None:
    """What comes of an entry depends on its sequence, and on nothing once stopped."""
    receiver = holding(3)
    assert receiver.accept(sequence, 0, b"") is verdict
    assert receiver.received == (4 if verdict is NEW else 3)
    stopped = holding(3)
    stopped.stop()
    assert stopped.accept(sequence, 0, b"") is STOPPED
    assert stopped.received == 3


def test_receipt_is_acknowledged_before_execution() -> None:
    """One ack covers all that has come since the last one; without news there is none."""
    receiver = Receiver()
    assert receiver.ack() is None
    receiver.accept(1, 0, b"one")
    receiver.accept(2, 0, b"two")
    assert receiver.ack() == Ack(2, 0, 0, 0)
    assert receiver.ack() is None
    assert receiver.take() == (1, b"one")
    receiver.done(1, 0xD1)
    assert receiver.ack() == Ack(2, 1, 0xD1, 0)
    receiver.synced(1)
    assert receiver.ack() == Ack(2, 1, 0xD1, 1)


def test_an_unacknowledged_entry_is_not_executed() -> None:
    """Only an ack makes it part of what must be executed."""
    receiver = Receiver()
    receiver.accept(1, 0, b"one")
    assert receiver.take() is None
    receiver.ack()
    assert receiver.take() == (1, b"one")
    assert receiver.take() is None


def test_duplicates_are_acknowledged_again() -> None:
    """The primary resends because it has not seen the ack."""
    receiver = holding(3)
    assert receiver.accept(2, 0, b"") is DUPLICATE
    assert receiver.ack() == Ack(3, 0, 0, 0)
    assert receiver.waiting == 3


def test_a_gap_asks_for_a_resend_once() -> None:
    """What still follows in flight does not ask again; a resend that fails does."""
    receiver = holding(3)
    assert [receiver.accept(sequence, 0, b"") for sequence in (5, 6, 7)] == [GAP] * 3
    assert receiver.ack() == Ack(3, 0, 0, 0, AckFlag.RESEND)
    assert receiver.accept(8, 0, b"") is GAP
    assert receiver.ack() is None
    assert receiver.accept(5, 0, b"") is GAP, "the resent entry 4 was lost too"
    assert receiver.ack() == Ack(3, 0, 0, 0, AckFlag.RESEND)
    assert [receiver.accept(sequence, 0, b"") for sequence in (4, 5)] == [NEW] * 2
    assert receiver.ack() == Ack(5, 0, 0, 0)
    assert receiver.accept(7, 0, b"") is GAP
    assert receiver.ack() == Ack(5, 0, 0, 0, AckFlag.RESEND), "a later gap asks anew"


def test_released_only_grows() -> None:
    """It says which outputs of the primary have left for good."""
    receiver = Receiver()
    for sequence, released in ((1, 0), (2, 1), (3, 0)):
        receiver.accept(sequence, released, b"")
    assert receiver.released == 1


def test_stopping_is_for_good() -> None:
    """No ack, no entry, no way back; what was acknowledged is still executed, and no other."""
    receiver = holding(2)
    receiver.accept(3, 0, b"3")
    assert receiver.stop() == 2
    assert receiver.state is ReceiverState.STOPPED
    assert receiver.accept(3, 0, b"3") is STOPPED
    assert receiver.ack() is None
    receiver.resume()
    assert receiver.ack() is None
    executed = []
    while (item := receiver.take()) is not None:
        assert not receiver.drained
        executed.append(item[0])
        receiver.done(item[0], 0)
    assert executed == [1, 2]
    assert receiver.drained
    assert receiver.ack() is None
    assert receiver.stop() == 2
    assert receiver.dropped == 2


def test_a_new_connection_is_told_where_this_side_is() -> None:
    """Even when nothing is new."""
    receiver = holding(3)
    assert receiver.ack() is None
    receiver.resume()
    assert receiver.ack() == Ack(3, 0, 0, 0)


def test_a_receiver_continues_behind_a_transferred_state() -> None:
    """The state includes everything up to its sequence."""
    receiver = Receiver(last=41, digest=0xD41)
    assert receiver.accept(41, 0, b"") is DUPLICATE
    assert receiver.ack() == Ack(41, 41, 0xD41, 0)
    assert receiver.accept(42, 0, b"42") is NEW
    assert receiver.drained
    receiver.ack()
    assert not receiver.drained


def test_execution_out_of_order_is_our_own_bug() -> None:
    """Entries are executed as taken, one by one."""
    receiver = holding(2)
    receiver.take()
    with pytest.raises(AssertionError):
        receiver.done(2, 0)
    with pytest.raises(AssertionError):
        receiver.synced(1)


def test_a_primary_that_ignores_its_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue has a bound of its own."""
    monkeypatch.setattr(receiver_module, "QUEUE_BYTES_MAX", 100)
    receiver = Receiver()
    receiver.accept(1, 0, bytes(60))
    with pytest.raises(ChannelError, match="it must wait"):
        receiver.accept(2, 0, bytes(60))
    assert receiver.received == 1
    receiver.ack()
    receiver.take()
    assert receiver.accept(2, 0, bytes(60)) is NEW


@given(st.lists(st.one_of(st.integers(1, 12), st.sampled_from(["ack", "take", "done", "stop", "resume"])), max_size=80))
@settings(max_examples=150)
def test_whatever_comes_entries_are_executed_in_order_and_only_acknowledged_ones(steps: list[int | str]) -> None:
    """Laws: executed 1, 2, 3, ..., exactly as far as was acked; acks only grow; none after stopping."""
    receiver, executed, taken = Receiver(), [], None
    acks: list[Ack] = []
    for step in steps:
        if isinstance(step, int):
            receiver.accept(step, 0, b"%d" % step)
        elif step == "ack":
            ack = receiver.ack()
            assert ack is None or receiver.state is ReceiverState.OPEN
            acks += [ack] if ack else []
        elif step == "stop":
            receiver.stop()
        elif step == "resume":
            receiver.resume()
        elif taken is None and (taken := receiver.take()) is not None:
            assert taken[0] <= max(ack.received for ack in acks)
        if step == "done" and taken is not None:
            receiver.done(taken[0], taken[0])
            executed.append(taken[0])
            taken = None
    receiver.stop()
    while taken is not None or (taken := receiver.take()) is not None:
        receiver.done(taken[0], taken[0])
        executed.append(taken[0])
        taken = None
    assert executed == list(range(1, max((ack.received for ack in acks), default=0) + 1))
    for earlier, later in pairwise(acks):
        assert earlier.received <= later.received and earlier.executed <= later.executed
