# SPDX-License-Identifier: GPL-2.0-or-later
"""One side's process in the simulation: a real `Member` with a simulated world, network, disk, arbiter and clock.

It does what `ftvm.pair.side` does around a member. Wherever the member touches something outside itself, `point` is
called: there a process can be killed (`Killed` unwinds it) or stopped (the rest of the world goes on meanwhile), so
crashes and pauses hit between any two effects, not only between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from devices.event import Output
from ftvm.arbiter.arbiter import ArbiterUnavailable, Grant
from ftvm.disk.errors import DiskFailure
from ftvm.disk.metadata import ImageMetadata, ImageState
from ftvm.machine import Machine
from ftvm.pace import Pace
from ftvm.pair.backup import Backup
from ftvm.pair.identity import Identity
from ftvm.pair.link import LinkState
from ftvm.pair.member import Member, Parts, Role
from logging_channel.endpoint import Endpoint
from logging_channel.errors import ChannelError
from replay.errors import LogError
from tests.sim.disk import SideDisk
from tests.sim.wire import TappedEnd
from tests.sim.world import SideWorld

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster, Side

STEP_S: Final = (0.00001, 0.00004)
HICCUP_CHANCE: Final = 0.01
HICCUP_S: Final = 0.003
RESPAWN_S: Final = (0.02, 0.15)

BUDGET_MAX = 131_072  # an epoch takes no simulated time, so budgets would grow without end; a real guest may hang


class Killed(BaseException):
    """SIGKILL has hit: nothing of this process runs any more."""


class Process:
    """One life of one side."""

    def __init__(self, cluster: Cluster, side: Side, number: int) -> None:
        self.cluster = cluster
        self.side = side
        self.name = f"{side.name}#{number}"
        self.dead = False
        self.over = False  # it has ended, in order or not
        self.stopped_until = 0.0  # SIGSTOP
        self.due = cluster.now
        self.receiver_due = cluster.now
        self.born_term = cluster.arbiter.highest
        self.points = 0
        self.at_point: Callable[[], None] | None = None  # what happens when `points_left` has been counted down
        self.points_left = 0
        self.threaded = False
        self.told_acks = 0  # highest `received` in an ack that this process has given
        self.busy = False
        self.receiver_busy = False
        self.disk = SideDisk(side.storage, self._disk_works)
        self.world = SideWorld(self)
        self.machine = cluster.new_machine(self)
        self.member = Member(self._parts())
        self.begin: Callable[[], None] | None = None
        self._end: TappedEnd | None = None
        self._backup: Backup | None = None
        self._ready_at = 0.0
        self._disk_planned = False

    def _parts(self) -> Parts:
        cluster = self.cluster
        return Parts(
            identity=Identity("sim", self.side.name, "00", (), "toy"),
            timing=cluster.timing,
            machine=cast(Machine, self.machine),
            disks=[self.disk],
            world=self.world,
            arbiter=_Arbiter(self),
            clock=lambda: cluster.now,
            pace=lambda: Pace(budget_max=BUDGET_MAX),
            new_session=lambda: cluster.random.getrandbits(60) | 1,
            listen=self._listen,
            durable=self.disk.durable,
            sync=self.disk.sync,
            ledger=_Ledger(self),
            limits=cluster.limits,
            say=self.say,
        )

    # -- beginnings ---------------------------------------------------------------------------------------------

    def start_primary(self) -> None:
        """As `ftvm primary` does."""
        grant = _Arbiter(self).acquire(self.cluster.arbiter.highest + 1, self.side.name, (self.side.name,))
        assert grant.winner == self.side.name, grant
        self.member.start_primary(grant.term)

    def start_joining(self, address: str, threaded: bool) -> None:
        """As `ftvm backup --join` does."""
        dialer = self.cluster.network.dial(address, self.side.name)
        self._end = TappedEnd(dialer, self)
        self._backup = self.member.start_joining(self._end)
        self.threaded = self.member.threaded = threaded
        self._backup.on_work = self._wake

    def _listen(self) -> Endpoint | None:
        try:
            listener = self.cluster.network.listen(self.side.address, self.side.name)
        except ChannelError:
            return None
        return TappedEnd(listener, self)

    # -- running ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it has a turn when it is due."""
        return not (self.dead or self.over or self.stopped_until > self.cluster.now)

    def next_at(self) -> float | None:
        """When it wants to do something."""
        if self.dead or self.over:
            return None
        due: float | None = None
        if not self.busy:
            due = min(self.due, self.cluster.now) if self._called() else self.due
        if self.receives and not self.receiver_busy:
            mine = min(self.receiver_due, self.cluster.now) if self._arrived() else self.receiver_due
            due = mine if due is None else min(due, mine)
        return None if due is None else max(due, self.stopped_until, self._ready_at)

    @property
    def receives(self) -> bool:
        """Whether it has a receiving thread."""
        return self.threaded and self._backup is not None and self.member.backup is self._backup

    def _arrived(self) -> bool:
        return self._end is not None and self._end.has_arrival

    def _called(self) -> bool:
        member = self.member
        if member.role is Role.PRIMARY:
            listener = cast("TappedEnd | None", member.listener)
            return self.world.news or (listener is not None and listener.has_arrival)
        return not self.receives and self._arrived()

    def turn(self) -> None:
        """Do what is due."""
        now = self.cluster.now
        if self.receives and not self.receiver_busy and (self.receiver_due <= now or self._arrived()):
            self.receiver_busy = True
            self._guarded(self._receive)
            self.receiver_busy = False
        elif not self.busy and (self.due <= now or self._called()):
            self.busy = True
            self._guarded(self._step)
            self.busy = False

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Killed:
            assert self.dead
        except (DiskFailure, LogError, ArbiterUnavailable) as error:
            self._give_up(str(error))

    def _step(self) -> None:
        chance = self.cluster.random
        if self.begin is not None:
            begin, self.begin = self.begin, None
            begin()
        wait = self.member.step(self.cluster.now)
        cost = chance.uniform(*STEP_S) + (HICCUP_S if chance.random() < HICCUP_CHANCE else 0.0)
        self.due = self.cluster.now + max(wait, cost)
        self.world.news = False
        self._ready_at = self.cluster.now + cost
        self.disk.check()
        self.cluster.checks.stepped(self)
        if self.member.over:
            self._exit()

    def _receive(self) -> None:
        member, backup = self.member, self._backup
        assert backup is not None
        with backup.lock:
            if member.backup is backup:
                member.drain_dialer(self.cluster.now)
                backup.tick(self.cluster.now)
        self._ready_at = self.cluster.now + STEP_S[0]
        self.receiver_due = self.cluster.now + self.cluster.timing.heartbeat_ms / 2e3

    def _give_up(self, text: str) -> None:
        try:
            if self.member.backup is not None:
                self.member.backup.leave(text)
            self.member.leave(text)
        except Killed:
            return
        self._exit()

    def _exit(self) -> None:
        """The process ends by itself."""
        self.over = True
        self.side.respawn_at = self.cluster.now + self.cluster.random.uniform(*RESPAWN_S)
        self.cluster.note(self.name, "exits", self.member.role.value, self.member.why)
        if self.member.finished:
            self.cluster.checks.finished(self)
        for end in (self.member.listener, self.member.dialer):
            if end is not None:
                end.close(linger_ms=200)
        self.world.close()
        self.disk.kill()

    def _wake(self) -> None:
        self.due = min(self.due, self.cluster.now)

    # -- what can happen to it ----------------------------------------------------------------------------------

    def point(self, what: str) -> None:
        """The member is about to touch the outside."""
        if self.dead:
            raise Killed
        self.points += 1
        if self.at_point is not None:
            self.points_left -= 1
            if self.points_left <= 0:
                action, self.at_point = self.at_point, None
                self.cluster.note(self.name, "is hit at", what)
                action()
                self.linger()

    def linger(self) -> None:
        """Wait here while this process is stopped; Killed when it dies meanwhile.

        Not on top of another process's step, which would wait as well: then the stop takes effect after this step.
        """
        if len(self.cluster.stack) <= 1 or self.dead:
            self.cluster.stay(self, self.stopped_until)

    def work(self, seconds: float) -> None:
        """The machine computes for so long."""
        seconds *= self.side.slowness * self.cluster.random.uniform(0.7, 1.3)
        self.cluster.stay(self, self.cluster.now + seconds)

    def kill(self, survive: int | None = None) -> None:
        """SIGKILL. Of what it has sent, so many messages still arrive; chance decides if that is None."""
        if self.dead or self.over:
            return
        self.dead = True
        self.side.respawn_at = self.cluster.now + self.cluster.random.uniform(*RESPAWN_S)
        self.cluster.note(self.name, "is killed")
        self.cluster.network.crash(self.side.name, survive)
        self.world.close()
        self.disk.kill()

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so many seconds."""
        if (self.busy or self.receiver_busy) and self.cluster.stack[0] is not self:
            self.cluster.after(0.0005, lambda: self.stop(seconds))  # else the one below it would stop as well
            return
        self.cluster.note(self.name, "is stopped for", f"{seconds * 1e3:.0f} ms")
        self.stopped_until = max(self.stopped_until, self.cluster.now + seconds)

    # -- what it does -------------------------------------------------------------------------------------------

    def released(self, sequence: int, index: int, output: Output) -> None:
        """An output leaves."""
        self.cluster.checks.released(self, sequence, index, output)

    def say(self, text: str) -> None:
        """A line for its operator."""
        self.cluster.note(self.name, "says:", text)
        if self.cluster.at_next_join is not None and text.startswith(self.cluster.ambush_at):
            action, self.cluster.at_next_join = self.cluster.at_next_join, None
            action()

    @property
    def protected(self) -> bool:
        """Whether it is live with a backup in sync."""
        link = self.member.link
        return self.member.role is Role.PRIMARY and link is not None and link.state is LinkState.PROTECTED

    def _disk_works(self) -> None:
        if not self._disk_planned:
            self._disk_planned = True
            self.cluster.after(self.cluster.random.uniform(*self.cluster.sync_s), self._work_disk)

    def _work_disk(self) -> None:
        self._disk_planned = False
        if self.dead or self.over:
            return
        self.disk.work()
        while self.disk.queued and not self.disk.sync_is_next and self.disk.work():
            pass
        self._wake()
        if self.disk.queued and not self.disk.failed:
            self._disk_works()


class _Arbiter:
    """The way from one process to the arbiter."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def latest(self) -> None:
        """Not asked by members."""
        raise NotImplementedError

    def acquire(self, term: int, winner: str, members: tuple[str, ...]) -> Grant:
        """See Arbiter."""
        process, cluster = self._process, self._process.cluster
        process.point(f"ask for term {term}")
        process.work(cluster.random.uniform(0.0002, cluster.setup.arbiter_s))
        grant = cluster.arbiter.acquire(term, winner, members)
        cluster.note(process.name, f"asks for term {term}:", f"granted to {grant.winner}")
        process.point(f"hear of term {term}")
        return grant


class _Ledger:
    """The note beside a side's disks: survives the process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def _note(self, state: ImageState, term: int, took_over: int, sequence: int) -> None:
        process = self._process
        process.point(f"note {state}")
        process.work(0.0005)
        process.side.note = ImageMetadata("sim", term, sequence, state, took_over)
        process.point(f"noted {state}")

    def joining(self) -> None:
        """See Ledger."""
        self._note(ImageState.JOINING, self._process.side.note.term, self._process.side.note.took_over, 0)

    def in_sync(self, term: int, sequence: int) -> None:
        """See Ledger."""
        self._note(ImageState.IN_SYNC, term, self._process.side.note.took_over, sequence)

    def took_over(self, term: int, sequence: int) -> None:
        """See Ledger."""
        self._note(ImageState.LIVE, term, term, sequence)
        self._process.cluster.checks.took_over(self._process, term)

    def ended(self, sequence: int) -> None:
        """See Ledger."""
        self._note(ImageState.CLEAN, self._process.side.note.term, self._process.side.note.took_over, sequence)
