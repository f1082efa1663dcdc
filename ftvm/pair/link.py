# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's end of the logging channel: one backup, from its hello to its loss.

    state      entries            outputs          a lost backup means
    ABSENT     -                  leave at once    -
    PRECOPY    not sent           leave at once    ABSENT: disks and RAM are being copied, the guest runs on
    TAIL       kept, sent behind  leave at once    ABSENT: the rest of the snapshot is on its way
    FOLLOWING  sent               leave at once    ABSENT: the backup catches up
    PROTECTED  sent               output rule      LOST
    LOST       none               held             (the arbiter must grant the next term: `alone`)

The link decides nothing about terms: in LOST it holds the live side back until its owner has asked the arbiter. No
sockets, no clock: messages come in through `receive`, leave through `send`, and `now` is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum

from ftvm.gate import Gate
from ftvm.machine import Machine
from ftvm.pair.identity import Identity, Timing
from ftvm.pair.ram_feed import Feed
from ftvm.pair.transfer import PageFeed, StateSource, TransferDisk
from logging_channel.digest_match import DigestMatch, Mismatch
from logging_channel.endpoint import Sent
from logging_channel.errors import ChannelError
from logging_channel.failure_detector import FailureDetector
from logging_channel.frame import Frame, FrameKind
from logging_channel.messages import (
    Ack,
    Goodbye,
    GoodbyeCode,
    Heartbeat,
    Hello,
    Refuse,
    StateBegin,
    StateChunk,
    StateCredit,
    StateEnd,
    Welcome,
    entry_body,
)
from logging_channel.sender import Sender
from logging_channel.session import Admission, Session
from logging_channel.window import UNHURRIED, Limits
from replay.entry import Entry, EpochResult, encode_entry

CAUGHT_UP_MS = 20.0
CATCHING_UP = replace(UNHURRIED, lag_soft_ms=CAUGHT_UP_MS, pause_share=0.25)  # the guest is slowed, never stopped
HURRIED = {  # longer pauses for a joiner that has less of a processor than the guest, after so many seconds
    2.0: replace(CATCHING_UP, pause_share=1.0),
    4.0: replace(CATCHING_UP, pause_share=math.inf, pause_max_ms=250.0),
}
IN_STEP = Limits(lag_soft_ms=16.0)  # two epochs of a computing guest
JOINER_TIMEOUT_MS = 5000.0
HOLD_S = 0.05
SLOWED_S = 0.001  # how soon a guest that is slowed is looked at again
HELD_MAX_S = 2.0
CHUNKS_AT_ONCE = 16
PUMP_S = 0.001  # for sending pieces between two epochs
COPIES_PAUSE_S = 0.05  # before an entry, when copies of pages fill their memory
_STATE_KINDS = {
    StateBegin: FrameKind.STATE_BEGIN,
    StateChunk: FrameKind.STATE_CHUNK,
    StateEnd: FrameKind.STATE_END,
}


class LinkState(Enum):
    """How far the backup is; see the table above."""

    ABSENT = "absent"
    PRECOPY = "precopy"
    TAIL = "tail"
    FOLLOWING = "following"
    PROTECTED = "protected"
    LOST = "lost"


