# SPDX-License-Identifier: GPL-2.0-or-later
"""A joiner that follows but lags: the guest is slowed, more so the longer it takes, and never stopped for good."""

from __future__ import annotations

from ftvm.pair.link import CATCHING_UP, HURRIED, IN_STEP, LinkState
from logging_channel.frame import FrameKind
from logging_channel.messages import Ack, Heartbeat, StateCredit
from replay.entry import Entry
from tests.pair.test_link import Leader


def _lagging() -> Leader:
    """A joiner has the snapshot, and two entries that it does not get done with."""
    leader = Leader()
    leader.snapshot()
    leader.tell(FrameKind.STATE_CREDIT, StateCredit(1).encode())
    leader.tell(FrameKind.ACK, Ack(7, 7, 0, 7).encode())
    assert leader.link.state is LinkState.FOLLOWING
    for sequence in (8, 9):
        leader.machine.sequence = sequence
        leader.link.announce(Entry(sequence, 0, sequence, sequence, 1), sequence - 1, leader.now)
    return leader


def test_a_lagging_joiner_slows_the_guest_but_does_not_stop_it() -> None:
    """A pause before each entry, which ends although nothing was acknowledged, and leaves most of the time."""
    leader = _lagging()
    leader.now = 0.1
    pause = leader.link.delay(leader.now)
    assert 0 < pause <= CATCHING_UP.pause_share * leader.now
    assert not leader.link.wants_protection()
    leader.now += pause
    assert leader.link.delay(leader.now) == 0.0


def _guest_s(leader: Leader, epochs: int) -> float:
    """The share of time that a guest of 5 ms epochs has, whose joiner gets nothing done."""
    begin = leader.now
    for epoch in range(epochs + 1):
        while (pause := leader.link.delay(leader.now)) > 0:
            leader.now += pause
        leader.machine.sequence += 1
        sequence = leader.machine.sequence
        leader.link.announce(Entry(sequence, 0, sequence, sequence, 1), sequence - 1, leader.now)
        begin = leader.now if epoch == 0 else begin
        leader.now += 0.005
    return (epochs + 1) * 0.005 / (leader.now - begin)


def test_pauses_become_longer_when_the_joiner_does_not_catch_up() -> None:
    """Four fifths of its speed, half of it, and then as little as a joiner with a fraction of a processor needs."""
    leader = _lagging()
    shares = []
    for since in (0.0, *HURRIED):
        leader.now = max(leader.now, since + 0.1)
        shares.append(_guest_s(leader, 20))
    assert 0.8 <= shares[0] < 0.9 and 0.5 <= shares[1] < 0.6 and shares[2] < 0.05


def test_many_entries_while_a_joiner_takes_the_state_do_not_stop_the_guest() -> None:
    """Short epochs for seconds: their memory bounds them, not their number."""
    leader = Leader()
    leader.snapshot()
    for sequence in range(8, 20_000):
        leader.link.announce(Entry(sequence, 0, sequence, sequence, 1), 7, leader.now)
        leader.now += 0.0003
        assert leader.link.delay(leader.now) == 0.0, sequence


def test_a_backup_one_epoch_behind_is_in_step() -> None:
    """No pause for the lag of one epoch and a bit; a pause beyond two."""
    leader = Leader()
    leader.protect()
    leader.machine.sequence = 8
    leader.link.announce(Entry(8, 0, 8, 8, 1), 7, leader.now)
    leader.now += 0.012
    assert leader.link.delay(leader.now) == 0.0
    leader.now += IN_STEP.lag_soft_ms / 1e3
    assert leader.link.delay(leader.now) > 0.0


def test_acknowledgements_are_progress() -> None:
    """A backup that acks so often that no heartbeat is due is not suspected, whatever its last heartbeat said."""
    leader = Leader()
    leader.protect()
    leader.tell(FrameKind.HEARTBEAT, Heartbeat(7, 0, 0, 0, True).encode())
    for _ in range(400):
        leader.now += 0.01
        leader.epoch()
        leader.link.tick(leader.now)
    assert leader.link.state is LinkState.PROTECTED
