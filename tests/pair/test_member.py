# SPDX-License-Identifier: GPL-2.0-or-later
"""A side that is, or wants to be, live alone: what it does while the arbiter or its own notes cannot be written."""

from __future__ import annotations

import pytest

from ftvm.pair.identity import Timing
from ftvm.pair.link import LinkState
from ftvm.pair.member import ASK_AGAIN_S, Member, Parts, Role
from ftvm.world.simulated import SimulatedWorld
from logging_channel.endpoint import LISTENER, Link
from tests.pair.bench import IDENTITY, TERM, FullLedger, IdleMachine, MoodyArbiter, PlayedDialer, follow


class Lonely:
    """A live side whose protected backup has just been lost."""

    def __init__(self) -> None:
        self.now = 0.0
        self.arbiter = MoodyArbiter()
        self.ledger = FullLedger()
        self.said: list[str] = []
        self.member = Member(
            Parts(
                IDENTITY,
                Timing(),
                IdleMachine(),  # type: ignore[arg-type]
                [],
                SimulatedWorld(),
                self.arbiter,
                lambda: self.now,
                lambda: 1,
                lambda: None,
                lambda executed: executed,
                lambda: None,
                ledger=self.ledger,
                say=self.said.append,
            )
        )
        self.member.start_primary(3)
        assert self.member.link is not None
        self.member.link.state = LinkState.LOST

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.member.step(self.now)
            self.now += ASK_AGAIN_S


class Heir:
    """A side in sync with a primary that the test plays."""

    def __init__(self, full: bool = False) -> None:
        self.now = 0.0
        self.arbiter = MoodyArbiter()
        self.arbiter.away = False
        self.ledger = FullLedger()
        self.world = SimulatedWorld()
        self.dialer = PlayedDialer()
        self.member = Member(
            Parts(
                IDENTITY,
                Timing(),
                IdleMachine(),  # type: ignore[arg-type]
                [],
                self.world,
                self.arbiter,
                lambda: self.now,
                lambda: 1,
                lambda: None,
                lambda executed: executed,
                lambda: None,
                ledger=self.ledger,
            )
        )
        backup = self.member.start_joining(self.dialer)
        follow(backup, self.now)
        self.ledger.full = full

    def step(self, count: int) -> None:
        for _ in range(count):
            self.member.step(self.now)
            self.now += ASK_AGAIN_S


@pytest.fixture
def lonely() -> Lonely:
    return Lonely()


def test_it_waits_for_the_arbiter_and_says_so_once(lonely: Lonely) -> None:
    lonely.steps(20)
    assert lonely.arbiter.asked >= 10
    assert lonely.member.executed == 0, "nothing may be run before the arbiter has granted the next term"
    assert len([line for line in lonely.said if "arbiter" in line]) == 1
    lonely.arbiter.away = False
    lonely.steps(3)
    assert (lonely.member.role, lonely.member.term) == (Role.PRIMARY, 4)
    assert lonely.member.executed > 0


def test_a_stop_ends_it_although_the_arbiter_stays_away(lonely: Lonely) -> None:
    lonely.steps(2)
    lonely.member.stop()
    lonely.steps(3)
    assert lonely.member.over
    assert not lonely.member.finished, "the guest has not ended in order"
    assert lonely.member.superseded, "what it has not recorded yet must stay unwritten: another side may be live"


def test_a_stop_is_in_order_once_the_arbiter_has_granted(lonely: Lonely) -> None:
    lonely.arbiter.away = False
    lonely.member.stop()
    lonely.steps(5)
    assert lonely.member.finished
    assert not lonely.member.superseded


def test_a_divergence_is_an_alarm_at_once_whatever_the_arbiter_says(lonely: Lonely) -> None:
    assert lonely.member.link is not None
    lonely.member.link.diverged = "the digests differ after entry 5"
    lonely.steps(3)
    assert lonely.arbiter.away and len(lonely.member.alarms) == 1
    assert "divergence: the digests differ after entry 5" in lonely.member.alarms[0]


def test_a_primary_goes_on_alone_although_that_cannot_be_noted(lonely: Lonely) -> None:
    """Its images are the newest with the older note, too; the note follows as soon as it can be written."""
    lonely.arbiter.away, lonely.ledger.full = False, True
    lonely.steps(50)
    assert (lonely.member.role, lonely.member.term) == (Role.PRIMARY, 4)
    assert lonely.member.executed > 0
    assert len(lonely.member.alarms) == 1 and "no room" in lonely.member.alarms[0]
    assert lonely.ledger.notes == [("took_over", 3)]
    lonely.ledger.full = False
    lonely.steps(50)
    assert lonely.ledger.notes == [("took_over", 3), ("took_over", 4)]
    assert len(lonely.member.alarms) == 1


def test_a_guest_ends_in_order_although_that_cannot_be_noted(lonely: Lonely) -> None:
    lonely.arbiter.away, lonely.ledger.full = False, True
    lonely.member.stop()
    lonely.steps(5)
    assert lonely.member.finished and not lonely.member.superseded


def test_a_first_start_that_cannot_be_noted_fails(lonely: Lonely) -> None:
    lonely.ledger.full = True
    with pytest.raises(OSError, match="no room"):
        lonely.member.start_primary(5)


def test_a_backup_lets_nothing_out_before_it_is_noted_that_it_took_over() -> None:
    """A cold start would choose the dead primary's images, and lose what this side had let out in its term."""
    heir = Heir()
    heir.step(3)
    assert heir.member.role is Role.BACKUP
    heir.ledger.full = True
    heir.dialer.arrivals.append((LISTENER, Link.DISCONNECTED))
    heir.step(50)
    assert heir.arbiter.asked > 1 and not heir.member.over
    assert heir.member.live is None and not heir.world.opened, "it serves clients without a note that it took over"
    assert len(heir.member.alarms) == 1 and "nothing leaves" in heir.member.alarms[0]
    heir.ledger.full = False
    heir.step(5)
    assert (heir.member.role, heir.member.term) == (Role.PRIMARY, TERM + 1)
    assert heir.ledger.notes[-1] == ("took_over", TERM + 1)
    assert heir.world.opened and heir.member.live is not None


def test_a_backup_follows_although_that_cannot_be_noted() -> None:
    heir = Heir(full=True)
    heir.step(3)
    assert heir.member.role is Role.BACKUP
    assert len(heir.member.alarms) == 1 and "follows all the same" in heir.member.alarms[0]
