# SPDX-License-Identifier: GPL-2.0-or-later
"""A block client that notices what is lost, doubled or torn.

It alone writes to its own sectors, each time a higher version; it reads everybody's. A request without a reply is sent
again on the next connection, as real clients do. What it checks at every reply:

    exactly one reply to each request of a connection
    a sector read is never older than what was acknowledged, or read by anybody, before the read was asked
    a sector read is never newer than what was ever asked to be written, and never torn
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from ftvm.disk.storage import SECTOR
from ftvm.service.nbd import FLUSH, FUA, READ, TRIM, VENDOR, WRITE
from tests.sim.history import Violation
from tests.sim.world import Asked, Connection

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

SECTORS: Final = 16  # of each client
SCRATCH: Final = 200  # sectors from here on hold nothing that is checked
RETRY_S: Final = 0.01
WIRE_S: Final = (0.00001, 0.0001)


class Tally:
    """What is known of every sector: the versions that count."""

    def __init__(self) -> None:
        self.issued: dict[int, int] = {}
        self.floor: dict[int, int] = {}  # acknowledged or seen
        self.flushed: dict[int, int] = {}  # acknowledged, and a flush after that was too

    def check(self, sector: int, content: bytes, floor: int, where: str) -> int:
        """The version in `content`; Violation when it may not be there."""
        head = content[:8]
        if content != head * (SECTOR // 8):
            raise Violation(f"{where}: sector {sector} is torn")
        version = int.from_bytes(head[:6], "big")
        if version and int.from_bytes(head[6:], "big") != sector:
            raise Violation(f"{where}: sector {sector} holds another sector's data")
        if version < floor:
            raise Violation(f"{where}: sector {sector} has version {version}, {floor} was acknowledged or seen before")
        if version > self.issued.get(sector, 0):
            raise Violation(f"{where}: sector {sector} has version {version}, which nobody wrote")
        return version

    def saw(self, sector: int, version: int) -> None:
        """Somebody has read or been acknowledged this version."""
        self.floor[sector] = max(version, self.floor.get(sector, 0))


def content_of(sector: int, version: int) -> bytes:
    """What a sector of that version holds."""
    return (version.to_bytes(6, "big") + sector.to_bytes(2, "big")) * (SECTOR // 8)


@dataclass(slots=True)
class Task:
    """One request of a client, until it is answered."""

    asked: Asked
    floors: dict[int, int] = field(default_factory=dict)  # of a read: sector -> version that must be there at least
    versions: dict[int, int] = field(default_factory=dict)  # of a write: sector -> version; of a flush: what it covers
    sent_on: Connection | None = None
    tries: int = 0


class Client:
    """One client with up to `depth` requests in flight and `quota` requests to do."""

    def __init__(self, cluster: Cluster, name: int, random: Random) -> None:
        setup = cluster.setup
        self.name = name
        self.quota = len(setup.script) or setup.quota
        self.done = 0
        self.errors = 0
        self.cluster = cluster
        self._random = random
        self._depth = setup.depth
        self._deadly = setup.deadly
        self._script = setup.script
        self._connection: Connection | None = None
        self._tasks: dict[int, Task] = {}
        self._cookie = 0
        self._sectors = range(name * SECTORS, (name + 1) * SECTORS)
        self._rest = 0.003 + 0.02 * random.random()
        cluster.after(random.random() * 0.01, self._turn)

    @property
    def finished(self) -> bool:
        """Whether it has done all it wanted."""
        return self.done >= self.quota

    # -- asking -------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if self.finished:
            return
        if self._connection is None:
            self._connect()
        due = self.done + len(self._tasks) < self.quota and len(self._tasks) < self._depth
        if self._connection is not None and due:
            self._send(self._make())
        self.cluster.after(RETRY_S if self._connection is None else self._random.random() * self._rest, self._turn)

    def _connect(self) -> None:
        world = self.cluster.accepting(self._random)
        if world is None:
            return
        self._connection = world.connect(self)
        for task in self._tasks.values():  # dicts keep the order in which they were asked
            self._send(task)

    def _send(self, task: Task) -> None:
        connection, asked = self._connection, task.asked
        assert connection is not None
        task.sent_on, task.tries = connection, task.tries + 1
        self._later(lambda: connection.world.asks(connection, asked))

    def _later(self, action: Callable[[], None]) -> None:
        """Bytes of one connection arrive in order: all take the same time."""
        self.cluster.after(WIRE_S[0], action)

    def _choose(self) -> int:
        """The kind of the next request."""
        if self._script:
            return self._script[(self._cookie - 1) % len(self._script)]
        chance = self._random.random()
        if chance < self._deadly:
            return VENDOR
        for kind, below in ((WRITE, 0.45), (READ, 0.8), (FLUSH, 0.95)):
            if chance < below:
                return kind
        return TRIM

    def _make(self) -> Task:
        self._cookie += 1
        kind, tally = self._choose(), self.cluster.tally
        if kind == VENDOR:
            death = 1 if self._script else self._random.choice((1, 1, 2))
            task = Task(Asked(self._cookie, VENDOR, 0, death, 0, b""))
        elif kind == WRITE:
            task = self._make_write()
        elif kind == READ:
            task = self._make_read()
        elif kind == FLUSH:
            covered = {sector: tally.floor.get(sector, 0) for sector in self._sectors}
            task = Task(Asked(self._cookie, FLUSH, 0, 0, 0, b""), versions=covered)
        else:
            task = Task(Asked(self._cookie, TRIM, 0, (SCRATCH + self.name) * SECTOR, SECTOR, b""))
        self._tasks[self._cookie] = task
        return task

    def _make_write(self) -> Task:
        busy = {sector for task in self._tasks.values() if task.asked.kind == WRITE for sector in task.versions}
        first = self._random.choice(self._sectors)
        sectors = [s for s in range(first, first + self._random.randint(1, 3)) if s in self._sectors and s not in busy]
        if not sectors or sectors != list(range(sectors[0], sectors[0] + len(sectors))):
            return self._make_read()
        issued = self.cluster.tally.issued
        for sector in sectors:
            issued[sector] = issued.get(sector, 0) + 1
        versions = {sector: issued[sector] for sector in sectors}
        data = b"".join(content_of(sector, versions[sector]) for sector in sectors)
        flags = FUA if self._random.random() < 0.2 else 0
        return Task(Asked(self._cookie, WRITE, flags, sectors[0] * SECTOR, len(data), data), versions=versions)

    def _make_read(self) -> Task:
        first, count = self._random.randrange(SECTORS * self.cluster.clients_max), self._random.randint(1, 3)
        sectors = range(first, first + count)
        floors = {sector: self.cluster.tally.floor.get(sector, 0) for sector in sectors}
        return Task(Asked(self._cookie, READ, 0, first * SECTOR, count * SECTOR, b""), floors=floors)

    # -- being answered -----------------------------------------------------------------------------------------

    def answered(self, connection: Connection, cookie: int, error: int, data: bytes) -> None:
        """See Peer."""
        self._later(lambda: self._take(connection, cookie, error, data))

    def _take(self, connection: Connection, cookie: int, error: int, data: bytes) -> None:
        if connection is not self._connection:
            return  # it was reset meanwhile
        task = self._tasks.pop(cookie, None)
        if task is None or task.sent_on is not connection:
            raise Violation(f"client {self.name} gets a second reply to request {cookie}")
        self.done += 1
        kind = task.asked.kind
        if error:
            self.errors += 1
            if kind != VENDOR:
                raise Violation(f"client {self.name}: request {cookie} of kind {kind} is answered with error {error}")
            return
        if kind == VENDOR:
            raise Violation(f"client {self.name}: a request that kills the driver is answered without an error")
        self._judge(task, data)

    def _judge(self, task: Task, data: bytes) -> None:
        tally, asked = self.cluster.tally, task.asked
        if asked.kind == READ:
            for index, (sector, floor) in enumerate(task.floors.items()):
                content = data[index * SECTOR : (index + 1) * SECTOR]
                tally.saw(sector, tally.check(sector, content, floor, f"client {self.name} reads"))
        elif asked.kind == WRITE:
            for sector, version in task.versions.items():
                tally.saw(sector, version)
                if asked.flags & FUA:
                    tally.flushed[sector] = max(version, tally.flushed.get(sector, 0))
        elif asked.kind == FLUSH:
            for sector, version in task.versions.items():
                tally.flushed[sector] = max(version, tally.flushed.get(sector, 0))

    def reset(self, connection: Connection) -> None:
        """See Peer."""
        self._later(lambda: self._hang_up(connection))

    def _hang_up(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None

    def lost_some(self) -> None:
        """The pair has started cold: what was not flushed may be gone, whatever this client was about to ask."""
        for task in self._tasks.values():
            if task.asked.kind == READ:
                task.floors = dict.fromkeys(task.floors, 0)
            elif task.asked.kind == FLUSH:
                task.versions = {}

    def give_up(self) -> None:
        """Cut the connection from this side; the next turn connects again."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            connection.world.drop(connection)
