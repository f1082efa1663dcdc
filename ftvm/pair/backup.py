# SPDX-License-Identifier: GPL-2.0-or-later
"""The backup's end of the logging channel: joins, takes the state over, follows, and knows when it may go live.

    state      message            then
    DIALING    CONNECTED          HELLO, every so often until answered
    ASKING     WELCOME            TAKING;  REFUSE: DIALING, asked again later; OVER when it is final
    TAKING     STATE_*            disks and RAM are written, sections kept;  STATE_END: RESTORING
    RESTORING  (execution half)   the machine becomes the snapshot, the disks are synced: FOLLOWING
    FOLLOWING  ENTRY              acknowledged at once, executed later; the PROTECTED mark: IN_SYNC
    IN_SYNC    ENTRY              the same; only from here may this side ask for the next term
    OVER       -                  nothing more is taken: the guest ended, this side failed, or goes live

Two halves. The *receiving* half (`receive`, `tick`) never waits for the guest: in a process it runs in its own thread,
so that an entry is acknowledged while an earlier one is executed. The *execution* half (`execute`) runs the machine.
Both take `lock`; it is never held while an epoch runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum

from ftvm.disk.errors import DiskFailure
from ftvm.gate import Gate
from ftvm.machine import FINAL, EpochEnd, Machine, Sections
from ftvm.pair.identity import Identity, Timing
from ftvm.pair.transfer import StateSink, TransferDisk
from logging_channel.endpoint import LISTENER, Link, Sent
from logging_channel.errors import ChannelError
from logging_channel.failure_detector import FailureDetector
from logging_channel.frame import Frame, FrameKind
from logging_channel.messages import (
    Goodbye,
    GoodbyeCode,
    Heartbeat,
    Refuse,
    StateBegin,
    StateChunk,
    StateEnd,
    Welcome,
    split_entry_body,
)
from logging_channel.receiver import Receiver, Verdict
from logging_channel.session import Admission, Session
from replay.entry import Entry, EntryFlag, EpochResult, decode_entry
from replay.errors import LogError

HELLO_EVERY_S = 0.1  # after a refusal
ANSWER_S = 2.0  # for the primary to answer a hello; each one has a session of its own, and only the last one counts
JOIN_TIMEOUT_MS = 5000.0
KEPT_RESULTS_MAX = 100_000
SHORT_EPOCH_S = 0.005  # after an epoch this short, news of its execution may wait ...
NEWS_WAITS_S = 0.005  # ... so long for the next entry's acknowledgement to carry it
PROGRESS_EVERY_S = 1.0


class BackupState(Enum):
    """How far this side is; see the table above."""

    DIALING = "dialing"
    ASKING = "asking"
    TAKING = "taking"
    RESTORING = "restoring"
    FOLLOWING = "following"
    IN_SYNC = "in sync"
    OVER = "over"


_EXECUTING = (BackupState.FOLLOWING, BackupState.IN_SYNC, BackupState.OVER)


class Backup:
    """One joiner, later one backup."""

    def __init__(
        self,
        identity: Identity,
        machine: Machine,
        disks: Sequence[TransferDisk],
        gate: Gate,
        send: Callable[[bytes, bytes], Sent],
        timing: Timing,
        clock: Callable[[], float],
        new_session: Callable[[], int],
        sync_disks: Callable[[], None],
    ) -> None:
        self.state = BackupState.DIALING
        self.lock = threading.RLock()
        self.term = 0
        self.end: EpochEnd | None = None
        self.goodbye: Goodbye | None = None
        self.refusal = ""
        self.failure = ""
        self.unfit = False  # another machine, image, engine or pair than the primary's: no use to ask again
        self.diverged = False  # from the primary, as either of the two has found
        self.primary = Heartbeat(0, 0, 0, 0, False)
        self.receiver = Receiver()
        self.recent: deque[tuple[Entry, EpochResult]] = deque()  # executed, perhaps not yet in the primary's recording
        self.on_work: Callable[[], None] = lambda: None
        self.on_change: Callable[[str], None] = lambda text: None
        self.before_overwriting: Callable[[], None] = lambda: None  # the disks are still as they were
        self.keep_recent = False
        self.on_executed: Callable[[bytes, EpochResult], None] = lambda data, result: None  # between two epochs
        self.admission = Admission(Session(identity.pair, 0, 0))
        self._identity = identity
        self._machine = machine
        self._disks = disks
        self._gate = gate
        self._send = send
        self._timing = timing
        self._clock = clock
        self._new_session = new_session
        self._sync_disks = sync_disks
        self._connected = False
        self._hello_at = 0.0
        self._told_at = 0.0
        self._sink: StateSink | None = None
        self._sections: Sections | None = None
        self._detector: FailureDetector | None = None
        self._epoch_s = 0.0  # how long the latest epoch took
        self._acked_at = 0.0  # when, and what, the latest ack told
        self._told_executed = self._told_durable = 0
        machine.emit = gate.offer

    # -- receiving half -----------------------------------------------------------------------------------------

    def receive(self, arrival: bytes | Link, now: float) -> None:
        """A message, or news of the connection."""
        with self.lock:
            if isinstance(arrival, Link):
                self._connection(arrival, now)
                return
            frame = self.admission.admit(arrival)
            if frame is None or self.state is BackupState.OVER:
                return
            if self._detector is not None:
                self._detector.heard(now)
            try:
                self._from_primary(frame, now)
            except (ChannelError, LogError) as error:
                self._fail(f"the primary broke the protocol: {error}")
            except DiskFailure as error:
                self._fail(str(error))

    def tick(self, now: float) -> None:
        """Hello, heartbeats; call at least as often as heartbeats are due."""
        with self.lock:
            if self.state is BackupState.OVER:
                return
            if self._connected and self._detector is None and now >= self._hello_at:
                self._hello(now)
            if self._detector is not None and self._detector.due(now):
                beat = Heartbeat(self.receiver.executed, self._machine.clock, 0, 0, self.receiver.waiting > 0)
                self._emit(FrameKind.HEARTBEAT, beat.encode())
                self._detector.sent(now)
            self._acknowledge(now)

    def acknowledge(self, now: float) -> None:
        """Send what the primary does not know yet, if anything."""
        with self.lock:
            self._acknowledge(now)

    def report(self) -> bool:
        """The same, except that the mere execution of short epochs waits for company; True when it does.

        Half of all acknowledgements go that way when entries are many, and they cost both sides the same.
        """
        with self.lock:
            now, receiver = self._clock(), self.receiver
            patient = self._epoch_s < SHORT_EPOCH_S and receiver.durable == self._told_durable and self.end is None
            if patient and now - self._acked_at < NEWS_WAITS_S:
                return receiver.executed > self._told_executed
            self._acknowledge(now)
            return False

    def suspect(self, now: float) -> str | None:
        """Why the primary is suspected to be gone, None while it is not."""
        with self.lock:
            if self.state is BackupState.OVER or self._detector is None:
                return None
            return self._detector.suspect(now)

    # -- execution half -----------------------------------------------------------------------------------------

    def execute(self, now: float) -> bool:
        """Run one acknowledged entry, or restore the snapshot; False when there is nothing to do."""
        with self.lock:
            sections, taken = self._sections, None
            if sections is None and self.state in _EXECUTING and not self.failure:
                taken = self.receiver.take()
        if sections is not None:
            self._restore(sections)
            return True
        if taken is None:
            return False
        self._run(*taken)
        return True

    def _run(self, sequence: int, data: bytes) -> None:
        try:
            entry = decode_entry(data)
            if entry.sequence != sequence:
                raise ValueError(f"the frame of entry {sequence} carries entry {entry.sequence}")
            began = self._clock()
            result = self._machine.run(entry)
            self._epoch_s = self._clock() - began
            self.on_executed(data, result)
        except (ValueError, LogError) as error:  # the entry fits the primary's machine, or no machine
            self.acknowledge(self._clock())  # with the digest that shows it
            self.fail(f"this side cannot run entry {sequence}, so the two have diverged: {error}")
            self.leave(self.failure, GoodbyeCode.DIVERGED)
            return
        with self.lock:
            self._gate.rule.forget(self.receiver.released)
            self.receiver.done(sequence, result.digest)
            if self.keep_recent:
                self._keep(entry, result)
            if result.reason in FINAL:
                self.end = EpochEnd(result.reason)

    def _keep(self, entry: Entry, result: EpochResult) -> None:
        recent = self.recent
        recent.append((entry, result))
        while recent and (recent[0][0].sequence <= self.primary.recorded or len(recent) > KEPT_RESULTS_MAX):
            recent.popleft()

    def _restore(self, sections: Sections) -> None:
        try:
            self._machine.restore_state(sections)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            with self.lock:
                self._sections = None
                self._fail(f"the state that the primary sent cannot be taken over: {error!r}")
            return
        self._sync_disks()
        with self.lock:
            self._sections = None
            if self.state is BackupState.RESTORING:
                self.receiver.digest = self._machine.digest()
                self.receiver.synced(self.receiver.executed)
                self.receiver.resume()
                self.state = BackupState.FOLLOWING
                self.on_change(f"state taken over at entry {self.receiver.executed}")

    def durable(self, sequence: int) -> None:
        """This side's disks are synced up to `sequence`."""
        with self.lock:
            if sequence > self.receiver.durable:
                self.receiver.synced(min(sequence, self.receiver.executed))

    # -- going live ---------------------------------------------------------------------------------------------

    def stop_acknowledging(self) -> int:
        """Stop acking for good; returns the last sequence that must still be executed."""
        with self.lock:
            self.state = BackupState.OVER
            self._gate.rule.forget(self.receiver.released)
            return self.receiver.stop()

    def fail(self, text: str) -> None:
        """This side cannot go on: it will never go live, and executes nothing more."""
        with self.lock:
            self._fail(text)

    def leave(self, text: str, code: GoodbyeCode = GoodbyeCode.LEAVING) -> None:
        """Tell the primary that this side gives up, and take nothing more."""
        with self.lock:
            self.diverged |= code is GoodbyeCode.DIVERGED
            self._emit(FrameKind.GOODBYE, Goodbye(int(code), text).encode())
            self.state = BackupState.OVER
            self.receiver.stop()

    # -- inside -------------------------------------------------------------------------------------------------

    def _connection(self, news: Link, now: float) -> None:
        self._connected = news is Link.CONNECTED
        if self._connected:
            if self.state is BackupState.DIALING:
                self._hello(now)
        elif self._detector is not None:
            self._detector.disconnected(now)
            self.on_work()
        elif self.state is not BackupState.OVER:
            self._redial(now)

    def _hello(self, now: float) -> None:
        self._hello_at = now + ANSWER_S
        session = Session(self._identity.pair, 0, self._new_session())
        self.admission.session = session
        hello = self._identity.hello(0, 0, 0)
        self._send(LISTENER, session.encode(FrameKind.HELLO, 0, hello.encode()))
        self.state = BackupState.ASKING

    def _redial(self, now: float) -> None:
        self.state = BackupState.DIALING
        self._hello_at = now

    def _from_primary(self, frame: Frame, now: float) -> None:
        kind = frame.kind
        if kind is FrameKind.ENTRY:
            self._entry(frame, now)
        elif kind is FrameKind.HEARTBEAT:
            self.primary = Heartbeat.decode(frame.body)
            if self._detector is None:
                raise ChannelError("a heartbeat came before the welcome")
            self._detector.progressed(now, self.primary.sequence, self.primary.work_pending)
            if self.primary.released > self.receiver.released:
                self.receiver.released = self.primary.released
        elif kind is FrameKind.GOODBYE:
            self.goodbye = Goodbye.decode(frame.body)
            self.diverged |= self.goodbye.code == GoodbyeCode.DIVERGED
            self.on_work()
        elif kind is FrameKind.WELCOME and self.state is BackupState.ASKING:
            self._welcome(Welcome.decode(frame.body), now)
        elif kind is FrameKind.REFUSE and self.state is BackupState.ASKING:
            self._refused(Refuse.decode(frame.body), now)
        elif self.state is BackupState.TAKING:
            self._state(frame)

    def _welcome(self, welcome: Welcome, now: float) -> None:
        self.term = welcome.term
        self.refusal = ""
        self.admission.session = Session(self._identity.pair, welcome.term, welcome.session)
        self._detector = FailureDetector(JOIN_TIMEOUT_MS, self._timing.heartbeat_ms, now)
        self.state = BackupState.TAKING
        self._told_at = now
        self.on_change(f"joining in term {welcome.term}")

    def _refused(self, refusal: Refuse, now: float) -> None:
        if refusal.final:
            self.unfit = True
            self._fail(f"refused by the primary: {refusal.reason}")
            return
        self.state = BackupState.DIALING
        self._hello_at = now + HELLO_EVERY_S
        if refusal.reason != self.refusal:
            self.refusal = refusal.reason
            self.on_change(f"refused: {refusal.reason}")

    def _state(self, frame: Frame) -> None:
        if frame.kind is FrameKind.STATE_BEGIN:
            self.before_overwriting()
            self._sink = StateSink(StateBegin.decode(frame.body), self._disks, self._machine)
            self._emit(FrameKind.STATE_CREDIT, self._sink.first_credit().encode())
        elif self._sink is None:
            raise ChannelError("a piece of a checkpoint came before its beginning")
        elif frame.kind is FrameKind.STATE_CHUNK:
            credit = self._sink.chunk(StateChunk.decode(frame.body))
            self._tell_progress(self._sink)
            if credit is not None:
                self._emit(FrameKind.STATE_CREDIT, credit.encode())
        elif frame.kind is FrameKind.STATE_END:
            self._sections = self._sink.end(StateEnd.decode(frame.body))
            self._sink = None
            self.receiver = Receiver(frame.sequence)
            self.state = BackupState.RESTORING
            self.on_work()

    def _tell_progress(self, sink: StateSink) -> None:
        """A line a second while a large state comes in."""
        now = self._clock()
        if now >= self._told_at + PROGRESS_EVERY_S:
            self._told_at = now
            self.on_change(f"taking the state over: {sink.received_bytes >> 20} MiB so far")

    def _entry(self, frame: Frame, now: float) -> None:
        released, data = split_entry_body(frame.body)
        verdict = self.receiver.accept(frame.sequence, released, data)
        if self.state is not BackupState.RESTORING:
            self._acknowledge(now)
        awaited = verdict is Verdict.NEW and self.state is not BackupState.IN_SYNC
        if awaited and decode_entry(data).flags & EntryFlag.PROTECTED:
            self._in_sync(frame.sequence, now)
        self.on_work()

    def _in_sync(self, sequence: int, now: float) -> None:
        self.state = BackupState.IN_SYNC
        self._detector = FailureDetector(self._timing.timeout_ms, self._timing.heartbeat_ms, now)
        self.on_change(f"in sync from entry {sequence} on, term {self.term}")

    def _acknowledge(self, now: float) -> None:
        if self.state not in (BackupState.FOLLOWING, BackupState.IN_SYNC):
            return
        ack = self.receiver.ack()
        if ack is not None:
            self._emit(FrameKind.ACK, ack.encode(), ack.received)
            self._acked_at, self._told_executed, self._told_durable = now, ack.executed, ack.durable
            if self._detector is not None:
                self._detector.sent(now)

    def _fail(self, text: str) -> None:
        self.failure = text
        self.state = BackupState.OVER
        self.on_work()

    def _emit(self, kind: FrameKind, body: bytes, sequence: int = 0) -> Sent:
        return self._send(LISTENER, self.admission.session.encode(kind, sequence, body))
