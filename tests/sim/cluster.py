# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated hosts: one virtual time, two sides with their processes, a launcher, clients, and what binds them.

Time moves from one event to the next. A process whose machine computes stays on the stack and the others go on around
it (`stay` runs the world until its time has come), so entries overlap as they do on real cores. The launcher does what
`ftvm.pair.launcher` does: fences (unless the seed says that there is none), replaces what has ended, starts cold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ftvm.disk.choose import choose
from ftvm.disk.metadata import ImageMetadata
from ftvm.pair.identity import Timing
from ftvm.pair.member import Role
from logging_channel.memory import Conditions, Network
from logging_channel.window import Limits
from tests.sim.arbiter import SimArbiter
from tests.sim.checks import Checks
from tests.sim.client import SECTORS, Client, Tally
from tests.sim.disk import DISK_BYTES, CountingStorage
from tests.sim.history import History, Node, Spine, Violation
from tests.sim.process import Killed, Process
from tests.sim.real import TrackedMachine
from tests.sim.toy import ToyMachine
from tests.sim.world import SideWorld

LAUNCHER_S = 0.01
TRACE_MAX = 4000


@dataclass(frozen=True, slots=True)
class Setup:
    """What a seed chooses once."""

    conditions: Conditions = field(default_factory=Conditions)
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    guest: str = "toy"  # or the name of a bundled guest
    one_host: bool = True  # both sides listen at the same address
    fencing: bool = True
    threaded: bool = True
    clients: int = 3
    quota: int = 60
    script: tuple[int, ...] = ()  # kinds of each client's requests, instead of chance
    depth: int = 8
    deadly: float = 0.01
    pad: int = 0  # bytes of RAM that nobody writes to
    sync_s: tuple[float, float] = (0.0002, 0.004)
    slowness: tuple[float, float] = (1.0, 1.0)  # of either side's processor
    arbiter_s: float = 0.004
    chunks_at_once: int = 16
    few_pages: int = 2048  # that may be left for a snapshot
    busy: bool = False  # the guest computes most of the time


