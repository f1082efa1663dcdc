# SPDX-License-Identifier: GPL-2.0-or-later
"""A primary that has lost its backup and cannot reach the arbiter: it emits nothing, and can still be stopped."""

from __future__ import annotations

import pytest

from ftvm.pair.identity import Timing
from ftvm.pair.link import LinkState
from ftvm.pair.member import ASK_AGAIN_S, Member, Parts, Role
from ftvm.world.simulated import SimulatedWorld
from tests.pair.bench import IDENTITY, IdleMachine, MoodyArbiter


class Lonely:
    """A live side whose protected backup has just been lost."""

    def __init__(self) -> None:
        self.now = 0.0
        self.arbiter = MoodyArbiter()
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
