# SPDX-License-Identifier: GPL-2.0-or-later
"""One member's half of a pair on a test's bench: the test plays the machine, the network and the arbiter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from devices.event import EventKind
from ftvm.arbiter.arbiter import ArbiterUnavailable, Grant
from ftvm.gate import Gate
from ftvm.machine import STOP, EpochEnd, Sections
from ftvm.pair.backup import Backup
from ftvm.pair.identity import Identity, Timing
from ftvm.pair.transfer import TransferDisk
from ftvm.ram_snapshot import Pages
from ftvm.world.simulated import SimulatedWorld
from logging_channel.endpoint import Arrival, Link, Sent
from logging_channel.frame import Frame, FrameKind, decode
from logging_channel.messages import StateBegin, StateCredit, StateEnd, Welcome, entry_body
from logging_channel.output_rule import OutputMode
from logging_channel.session import Session
from logging_channel.state_transfer import StateSender
from replay.entry import Entry, EntryFlag, EpochResult, encode_entry

TERM = 3
IDENTITY = Identity("pair", "b", "00" * 32, (), "engine")


class NoSnapshots:
    """Of a RAM without pages: the series and each snapshot of it."""

    left = kept = 0

    def begin(self, *, changed: bool = False, exact: bool = True) -> NoSnapshots:
        """See SnapshotSeries."""
        return self

    def changed(self) -> int:
        """See SnapshotSeries."""
        return 0

    def close(self) -> None:
        """See SnapshotSeries."""

    def take(self, pages_max: int) -> Pages:
        """See RamSnapshot."""
        return Pages(b"", b"")


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

    def snapshots(self) -> NoSnapshots:
        """See Machine."""
        return NoSnapshots()

    def save_state(self) -> Sections:
        """See Machine."""
        return []

    def clear_ram(self) -> None:
        """See Machine."""

    def put_pages(self, pages: Pages) -> None:
        """See Machine."""

    def restore_state(self, sections: Sections) -> None:
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


class FullLedger:
    """Notes what happens, except while there is no room for notes."""

    def __init__(self) -> None:
        self.full = False
        self.notes: list[tuple[str, int]] = []

    def _note(self, what: str, term: int = 0) -> None:
        if self.full:
            raise OSError(28, "no room")
        self.notes.append((what, term))

    def joining(self) -> None:
        """See Ledger."""
        self._note("joining")

    def in_sync(self, term: int, sequence: int) -> None:
        """See Ledger."""
        self._note("in_sync", term)

    def took_over(self, term: int, sequence: int) -> None:
        """See Ledger."""
        self._note("took_over", term)

    def ended(self, sequence: int) -> None:
        """See Ledger."""
        self._note("ended")


class PlayedDialer:
    """A connection to a primary whose messages the test puts into `arrivals`."""

    address = "played"

    def __init__(self) -> None:
        self.arrivals: deque[Arrival] = deque()

    def receive(self) -> Arrival | None:
        """See Endpoint."""
        return self.arrivals.popleft() if self.arrivals else None

    def send(self, peer: bytes, data: bytes) -> Sent:
        """See Endpoint."""
        return Sent.TAKEN

    def fileno(self) -> int:
        """See Endpoint."""
        return -1

    def wake(self) -> None:
        """See Endpoint."""

    def close(self, linger_ms: int = 0) -> None:
        """See Endpoint."""


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
        tell(self.backup, self.now, kind, body, sequence)

    def join(self, manifest: bytes = b"\x90") -> None:
        """Connected, and welcomed; a checkpoint begins."""
        join(self.backup, self.now, manifest)

    def follow(self) -> None:
        """Restored at entry 7, and in sync from entry 8 on, which it has executed."""
        follow(self.backup, self.now)

    def entry(self, sequence: int, flags: int = 0) -> None:
        """An entry from the primary."""
        tell_entry(self.backup, self.now, sequence, flags)


def tell(backup: Backup, now: float, kind: FrameKind, body: bytes, sequence: int = 0) -> None:
    """A frame from the primary."""
    session = Session(IDENTITY.pair, TERM, backup.admission.session.number)
    backup.receive(session.encode(kind, sequence, body), now)


def tell_entry(backup: Backup, now: float, sequence: int, flags: int = 0) -> None:
    """An entry from the primary."""
    entry = Entry(sequence, 0, sequence, sequence, 1, flags=flags)
    tell(backup, now, FrameKind.ENTRY, entry_body(0, encode_entry(entry)), sequence)


def join(backup: Backup, now: float, manifest: bytes = b"\x90") -> None:
    """The backup is connected, and welcome; a checkpoint begins."""
    backup.receive(Link.CONNECTED, now)
    number = backup.admission.session.number
    tell(backup, now, FrameKind.WELCOME, Welcome(number, TERM, 8, True).encode())
    tell(backup, now, FrameKind.STATE_BEGIN, StateBegin(0, manifest).encode())


def follow(backup: Backup, now: float) -> None:
    """The backup is restored at entry 7, and in sync from entry 8 on, which it has executed."""
    join(backup, now)
    tell(backup, now, FrameKind.STATE_END, StateEnd(0, _digest_of_nothing()).encode(), 7)
    assert backup.execute(now), "the snapshot waits"
    tell_entry(backup, now, 8, EntryFlag.PROTECTED)
    assert backup.execute(now)


def _digest_of_nothing() -> int:
    sender = StateSender([])
    sender.grant(StateCredit(1))
    end = sender.next()
    assert isinstance(end, StateEnd)
    return end.digest
