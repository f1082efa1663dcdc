# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's end towards one backup, message by message."""

from __future__ import annotations

import pytest

from ftvm.gate import Gate
from ftvm.pair.identity import Identity, Timing
from ftvm.pair.link import HELD_MAX_S, BackupLink, LinkState
from ftvm.pair.transfer import StateSource
from ftvm.world.simulated import SimulatedWorld
from logging_channel.endpoint import Sent
from logging_channel.frame import Frame, FrameKind, decode
from logging_channel.messages import Ack, Goodbye, GoodbyeCode, Heartbeat, Refuse, StateCredit
from logging_channel.session import Session
from replay.entry import Entry, EpochResult
from tests.pair.bench import IDENTITY, TERM, IdleMachine

PEER = b"peer"
JOINER = Identity("pair", "a", "00" * 32, (), "engine")
SESSION = Session(IDENTITY.pair, TERM, 77)


class Leader:
    """A live side's link; the test is the joiner."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[Frame] = []
        self.machine = IdleMachine()
        self.machine.sequence = 7
        gate = Gate(SimulatedWorld(), lambda: self.now, lambda: 0)
        self.link = BackupLink(
            IDENTITY,
            TERM,
            self.machine,  # type: ignore[arg-type]
            [],
            gate,
            self._send,
            Timing(),
            lambda: self.now,
        )

    def _send(self, peer: bytes, data: bytes) -> Sent:
        self.sent.append(decode(data))
        return Sent.TAKEN

    def tell(self, kind: FrameKind, body: bytes) -> None:
        """A frame from the joiner."""
        self.link.receive(PEER, SESSION.encode(kind, 0, body), self.now)

    def snapshot(self) -> None:
        """A joiner is welcome, and its snapshot is taken."""
        self.tell(FrameKind.HELLO, JOINER.hello(0, 0, 0).encode())
        self.link.tick(self.now)
        self.link.boundary()
        assert self.link.state is LinkState.TAIL

    def protect(self) -> None:
        """The joiner has got everything and is in sync."""
        self.snapshot()
        self.tell(FrameKind.STATE_CREDIT, StateCredit(1).encode())
        self.tell(FrameKind.ACK, Ack(7, 7, 0, 7).encode())
        assert self.link.wants_protection()
        self.link.protect(8)

    def epoch(self) -> None:
        """One entry, run here and acknowledged at once."""
        sequence = self.machine.sequence = self.machine.sequence + 1
        self.link.announce(Entry(sequence, 0, sequence, sequence, 1), sequence - 1, self.now)
        self.link.ran(EpochResult(sequence, 0, 0, sequence, digest=5), self.now)
        self.tell(FrameKind.ACK, Ack(sequence, sequence, 5, sequence).encode())

    def heartbeats(self) -> list[Heartbeat]:
        return [Heartbeat.decode(frame.body) for frame in self.sent if frame.kind is FrameKind.HEARTBEAT]


def test_an_acknowledgement_before_the_first_entry_was_sent_is_ignored() -> None:
    leader = Leader()
    leader.snapshot()
    leader.tell(FrameKind.ACK, Ack(7, 7, 0, 7).encode())
    assert leader.link.state is LinkState.TAIL


def test_a_stream_of_entries_does_not_keep_heartbeats_from_telling_what_is_recorded() -> None:
    """Otherwise a backup of a busy primary keeps every result, with the data that clients wrote, for ever."""
    leader = Leader()
    leader.protect()
    for epoch in range(100):
        leader.now += 0.005
        leader.link.recorded = epoch
        leader.epoch()
        leader.link.tick(leader.now)
    assert leader.link.state is LinkState.PROTECTED, leader.link.lost_because
    assert len(leader.heartbeats()) >= 20
    assert leader.heartbeats()[-1].recorded >= 95


@pytest.mark.parametrize("code", [GoodbyeCode.DIVERGED, GoodbyeCode.LEAVING])
def test_a_backup_that_finds_the_divergence_first_is_believed(code: GoodbyeCode) -> None:
    """It leaves before this side has run the entry whose digest would show it; other goodbyes are no divergence."""
    leader = Leader()
    leader.protect()
    leader.link.announce(Entry(8, 0, 8, 8, 1), 7, leader.now)
    leader.tell(FrameKind.GOODBYE, Goodbye(int(code), "this side cannot run entry 8").encode())
    assert leader.link.state is LinkState.LOST
    assert ("entry 8" in leader.link.diverged) is (code is GoodbyeCode.DIVERGED)


def test_a_joiner_that_does_not_come_on_cannot_hold_the_guest_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowed while its disks are copied, told once; a joiner that lives and takes nothing is given up."""
    leader, said = Leader(), list[str]()
    leader.link.on_change = said.append
    leader.tell(FrameKind.HELLO, JOINER.hello(0, 0, 0).encode())
    assert leader.link.state is LinkState.PRECOPY and leader.link.delay(leader.now) == 0
    monkeypatch.setattr(StateSource, "holds_guest", lambda self: True)
    for _ in range(200):
        leader.now += HELD_MAX_S / 100
        leader.tell(FrameKind.HEARTBEAT, Heartbeat(0, 0, 0, 0, False).encode())
        if leader.link.state is LinkState.PRECOPY:
            assert leader.link.delay(leader.now) > 0
    assert leader.link.state is LinkState.ABSENT and leader.link.delay(leader.now) == 0
    assert len([line for line in said if "slowing the guest" in line]) == 1
    assert "kept the guest waiting" in leader.link.lost_because


def test_only_refusals_that_will_never_change_are_final() -> None:
    leader = Leader()
    leader.protect()
    other = Identity("pair", "a", "11" * 32, (), "engine")
    for hello, final in ((JOINER, False), (other, True)):
        frame = Session(IDENTITY.pair, TERM, 78).encode(FrameKind.HELLO, 0, hello.hello(0, 0, 0).encode())
        leader.link.receive(b"another", frame, leader.now)
        refusal = Refuse.decode(leader.sent[-1].body)
        assert leader.sent[-1].kind is FrameKind.REFUSE and refusal.final is final
        assert ("machine configuration" if final else "a backup already") in refusal.reason
    assert leader.link.state is LinkState.PROTECTED