class BackupLink:
    """Everything that the live side knows of its backup."""

    def __init__(
        self,
        identity: Identity,
        term: int,
        machine: Machine,
        disks: Sequence[TransferDisk],
        gate: Gate,
        send: Callable[[bytes, bytes], Sent],
        timing: Timing,
        clock: Callable[[], float],
        limits: Limits | None = None,
        feed: Callable[[], PageFeed] = Feed,
    ) -> None:
        self.identity = identity
        self.term = term
        self.state = LinkState.ABSENT
        self.member = ""
        self.lost_because = ""
        self.diverged = ""  # how this side or the backup has seen that the two differ; for an alarm
        self.acknowledged = 0  # last entry that the backup, also one that was lost meanwhile, has acknowledged
        self.recorded = 0  # last entry in this side's recording, told to the backup
        self.pause_s = 0.0  # how long the latest joiner's snapshot held the guest, or a round before it, if longer
        self.lag_ms = 0.0
        self.sent_bytes = 0  # of entries, ever
        self.more_to_send = False  # to a joiner: `tick` again soon
        self.sender: Sender | None = None
        self.on_change: Callable[[str], None] = lambda text: None
        self.before_snapshot: Callable[[], None] = lambda: None
        self.admission = Admission(Session(identity.pair, term, 0))
        self._machine = machine
        self._disks = disks
        self._gate = gate
        self._send = send
        self._timing = timing
        self._clock = clock
        self._limits = limits or IN_STEP
        self._feed = feed
        self._following_since = math.inf
        self._slow_until: float | None = None  # the guest's pause for copies that wait
        self._peer = b""
        self._source: StateSource | None = None
        self._untaken: StateBegin | StateChunk | StateEnd | None = None
        self._detector: FailureDetector | None = None
        self._match = DigestMatch()
        self._held_since: float | None = None  # since when the guest has waited for the joiner's disks
        self._told_slow = False
        self._executed = machine.sequence

    # -- what the live side calls (see live.Link) ---------------------------------------------------------------

    def delay(self, now: float) -> float:
        """Seconds to hold the next entry back: the backup's lag, a full window, or a lost backup."""
        if self.state is LinkState.LOST:
            return HOLD_S
        if self._source is not None and self.state is LinkState.PRECOPY and self._source.holds_guest():
            return self._slow(now)
        self._held_since = None
        if self.sender is None:
            return 0.0
        if self.state is LinkState.FOLLOWING:
            for seconds, limits in HURRIED.items():
                if now >= self._following_since + seconds:
                    self.sender.window.limits = limits
        self.lag_ms = self.sender.window.lag_ms(now)
        return min(HOLD_S, max(self.sender.delay(now), self._copies_delay(now)))

    def _copies_delay(self, now: float) -> float:
        """A guest that writes to more pages than can be sent meanwhile is slowed, so that its copies stay few."""
        if self.state is not LinkState.TAIL or self._source is None or not self._source.copies_wait:
            self._slow_until = None
            return 0.0
        if self._slow_until is None:
            self._slow_until = now + COPIES_PAUSE_S
        return max(0.0, self._slow_until - now)

    def _slow(self, now: float) -> float:
        """The guest waits for the joiner, which has to go when it does not come on."""
        if self._held_since is None:
            self._held_since = now
        if not self._told_slow:
            self._told_slow = True
            self.on_change(f"slowing the guest: it writes to its disks faster than member {self.member} can copy them")
        if now - self._held_since > HELD_MAX_S:
            self.lose(f"it has kept the guest waiting for {HELD_MAX_S:g} s", now)
        return SLOWED_S

    def boundary(self) -> None:
        """The machine is between two epochs: take the snapshot when precopy has done what it can."""
        source = self._source
        if self.state is not LinkState.PRECOPY or source is None:
            return
        begin = self._clock()
        try:
            if source.ready_for_snapshot():
                self.before_snapshot()  # what came before it, a joiner cannot add to a recording
                begin = self._clock()
                source.snapshot()
                self.sender = Sender(self._machine.sequence, UNHURRIED)
                self.state = LinkState.TAIL
        except MemoryError as error:
            self.lose(f"this side has no memory for a snapshot: {error}", begin)
        self.pause_s = max(self.pause_s, self._clock() - begin)

    def announce(self, entry: Entry, released: int, now: float) -> None:
        """The entry is about to be run: the backup gets it first."""
        self._slow_until = None
        if self.sender is None:
            return
        body = entry_body(released, encode_entry(entry))
        self.sent_bytes += len(body)
        self.sender.put(entry.sequence, body, now)
        self._send_entries(now)

    def ran(self, result: EpochResult, now: float) -> None:
        """The entry has been run here."""
        self._executed = result.sequence
        if self.sender is not None:
            self.sender.window.ran(result.sequence, now)
            self._judge(self._match.ours(result.sequence, result.digest))

    def wants_protection(self) -> bool:
        """Whether the backup has caught up, so that the next entry may put the output rule in force."""
        sender = self.sender
        if self.state is not LinkState.FOLLOWING or sender is None or sender.durable == 0:
            return False
        window, limits = sender.window, self._limits  # which are about to be in force
        if window.entries >= limits.max_entries or window.bytes >= limits.max_bytes:
            return False
        return sender.executed >= sender.last or window.lag_ms(self._clock()) < CAUGHT_UP_MS

    def protect(self, sequence: int) -> None:
        """Entry `sequence` carries the mark: from here on nothing leaves that the backup has not acknowledged."""
        assert self.state is LinkState.FOLLOWING and self.sender is not None
        self.state = LinkState.PROTECTED
        self.sender.window.limits = self._limits
        now = self._clock()
        self._detector = FailureDetector(self._timing.timeout_ms, self._timing.heartbeat_ms, now)
        self._gate.acknowledged(self.sender.received, self.sender.durable)
        self._gate.protect()
        self.on_change(f"protected: member {self.member} is in sync from entry {sequence} on")

    # -- what its owner calls -----------------------------------------------------------------------------------

    @property
    def in_sync(self) -> bool:
        """Whether a backup may go live in the next term."""
        return self.state is LinkState.PROTECTED

    def receive(self, peer: bytes, data: bytes, now: float) -> None:
        """A message came from `peer`."""
        frame = self.admission.admit(data)
        if frame is None:
            return
        try:
            if frame.kind is FrameKind.HELLO:
                self._hello(peer, frame, now)
            elif peer == self._peer and self._detector is not None:
                self._detector.heard(now)
                self._from_backup(frame, now)
        except ChannelError as error:
            if peer == self._peer:
                self.lose(f"member {self.member} broke the protocol: {error}", now)

    def disconnected(self, peer: bytes, now: float) -> None:
        """The transport noticed that `peer` is gone."""
        if peer == self._peer and self.state is not LinkState.ABSENT:
            self.lose("its connection was lost", now)

    def tick(self, now: float) -> None:
        """Heartbeats, suspicion, and the state transfer; call at least as often as heartbeats are due."""
        if self._detector is None:
            return
        self._pump_state(now)
        self._send_entries(now)
        if self._detector is None:  # lost meanwhile
            return
        if self._detector.due(now):
            self._heartbeat(now)
        if (why := self._detector.suspect(now)) is not None:
            self.lose(why, now)

    def lose(self, why: str, now: float) -> None:
        """Give this backup up."""
        if self.state in (LinkState.ABSENT, LinkState.LOST):
            return
        self.lost_because = why
        self.on_change(f"backup {self.member} lost: {why}")
        was_protected = self.state is LinkState.PROTECTED
        if self._source is not None:
            self._source.close()
        self._source, self._detector, self.more_to_send = None, None, False
        if self.sender is not None:
            self.acknowledged = self.sender.received
            self.sender.end()
        self.sender = None
        self.state = LinkState.LOST if was_protected else LinkState.ABSENT
        if not was_protected:
            self._forget_peer()

    def alone(self, term: int) -> None:
        """The arbiter has granted `term`: go on without a backup."""
        assert self.state is LinkState.LOST
        self.term = term
        self._forget_peer()
        self.state = LinkState.ABSENT
        self._gate.alone()

    def goodbye(self, code: GoodbyeCode, text: str) -> None:
        """Tell the backup that this side leaves on purpose."""
        if self._peer:
            self._emit(FrameKind.GOODBYE, Goodbye(int(code), text).encode())

    def progress(self) -> dict[str, object] | None:
        """How far a joiner is, for the status; None without one."""
        if self.state in (LinkState.ABSENT, LinkState.PROTECTED, LinkState.LOST):
            return None
        source = self._source
        return {
            "member": self.member,
            "state": self.state.value,
            "round": source.round if source is not None else None,
            "sent_bytes": source.sent_bytes if source is not None else None,
            "pages_left": source.pages_left if source is not None else None,
        }

    def close(self) -> None:
        """Whoever owns this ends: read RAM and disks no longer."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def everything_executed(self) -> bool:
        """Whether the backup has executed all that was announced; true without one."""
        return self.sender is None or self.sender.executed >= self.sender.last

    def pump_acks(self) -> None:
        """Tell the gate how far the backup is."""
        if self.sender is not None and self.state is LinkState.PROTECTED:
            self._gate.acknowledged(self.sender.received, self.sender.durable)

    # -- inside -------------------------------------------------------------------------------------------------

    def _hello(self, peer: bytes, frame: Frame, now: float) -> None:
        hello = Hello.decode(frame.body)
        ours = self.identity.hello(self.term, 0, 0)
        reason = ours.mismatch(hello)
        final = reason is not None
        if reason is None and self.state is not LinkState.ABSENT and peer != self._peer:
            reason = f"this primary has a backup already (member {self.member!r}, {self.state.value}); ask again later"
        if reason is not None:
            refusal = Session(self.identity.pair, self.term, frame.session)
            self._send(peer, refusal.encode(FrameKind.REFUSE, 0, Refuse(reason, final).encode()))
            return
        if self.state is not LinkState.ABSENT:
            self.lose("it began anew", now)
            return
        self._welcome(peer, frame.session, hello.member, now)

    def _welcome(self, peer: bytes, session: int, member: str, now: float) -> None:
        self._peer, self.member, self._untaken = peer, member, None
        self.admission.session = Session(self.identity.pair, self.term, session)
        self._match = DigestMatch()
        self._detector = FailureDetector(JOINER_TIMEOUT_MS, self._timing.heartbeat_ms, now)
        self._source = StateSource(self._disks, self._machine, self._feed())
        self.pause_s = 0.0
        self._held_since, self._told_slow = None, False
        self.state = LinkState.PRECOPY
        welcome = Welcome(session, self.term, self._executed + 1, True)
        self._emit(FrameKind.WELCOME, welcome.encode())
        self.on_change(f"member {member} joins in term {self.term}")

    def _from_backup(self, frame: Frame, now: float) -> None:
        if frame.kind is FrameKind.ACK and self.state in (LinkState.FOLLOWING, LinkState.PROTECTED):
            self._acknowledged(Ack.decode(frame.body), now)
        elif frame.kind is FrameKind.HEARTBEAT:
            beat = Heartbeat.decode(frame.body)
            assert self._detector is not None
            self._detector.progressed(now, beat.sequence, beat.work_pending)
        elif frame.kind is FrameKind.STATE_CREDIT and self._source is not None:
            self._source.grant(StateCredit.decode(frame.body))
            self._pump_state(now)
        elif frame.kind is FrameKind.GOODBYE:
            goodbye = Goodbye.decode(frame.body)
            if goodbye.code == GoodbyeCode.DIVERGED:
                self.diverged = goodbye.text
            self.lose(f"it left: {goodbye.text}", now)

    def _acknowledged(self, ack: Ack, now: float) -> None:
        sender = self.sender
        assert sender is not None
        before = sender.executed
        if not sender.acknowledge(ack):
            return
        if self._detector is not None:  # acks as often as these leave no heartbeat due
            self._detector.progressed(now, sender.executed, sender.executed < sender.received)
        self.pump_acks()
        if sender.executed > before:
            self._judge(self._match.theirs(sender.executed, sender.digest))

    def _judge(self, mismatch: Mismatch | None) -> None:
        if mismatch is None:
            return
        self.diverged = str(mismatch)
        self.goodbye(GoodbyeCode.DIVERGED, f"divergence: {mismatch}")
        self.lose(f"divergence: {mismatch}", self._clock())

    def _pump_state(self, now: float) -> None:
        source = self._source
        if source is None:
            return
        try:
            if not self._send_pieces(source):
                return
        except ChannelError as error:
            self.lose(str(error), now)
            return
        if source.finished and self.sender is not None:
            source.close()
            self._source, self.more_to_send = None, False
            self.sender.attach(self.sender.received)
            self.sender.window.limits = CATCHING_UP
            self._following_since = now
            self.state = LinkState.FOLLOWING
            self._detector = FailureDetector(max(self._timing.timeout_ms, 1000.0), self._timing.heartbeat_ms, now)
            self._send_entries(now)

    def _send_pieces(self, source: StateSource) -> bool:
        """Send what is ready, for a while: the guest waits meanwhile. False when the transport takes no more."""
        snapshot = self.sender.received if self.sender is not None else 0
        end = self._clock() + PUMP_S
        self.more_to_send = False
        for _ in range(CHUNKS_AT_ONCE):
            message = self._untaken or source.next()
            if message is None:
                return True
            sent = self._emit(_STATE_KINDS[type(message)], message.encode(), snapshot)
            self._untaken = message if sent is Sent.FULL else None
            if sent is not Sent.TAKEN:
                return False
            if self._clock() > end:
                break
        self.more_to_send = True
        return True

    def _send_entries(self, now: float) -> None:
        sender = self.sender
        if sender is None or self.state not in (LinkState.FOLLOWING, LinkState.PROTECTED):
            return
        while (unsent := sender.next_unsent()) is not None:
            sequence, body = unsent
            if self._emit(FrameKind.ENTRY, body, sequence) is not Sent.TAKEN:
                return
            sender.advance()

    def _heartbeat(self, now: float) -> None:
        """By the clock, also among entries: it alone says what is recorded, and how much the backup must keep."""
        assert self._detector is not None
        beat = Heartbeat(self._executed, self._machine.clock, self.recorded, self._gate.released(self._executed), False)
        self._emit(FrameKind.HEARTBEAT, beat.encode())
        self._detector.sent(now)

    def _emit(self, kind: FrameKind, body: bytes, sequence: int = 0) -> Sent:
        return self._send(self._peer, self.admission.session.encode(kind, sequence, body))

    def _forget_peer(self) -> None:
        self._peer, self.member = b"", ""
        self.admission.session = Session(self.identity.pair, self.term, 0)
