# SPDX-License-Identifier: GPL-2.0-or-later
"""One member of a pair, whatever its role: the steps between joining, following, and being live.

    JOINING --in sync--> BACKUP --suspicion, arbiter grants--> PRIMARY --guest ends--> STOPPED
       |                    |                                     |
       |                    +--arbiter refuses--> FENCED <--------+
       +--loses the primary before it is in sync--> STOPPED (a new joiner may be started)

`step(now)` does what can be done now and returns how long there is nothing to do. It opens no socket and reads no
clock: endpoints, arbiter, world, disks and time are given, so the same code runs in a process (`side.py`), in tests
that crash it at every point, and in the seeded simulation. A backup's receiving half may run in a thread of its own.

Order when going live (design, protocol step 5): stop acknowledging for good, execute all that was ever acknowledged and
no more, win the term, write down that this side took over, open the gate, adopt the clients, open the services.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ftvm.arbiter.arbiter import Arbiter, ArbiterUnavailable
from ftvm.gate import Gate
from ftvm.live import Live, Sink
from ftvm.machine import Machine
from ftvm.pace import Pace
from ftvm.pair.backup import NEWS_WAITS_S, Backup, BackupState
from ftvm.pair.identity import Identity, Timing
from ftvm.pair.link import BackupLink, LinkState
from ftvm.pair.ram_feed import Feed
from ftvm.pair.transfer import PageFeed, TransferDisk
from ftvm.recording import NOTHING_LACKS
from ftvm.world.world import World
from logging_channel.endpoint import Endpoint, Link, Sent
from logging_channel.messages import GoodbyeCode
from logging_channel.output_rule import OutputMode
from logging_channel.window import Limits
from replay.entry import Entry, EpochResult
from replay.errors import LogError

DIVERGENCE = "divergence"  # how an alarm of it begins
ASK_AGAIN_S = 0.05
FAREWELL_S = 2.0
NOTE_AGAIN_S = 1.0


class Role(Enum):
    """What a member is, as an operator sees it."""

    JOINING = "joining"
    BACKUP = "backup"
    PRIMARY = "primary"
    FENCED = "fenced"
    STOPPED = "stopped"


class Ledger(Protocol):
    """What a member durably notes beside its disks. Every method may raise OSError."""

    def joining(self) -> None:
        """The disks are about to be overwritten by a primary's."""

    def in_sync(self, term: int, sequence: int) -> None:
        """The disks follow the primary's of this term."""

    def took_over(self, term: int, sequence: int) -> None:
        """This side is live in `term`, and its disks hold all that was ever acknowledged."""

    def ended(self, sequence: int) -> None:
        """The guest has ended; the disks are complete."""


class NoLedger:
    """Nothing to note: a machine without disks."""

    def joining(self) -> None: ...

    def in_sync(self, term: int, sequence: int) -> None: ...

    def took_over(self, term: int, sequence: int) -> None: ...

    def ended(self, sequence: int) -> None: ...


class Recording(Sink, Protocol):
    """A recording that survives failovers: `catch_up` adds what the dead primary had not written."""

    def catch_up(self, recent: Sequence[tuple[Entry, EpochResult]]) -> None: ...

    def flush(self) -> None: ...

    @property
    def recorded(self) -> int: ...


@dataclass(slots=True)
class Parts:
    """What a member is made of."""

    identity: Identity
    timing: Timing
    machine: Machine
    disks: Sequence[TransferDisk]
    world: World
    arbiter: Arbiter
    clock: Callable[[], float]
    new_session: Callable[[], int]
    listen: Callable[[], Endpoint | None]  # None: the address is not free yet, ask again later
    durable: Callable[[int], int]  # executed sequence -> sequence up to which the own disks are synced
    sync: Callable[[], None]  # sync all disks now
    ledger: Ledger = field(default_factory=NoLedger)
    open_recording: Callable[[], Recording] | None = None
    limits: Limits | None = None
    feed: Callable[[], PageFeed] = Feed  # of RAM, for a joiner
    pace: Callable[[], Pace] = Pace
    say: Callable[[str], None] = lambda text: None
    alarm: Callable[[str], None] = lambda text: None  # to be kept until an operator has seen it
    open_at_once: bool = True  # open the services before a backup is in sync