class Side:
    """What outlives a side's processes."""

    def __init__(self, cluster: Cluster, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.storage = CountingStorage(DISK_BYTES, cluster.random)
        self.note = ImageMetadata("sim")
        self.lives: list[Process] = []
        self.respawn_at = 0.0
        self.slowness = cluster.setup.slowness["ab".index(name)]
        self.other: Side = self

    @property
    def process(self) -> Process | None:
        """The living process."""
        life = self.lives[-1] if self.lives else None
        return None if life is None or life.dead or life.over else life


class Cluster:
    """Everything that is simulated."""

    def __init__(self, seed: int, setup: Setup) -> None:
        self.random = Random(seed)
        self.setup = setup
        self.now = 0.0
        self.network = Network(self.random, setup.conditions)
        self.arbiter = SimArbiter(self.random)
        self.timing, self.limits, self.sync_s = setup.timing, setup.limits, setup.sync_s
        self.history = History()
        self.boot = self.history.root
        self.checks = Checks(self)
        self.tally = Tally()
        self.planted = False
        self.peace = True  # nothing may go wrong
        self.ambush_at = ""  # words with which a joiner tells how far it is
        self.at_next_join: Callable[[], None] | None = None
        self.cold_starts = 0
        self.ending = False  # the guest is to end: nothing is replaced
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=TRACE_MAX)
        self.stack: list[Process] = []
        self.steps = 0
        addresses = ("pair", "pair") if setup.one_host else ("left", "right")
        self.sides = [Side(self, name, address) for name, address in zip("ab", addresses, strict=True)]
        self.sides[0].other, self.sides[1].other = self.sides[1], self.sides[0]
        self.clients_max = setup.clients
        self.clients = [Client(self, name, self.random) for name in range(setup.clients)]

    def new_machine(self, process: Process) -> ToyMachine | TrackedMachine:
        """A machine at power-on, with the process's disk."""

        def compute(seconds: float) -> None:
            self.checks.ran(process)
            process.work(seconds)

        if self.setup.guest != "toy":
            return TrackedMachine(self.setup.guest, process.disk, self.history, self.boot, compute)
        return ToyMachine(process.disk, self.history, self.boot, compute, self.setup.pad)

    def note(self, *what: Any) -> None:
        """Remember for the trace."""
        self.trace.append((self.now, *what))

    # -- time ---------------------------------------------------------------------------------------------------

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it later. The action must not stay on the stack."""
        self.network.at(self.now + seconds, action)

    def run_until(self, end: float) -> None:
        """Let the world go on until `end`."""
        while True:
            process, at = self._next()
            due = self.network.next_at()
            if due is not None and due <= at:
                at, process = due, None
            if at > end:
                break
            self._move(at)
            if process is not None:
                self._turn(process)
        self._move(end)

    def _next(self) -> tuple[Process | None, float]:
        found, at = None, 1e18
        for side in self.sides:
            for process in side.lives[-1:]:
                when = process.next_at()
                if when is not None and when < at:
                    found, at = process, when
        return found, at

    def _move(self, to: float) -> None:
        if to > self.now:
            self.now = to
        self.network.step(self.now)

    def _turn(self, process: Process) -> None:
        self.steps += 1
        self.stack.append(process)
        try:
            process.turn()
        finally:
            self.stack.pop()

    def stay(self, process: Process, until: float) -> None:
        """The process is busy or stopped: the others go on. Killed when it dies meanwhile."""
        while (target := max(until, process.stopped_until)) > self.now:
            self.run_until(target)
        if process.dead:
            raise Killed

    def wait(self, what: str, done: Callable[[], bool], limit: float) -> None:
        """Go on until `done`; Violation when that takes too long."""
        end = self.now + limit
        while not done():
            if self.now >= end:
                raise Violation(f"after {limit:g} s: {what}")
            self.run_until(self.now + 0.01)

    # -- launcher -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the pair for the first time."""
        self._spawn_primary(self.sides[0])
        self._launcher()
        if self.setup.busy:
            self._keep_busy()

    def _keep_busy(self) -> None:
        if not self.ending:
            self.type("b")
            self.after(0.05, self._keep_busy)

    def _launcher(self) -> None:
        self.after(LAUNCHER_S, self._launcher)
        if self.setup.fencing:
            self._fence()
        living = [side.process for side in self.sides if side.process is not None]
        if self.ending:
            return
        if not living:
            self._start_cold()
        elif all(process.member.role is Role.JOINING for process in living):
            for process in living:  # nobody is left whom they could join
                process.kill()
        else:
            self._replace()

    def _fence(self) -> None:
        for side in self.sides:
            process, latest = side.process, self.arbiter.highest
            if process is None or process.born_term >= latest:
                continue
            if self.arbiter.grants[latest].winner != side.name and process.member.role is not Role.JOINING:
                self.note("launcher", "fences", process.name)
                process.kill()
            process.born_term = latest

    def _replace(self) -> None:
        for side in self.sides:
            if side.process is not None or self.now < side.respawn_at:
                continue
            primary = side.other.process
            if primary is not None and primary.member.role is Role.PRIMARY and primary.member.listener is not None:
                self._spawn_joiner(side, primary)

    def _spawn_joiner(self, side: Side, primary: Process) -> None:
        life = Process(self, side, len(side.lives) + 1)
        side.lives.append(life)
        self.note("launcher", "starts", life.name, "to join", primary.name)
        self._begin(life, lambda: life.start_joining(primary.side.address, self.setup.threaded))

    def _start_cold(self) -> None:
        if max(side.respawn_at for side in self.sides) > self.now:
            return
        chosen = choose(self.arbiter.grants.values(), {side.name: side.note for side in self.sides}, "sim")
        side = next(side for side in self.sides if side.name == (chosen or "a"))
        self.cold_starts += 1
        self.boot = self.history.boot()
        self.checks.spine = _next_spine(self.checks.spine, self.boot)
        for other in self.sides:
            other.storage.rebase(0)
            other.storage.stable, other.storage.fail_at = 0, -1
            for life in other.lives:
                life.told_acks = 0
        self._judge_disk(side)
        for client in self.clients:
            client.lost_some()
        self._spawn_primary(side)

    def _judge_disk(self, side: Side) -> None:
        """What must be on the disk that a cold start has chosen: all that was flushed, perhaps more."""
        for sector in range(SECTORS * self.clients_max):
            content = side.storage.read(sector * 512, 512)
            where = f"side {side.name}'s disk after a cold start"
            self.tally.floor[sector] = self.tally.check(sector, content, self.tally.flushed.get(sector, 0), where)

    def _spawn_primary(self, side: Side) -> None:
        life = Process(self, side, len(side.lives) + 1)
        side.lives.append(life)
        self.note("launcher", "starts", life.name, "as primary")
        self._begin(life, life.start_primary)

    def _begin(self, life: Process, action: Callable[[], None]) -> None:
        """The process starts with its first turn: its beginnings may stay on the stack, too."""
        life.begin = action
        life.due = self.now + self.random.uniform(0.005, 0.03)

    # -- outside ------------------------------------------------------------------------------------------------

    def accepting(self, random: Random) -> SideWorld | None:
        """A world that takes a new client now."""
        living = [side.process for side in self.sides if side.process is not None]
        worlds = [process.world for process in living if process.world.accepting]
        return random.choice(worlds) if worlds else None

    @property
    def primary(self) -> Process | None:
        """The process that took over last, if it lives."""
        for side in self.sides:
            process = side.process
            if process is not None and process.name == self.checks.spine.owner and process.member.role is Role.PRIMARY:
                return process
        return None

    @property
    def protected(self) -> bool:
        """Whether the pair is whole."""
        primary = self.primary
        if primary is None or not primary.protected:
            return False
        backup = primary.side.other.process
        return backup is not None and backup.member.role is Role.BACKUP

    @property
    def calm(self) -> bool:
        """Whether nothing that was done to it goes on."""
        stopped = any(side.process is not None and side.process.stopped_until > self.now for side in self.sides)
        return not stopped and not self.network.partitions

    def type(self, text: str) -> None:
        """Somebody types at the console of every side that listens."""
        for side in self.sides:
            if side.process is not None:
                side.process.world.type(text.encode())


def _next_spine(old: Spine, boot: Node) -> Spine:
    spine = Spine(boot)
    spine.term, spine.owner = old.term, old.owner
    return spine
