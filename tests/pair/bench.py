# SPDX-License-Identifier: GPL-2.0-or-later
"""One member's half of a pair on a test's bench: the test plays the machine, the network and the arbiter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from devices.event import EventKind
from ftvm.arbiter.arbiter import ArbiterUnavailable, Grant
from ftvm.gate import Gate
from ftvm.machine import STOP, EpochEnd, Sections
from ftvm.pair.backup import Backup
from ftvm.pair.identity import Identity, Timing
from ftvm.pair.transfer import TransferDisk
from ftvm.world.simulated import SimulatedWorld
from logging_channel.endpoint import Link, Sent
from logging_channel.frame import Frame, FrameKind, decode
from logging_channel.messages import StateBegin, StateCredit, StateEnd, Welcome, entry_body
from logging_channel.output_rule import OutputMode
from logging_channel.session import Session
from logging_channel.state_transfer import StateSender
from replay.entry import Entry, EntryFlag, EpochResult, encode_entry

TERM = 3
IDENTITY = Identity("pair", "b", "00" * 32, (), "engine")


class IdleMachine:
    """A machine whose guest does nothing, until `refusal` says that it cannot run an entry."""

    def __init__(self) -> None:
        self.sequence = self.clock = self.time = self.outstanding = self.entropy_wanted = 0
        self.deadline = self.journal = None
        self.emit: Callable[..., None] | None = None
        self.refusal = ""
        self.takes: Callable[[], object] = lambda: None
        self.restored: Sections = []

    def run(self, entry: Entry) -> EpochResult:
        """See Machine."""
        if self.refusal:
            raise ValueError(self.refusal)
        self.takes()
        self.sequence, self.time = entry.sequence, entry.time
        stop = any(event.kind == EventKind.CONTROL and event.data == STOP for event in entry.events)
        reason = EpochEnd.STOPPED if stop else EpochEnd.IDLE
        return EpochResult(entry.sequence, int(reason), self.clock, self.time, digest=entry.sequence)

    def digest(self) -> int:
        """See Machine."""
        return 0

    def save(self) -> Sections:
        """See Machine."""
        return []

    def restore(self, sections: Sections) -> None:
        """See Machine."""
        self.restored = sections


class MoodyArbiter:
    """Grants everything, unless it is `away`."""

    def __init__(self) -> None:
        self.away = True
        self.asked = 0

    def latest(self) -> Grant | None:
        """See Arbiter."""
        return None

    def acquire(self, term: int, winner: str, members: tuple[str, ...]) -> Grant:
        """See Arbiter."""
        self.asked += 1
        if self.away:
            raise ArbiterUnavailable("the directory is not there")
        return Grant(term, winner, members)


class Follower:
    """A backup whose primary is the test."""

    def __init__(self, disks: Sequence[TransferDisk] = ()) -> None:
        self.machine = IdleMachine()
        self.sent: list[Frame] = []
        self.now = 0.0
        self._sessions = iter(range(1, 1000))
        gate = Gate(SimulatedWorld(), lambda: self.now, lambda: 0, OutputMode.SHADOW)
        self.backup = Backup(
            IDENTITY,
            self.machine,  # type: ignore[arg-type]
            disks,
            gate,
            self._send,
            Timing(),
            lambda: self.now,
            lambda: next(self._sessions),
            lambda: None,
        )

    def _send(self, peer: bytes, data: bytes) -> Sent:
        self.sent.append(decode(data))
        return Sent.TAKEN

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    def kinds(self) -> list[FrameKind]:
        """What this side has sent, in order."""
        return [frame.kind for frame in self.sent]

    def tell(self, kind: FrameKind, body: bytes, sequence: int = 0) -> None:
        """A frame from the primary."""
        session = Session(IDENTITY.pair, TERM, self.backup.admission.session.number)
        self.backup.receive(session.encode(kind, sequence, body), self.now)

    def join(self, manifest: bytes = b"\x90") -> None:
        """Connected, and welcomed; a checkpoint begins."""
        self.backup.receive(Link.CONNECTED, self.now)
        number = self.backup.admission.session.number
        self.tell(FrameKind.WELCOME, Welcome(number, TERM, 8, True).encode())
        self.tell(FrameKind.STATE_BEGIN, StateBegin(0, manifest).encode())

    def follow(self) -> None:
        """Restored at entry 7, and in sync from entry 8 on, which it has executed."""
        self.join()
        self.tell(FrameKind.STATE_END, StateEnd(0, _digest_of_nothing()).encode(), 7)
        assert self.backup.execute(self.now), "the snapshot waits"
        self.entry(8, EntryFlag.PROTECTED)
        assert self.backup.execute(self.now)

    def entry(self, sequence: int, flags: int = 0) -> None:
        """An entry from the primary."""
        entry = Entry(sequence, 0, sequence, sequence, 1, flags=flags)
        self.tell(FrameKind.ENTRY, entry_body(0, encode_entry(entry)), sequence)


def _digest_of_nothing() -> int:
    sender = StateSender([])
    sender.grant(StateCredit(1))
    end = sender.next()
    assert isinstance(end, StateEnd)
    return end.digest