class Member:
    """One side of a pair."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.role = Role.STOPPED
        self.term = 0
        self.why = ""
        self.live: Live | None = None
        self.link: BackupLink | None = None
        self.backup: Backup | None = None
        self.listener: Endpoint | None = None
        self.dialer: Endpoint | None = None
        self.gate = Gate(parts.world, parts.clock, self._durable, OutputMode.SHADOW)
        self.threaded = False  # the backup's receiving half runs in a thread
        self.alarms: list[str] = []
        self._recording: Recording | None = None
        self._listen_at = 0.0
        self._ask_at = 0.0
        self._suspicion = ""
        self._arbiter_trouble = ""
        self._note_trouble = ""
        self._unnoted: float | None = None  # when to try again to note that this side went on alone
        self._stop_asked = False
        self._farewell: float | None = None
        self._opened = False
        self.finished = False  # the guest ended in order

    # -- beginnings ---------------------------------------------------------------------------------------------

    def start_primary(self, term: int) -> None:
        """Be live in `term`, which the arbiter has granted to this side."""
        self.term = term
        self.parts.ledger.took_over(term, self.parts.machine.sequence)
        self._become_live(self.parts.clock())

    def start_joining(self, dialer: Endpoint) -> Backup:
        """Follow the primary that `dialer` reaches."""
        parts = self.parts
        self.dialer = dialer
        self.role = Role.JOINING
        self.backup = Backup(
            parts.identity,
            parts.machine,
            parts.disks,
            self.gate,
            dialer.send,
            parts.timing,
            parts.clock,
            parts.new_session,
            parts.sync,
        )
        self.backup.on_change = parts.say
        self.backup.before_overwriting = parts.ledger.joining
        self.backup.keep_recent = parts.open_recording is not None
        return self.backup

    # -- the loop -----------------------------------------------------------------------------------------------

    def step(self, now: float) -> float:
        """Do what can be done; returns seconds that the caller may wait for something to arrive."""
        if self.role is Role.PRIMARY:
            return self._step_primary(now)
        if self.role in (Role.JOINING, Role.BACKUP):
            return self._step_backup(now)
        return ASK_AGAIN_S

    @property
    def over(self) -> bool:
        """Whether this member has nothing more to do."""
        return self.role in (Role.STOPPED, Role.FENCED)

    @property
    def executed(self) -> int:
        """Last sequence run by this side."""
        return self.parts.machine.sequence

    def leave(self, why: str) -> None:
        """This side takes no further part."""
        if not self.over:
            self._stop(Role.STOPPED, why)

    def stop(self) -> None:
        """End the guest in order: only the primary can, a backup hears of it through the log."""
        if self.live is not None and self.role is Role.PRIMARY:
            self._stop_asked = True
            self.live.stop()

    @property
    def superseded(self) -> bool:
        """Whether another side may be live by now: what this one has not written yet must stay unwritten."""
        lost = self.link is not None and self.link.state is LinkState.LOST
        return self.role is Role.FENCED or (lost and not self.finished)

    # -- primary ------------------------------------------------------------------------------------------------

    def _step_primary(self, now: float) -> float:
        assert self.live is not None and self.link is not None
        self._drain_listener(now)
        self.link.tick(now)
        self._tell_divergence(self.link)
        if self.link.state is LinkState.LOST and not self._ended_on_both() and not self._go_on_alone(now):
            return ASK_AGAIN_S
        if self._unnoted is not None and now >= self._unnoted:
            self._note_alone(now)
        if self._recording is not None:
            self.link.recorded = self._recording.recorded
        wait = self.live.step(now)
        if not self._opened and (self.link.in_sync or self.parts.open_at_once):
            self._open()
        if self.live.end is not None:
            return self._finish(now)
        return 0.0 if self.link.more_to_send else min(wait, self.parts.timing.heartbeat_ms / 2e3)

    def _tell_divergence(self, link: BackupLink) -> None:
        """Whatever the arbiter will say, and whether or not the backup was in sync: the operator must know."""
        if link.diverged:
            self.alarm(f"{DIVERGENCE}: {link.diverged}")
            link.diverged = ""

    def _drain_listener(self, now: float) -> None:
        assert self.link is not None
        if self.listener is None:
            if now < self._listen_at:
                return
            self._listen_at = now + ASK_AGAIN_S
            self.listener = self.parts.listen()
            if self.listener is None:
                return
            self.gate.listen(self._pump)
        self._pump()

    def _pump(self) -> None:
        """Take in what has arrived from the backup; also called when an output waits."""
        link, listener = self.link, self.listener
        if link is None or listener is None:
            return
        now = -1.0
        while (arrival := listener.receive()) is not None:
            if now < 0:
                now = self.parts.clock()
            peer, message = arrival
            if message is Link.DISCONNECTED:
                link.disconnected(peer, now)
            elif isinstance(message, bytes):
                link.receive(peer, message, now)
        link.pump_acks()

    def _ended_on_both(self) -> bool:
        """Whether a lost backup holds the guest's last entry: then it has left for that, and nobody needs a term."""
        assert self.live is not None and self.link is not None
        return self.live.end is not None and self.link.acknowledged >= self.executed

    def _go_on_alone(self, now: float) -> bool:
        """The backup is gone: ask for the next term. False while nothing may leave."""
        assert self.link is not None
        if now < self._ask_at:
            return False
        grant = self._ask(now, self.term + 1)
        if grant is None and self._stop_asked:
            self._stop(Role.STOPPED, "stopped without its backup and without the arbiter: another side may be live")
        if not grant:
            return False
        self.term += 1
        self._note_alone(now)
        self.link.alone(self.term)
        self.parts.say(f"live alone in term {self.term}")
        return True

    def _note_alone(self, now: float) -> None:
        """A cold start chooses this side without it, too: it took over the last term that anybody took over."""
        ledger = self.parts.ledger
        noted = self._noted(lambda: ledger.took_over(self.term, self.executed), "this side goes on all the same")
        self._unnoted = None if noted else now + NOTE_AGAIN_S

    def _noted(self, write: Callable[[], None], meanwhile: str) -> bool:
        """Write a note beside the images; False, and an alarm, when that fails (a full disk)."""
        try:
            write()
        except OSError as error:
            trouble = f"the note beside this side's images cannot be written, {meanwhile}: {error}"
            if trouble != self._note_trouble:
                self._note_trouble = trouble
                self.alarm(trouble)
            return False
        if self._note_trouble:
            self._note_trouble = ""
            self.parts.say("the note beside this side's images is written")
        return True

    def _ask(self, now: float, term: int) -> bool | None:
        """Win `term`: True; lost it: False, and this side is fenced; None: ask again later."""
        me = self.parts.identity.member
        try:
            grant = self.parts.arbiter.acquire(term, me, (me,))
        except ArbiterUnavailable as error:
            self._ask_at = now + ASK_AGAIN_S
            if str(error) != self._arbiter_trouble:
                self._arbiter_trouble = str(error)
                self.parts.say(f"waiting for the arbiter: {error}")
            return None
        self._arbiter_trouble = ""
        if grant.winner != me:
            self._stop(Role.FENCED, f"term {term} was granted to member {grant.winner}")
            return False
        return True

    def _open(self) -> None:
        self._opened = True
        self.parts.world.open()

    def _finish(self, now: float) -> float:
        """The guest has ended: let the backup see it, then say goodbye."""
        assert self.live is not None and self.live.end is not None and self.link is not None
        if self._farewell is None:
            self._farewell = now + FAREWELL_S
        self.gate.flush()
        self._tell_divergence(self.link)
        if now < self._farewell and not (self.link.everything_executed() and self.gate.rule.held == 0):
            return 0.001
        self.link.goodbye(GoodbyeCode.POWER_OFF, self.live.end.name.lower())
        self._note_end()
        self._stop(Role.STOPPED, f"the guest ended: {self.live.end.name.lower()}")
        return 0.0

    # -- backup -------------------------------------------------------------------------------------------------

    def _step_backup(self, now: float) -> float:
        backup = self.backup
        assert backup is not None
        if not self.threaded:
            self.drain_dialer(now)
            backup.tick(now)
        if self._suspicion:
            return self._go_live(now)
        if self.role is Role.JOINING and backup.state is BackupState.IN_SYNC:
            self._reached_sync()  # a busy backup may have work without a break
        worked = backup.execute(now)
        backup.durable(self._durable())
        news_waits = backup.report()
        if worked:
            return 0.0
        if backup.end is not None or backup.goodbye is not None or backup.failure:
            return self._backup_ends()
        if (why := backup.suspect(now)) is not None:
            return self._suspect(why, now)
        return NEWS_WAITS_S if news_waits else self.parts.timing.heartbeat_ms / 2e3

    def drain_dialer(self, now: float) -> None:
        """Take in what has arrived from the primary; the receiving thread's work where there is one."""
        dialer, backup = self.dialer, self.backup
        if dialer is None or backup is None:  # gone live meanwhile
            return
        while (arrival := dialer.receive()) is not None:
            backup.receive(arrival[1], now)

    def _report_progress(self, now: float) -> None:
        """Tell the primary what was executed, and what has become durable since: an output may wait for either."""
        assert self.backup is not None
        self.backup.durable(self._durable())
        self.backup.acknowledge(now)

    def _reached_sync(self) -> None:
        assert self.backup is not None
        self.role = Role.BACKUP
        self.term = self.backup.term
        self._noted(lambda: self.parts.ledger.in_sync(self.term, self.executed), "this side follows all the same")

    def _backup_ends(self) -> float:
        """The guest has ended, or the primary has sent this side away."""
        backup = self.backup
        assert backup is not None
        if backup.end is not None:
            self._report_progress(self.parts.clock())
            self.parts.sync()
            self._report_progress(self.parts.clock())
            self._note_end()
            self._stop(Role.STOPPED, f"the guest ended: {backup.end.name.lower()}")
        elif backup.failure:
            self._stop(Role.STOPPED, backup.failure)
        else:
            assert backup.goodbye is not None
            self._stop(Role.STOPPED, f"the primary said goodbye: {backup.goodbye.text}")
        return 0.0

    def _suspect(self, why: str, now: float) -> float:
        assert self.backup is not None
        if self.role is not Role.BACKUP:
            self._stop(Role.STOPPED, f"lost the primary before this side was in sync: {why}")
            return 0.0
        self.parts.say(f"suspecting the primary: {why}")
        self._suspicion = why
        self.backup.stop_acknowledging()
        return self._go_live(now)

    def _go_live(self, now: float) -> float:
        backup = self.backup
        assert backup is not None
        while backup.execute(now):
            pass
        if backup.end is not None or backup.failure:
            return self._backup_ends()
        if now < self._ask_at:
            return self._ask_at - now
        term = self.term + 1
        if not self._ask(now, term):
            return ASK_AGAIN_S
        # Without it a cold start would choose the images of the primary that died, and lose what leaves from here on.
        if not self._noted(lambda: self.parts.ledger.took_over(term, self.executed), "nothing leaves this side before"):
            self._ask_at = now + ASK_AGAIN_S
            return ASK_AGAIN_S
        self.term = term
        self._become_live(now)
        self.parts.say(f"live in term {self.term} from entry {self.executed + 1} on ({self._suspicion})")
        return 0.0

    # -- both ---------------------------------------------------------------------------------------------------

    def _become_live(self, now: float) -> None:
        parts = self.parts
        machine = parts.machine
        self.live = Live(machine, parts.world, self.gate, parts.clock, parts.pace())
        self.link = BackupLink(
            parts.identity,
            self.term,
            machine,
            parts.disks,
            self.gate,
            self._send_to_backup,
            parts.timing,
            parts.clock,
            parts.limits,
            parts.feed,
        )
        self.link.on_change = parts.say
        self.live.link = self.link
        self._record()
        self.gate.alone()
        if machine.journal is not None:
            parts.world.adopt(machine.journal.next_number, machine.journal.open_connections)
        went_over = self.backup is not None
        self.role = Role.PRIMARY
        self.backup = None
        if parts.open_at_once or went_over:
            self._open()

    def _record(self) -> None:
        """Begin the recording, or go on with that of the primary before; without one, go on all the same."""
        if self.parts.open_recording is None:
            return
        assert self.live is not None and self.link is not None
        try:
            self._recording = self.parts.open_recording()
        except LogError as error:
            if self.backup is None:
                raise
            self.alarm(f"the recording does not go on: {error}")
            self.link.recorded = NOTHING_LACKS
            return
        if self.backup is not None:
            self._recording.catch_up(self.backup.recent)
        self.live.recorder = self._recording
        self.link.before_snapshot = self._recording.flush

    def _note_end(self) -> None:
        """The guest has ended, and the images are complete; unnoted they are those of a side that was killed."""
        self.parts.sync()
        self._noted(lambda: self.parts.ledger.ended(self.executed), "the images are complete all the same")
        self.finished = True

    def _send_to_backup(self, peer: bytes, data: bytes) -> Sent:
        assert self.listener is not None
        return self.listener.send(peer, data)

    def _durable(self) -> int:
        """The last entry up to which the own disks are synced; an entry that is being run does not count yet."""
        if self.live is not None:
            return self.parts.durable(self.live.executed)
        return self.parts.durable(self.backup.receiver.executed) if self.backup is not None else 0

    def alarm(self, text: str) -> None:
        """Something that an operator must see."""
        self.alarms.append(text)
        self.parts.alarm(text)
        self.parts.say(f"ALARM: {text}")

    def _stop(self, role: Role, why: str) -> None:
        self.role, self.why = role, why
        self.parts.say(why)
        self.parts.world.close()
