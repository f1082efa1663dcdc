# SPDX-License-Identifier: GPL-2.0-or-later
"""The output rule: nothing leaves before its ack, order per stream, durable outputs wait for the disks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_channel.output_rule import OutputMode, OutputRule

ALL = 1 << 60


def protected(received: int = 0) -> OutputRule[str]:
    """A rule with a backup that holds everything up to `received`."""
    rule: OutputRule[str] = OutputRule()
    rule.protect(received, 0)
    return rule


def test_an_output_waits_for_the_ack_of_its_entry() -> None:
    """Not of an earlier one."""
    rule = protected(4)
    assert rule.may_leave(4) and not rule.may_leave(5)
    rule.hold(5, 0, "reply")
    assert rule.release(4, ALL, ALL) == []
    assert rule.release(5, 0, 0) == ["reply"]
    assert rule.held == 0 and rule.may_leave(5)


def test_a_durable_output_waits_for_both_disks() -> None:
    """FLUSH means it is on both."""
    rule = protected()
    rule.hold(1, 0, "flushed", durable=True)
    assert rule.release(9, 0, 0) == []
    assert rule.release(9, 1, 0) == []
    assert not rule.may_leave(1, durable=True, stream="other")
    assert rule.release(9, 1, 1) == ["flushed"]
    assert rule.may_leave(1, durable=True)


def test_a_waiting_durable_output_holds_back_its_own_stream_only() -> None:
    """Order is kept within a stream; other streams go on."""
    rule = protected()
    rule.hold(1, 0, "flushed", durable=True, stream="disk")
    rule.hold(2, 0, "read", stream="disk")
    rule.hold(2, 1, "typed", stream="console")
    assert rule.release(2, 0, 0) == ["typed"]
    assert not rule.may_leave(2, stream="disk")
    assert rule.may_leave(2, stream="console")
    assert rule.release(2, 1, 1) == ["flushed", "read"]


def test_outputs_of_several_streams_leave_in_the_order_of_their_making() -> None:
    """By entry and index."""
    rule = protected()
    for sequence, index, stream in ((1, 0, "x"), (1, 1, "y"), (2, 0, "y"), (3, 0, "x")):
        rule.hold(sequence, index, f"{sequence}.{index}", stream=stream)
    assert rule.release(3, 0, 0) == ["1.0", "1.1", "2.0", "3.0"]


def test_alone_everything_leaves_but_what_waits_for_the_own_disk() -> None:
    """Without a backup its disk does not count, and the own one still does."""
    rule = protected()
    rule.hold(1, 0, "reply")
    rule.hold(2, 0, "flushed", durable=True, stream="disk")
    assert rule.alone() == ["reply"]
    assert rule.may_leave(99) and not rule.may_leave(99, durable=True)
    assert rule.release(0, 2, 0) == ["flushed"]


def test_a_backup_emits_nothing_and_forgets_what_has_left() -> None:
    """When it goes live, exactly what may not have left goes out."""
    rule: OutputRule[int] = OutputRule(OutputMode.SHADOW)
    for sequence in range(1, 6):
        assert not rule.may_leave(sequence)
        rule.hold(sequence, 0, sequence)
    assert rule.release(ALL, ALL, ALL) == []
    assert rule.forget(3) == 3
    assert rule.alone() == [4, 5]


def test_a_new_backup_starts_from_its_own_acknowledgements() -> None:
    """What an earlier backup had received or synced does not count for it."""
    rule = protected(10)
    rule.release(10, 10, 10)
    rule.alone()
    rule.protect(5, 0)
    assert not rule.may_leave(6)
    assert not rule.may_leave(5, durable=True)


def test_protecting_twice_is_our_own_bug() -> None:
    """Only a side that is alone takes a backup."""
    with pytest.raises(AssertionError):
        protected().protect(0, 0)
    with pytest.raises(AssertionError):
        OutputRule[str](OutputMode.SHADOW).protect(0, 0)


def test_holding_out_of_order_is_our_own_bug() -> None:
    """Within a stream (sequence, index) only grows."""
    rule = protected()
    rule.hold(2, 1, "later")
    for sequence, index in ((2, 1), (2, 0), (1, 5)):
        with pytest.raises(AssertionError, match="comes after"):
            rule.hold(sequence, index, "earlier")


def test_how_far_all_outputs_have_left() -> None:
    """One held output holds the mark back, whatever left behind it."""
    rule = protected()
    assert rule.left_through(7) == 7
    rule.hold(5, 0, "flushed", durable=True, stream="disk")
    rule.hold(6, 0, "read", stream="other")
    assert rule.left_through(7) == 4
    rule.release(6, 0, 0)
    assert rule.left_through(7) == 4
    rule.release(6, 6, 6)
    assert rule.left_through(7) == 7


OUTPUTS = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.sampled_from("xyz")), min_size=1, max_size=30)
Made = tuple[int, int, bool, str]  # sequence, index, durable, stream
PROGRESS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)), max_size=20)


@given(OUTPUTS, PROGRESS)
@settings(max_examples=120)
def test_nothing_leaves_early_twice_never_or_out_of_order(
    outputs: list[tuple[int, bool, str]], progress: list[tuple[int, int, int]]
) -> None:
    """The laws of the rule, over any interleaving of outputs with acks, with and without the fast path."""
    rule: OutputRule[Made] = OutputRule()
    rule.protect(0, 0)
    left: list[Made] = []
    received = own = peer = sequence = index = 0
    steps = iter(progress)
    for advance, durable, stream in outputs:
        sequence, index = sequence + advance, index + 1
        item = (sequence, index, durable, stream)
        if rule.may_leave(sequence, durable, stream):
            assert sequence <= received and (not durable or sequence <= min(own, peer))
            left.append(item)
        else:
            rule.hold(sequence, index, item, durable, stream)
        step = next(steps, (0, 0, 0))
        received, own, peer = max(received, step[0]), max(own, step[1]), max(peer, step[2])
        for out in rule.release(*step):
            assert out[0] <= received and (not out[2] or out[0] <= min(own, peer))
            left.append(out)
        assert len(left) + rule.held == index
    left += rule.release(ALL, ALL, ALL)
    assert rule.held == 0
    assert sorted(left) == sorted(set(left)) and len(left) == len(outputs)
    for name in "xyz":
        order = [out[:2] for out in left if out[3] == name]
        assert order == sorted(order)
