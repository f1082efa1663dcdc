# SPDX-License-Identifier: GPL-2.0-or-later
"""One process's world: a block server whose clients are simulated, and a console at which somebody types.

It does what `BlockServer` and `HostWorld` do, with messages that take time instead of sockets: numbers requests, names
a connection by its first request, tells ends of connections before anything newer, forgets what it owes to clients that
are gone. Everything in it is lost with its process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from devices.event import Event, EventKind, Output, OutputKind
from ftvm.service.request import encode_close, encode_request

if TYPE_CHECKING:
    from tests.sim.process import Process


@dataclass(frozen=True, slots=True)
class Asked:
    """A client's request on the wire; `cookie` is the client's."""

    cookie: int
    kind: int
    flags: int
    offset: int
    length: int
    data: bytes


class Peer(Protocol):
    """The client's end of a connection."""

    def answered(self, connection: Connection, cookie: int, error: int, data: bytes) -> None:
        """A reply is on its way to the client."""

    def reset(self, connection: Connection) -> None:
        """The connection has ended."""


@dataclass(slots=True, eq=False)
class Connection:
    """A client's connection to one process."""

    world: SideWorld
    peer: Peer
    name: int = 0
    open: bool = True
    unread: list[Asked] = field(default_factory=list)


class SideWorld:
    """Implements `World` for one process."""

    def __init__(self, process: Process) -> None:
        self.accepting = False
        self.news = False  # something came since the member's last step
        self._process = process
        self._connections: list[Connection] = []
        self._issued: dict[int, tuple[Connection, int]] = {}
        self._events: list[Event] = []
        self._typed: list[bytes] = []
        self._next = 1

    # -- World --------------------------------------------------------------------------------------------------

    def take_events(self) -> list[Event]:
        """See World."""
        self._process.point("take events")
        events = [Event(EventKind.CONSOLE_INPUT, 0, data) for data in self._typed]
        events += self._events
        self._typed, self._events = [], []
        for connection in self._connections:
            for asked in connection.unread:
                events.append(Event(EventKind.BLOCK_REQUEST, 0, self._issue(connection, asked)))
            connection.unread.clear()
        return events

    def _issue(self, connection: Connection, asked: Asked) -> bytes:
        number, self._next = self._next, self._next + 1
        connection.name = connection.name or number
        self._issued[number] = (connection, asked.cookie)
        return encode_request(connection.name, asked.kind, asked.flags, asked.offset, asked.length, asked.data)

    def entropy(self, count: int) -> bytes:
        """See World."""
        return self._process.cluster.random.randbytes(count)

    def deliver(self, sequence: int, index: int, output: Output) -> None:
        """See World."""
        self._process.point("deliver")
        self._process.released(sequence, index, output)
        if output.kind == OutputKind.BLOCK_REPLY and output.offset in self._issued:
            connection, cookie = self._issued.pop(output.offset)
            if connection.open:
                connection.peer.answered(connection, cookie, int.from_bytes(output.data[:4], "big"), output.data[4:])

    def observe(self, output: Output) -> None:
        """See World."""

    def open(self) -> None:
        """See World."""
        self.accepting = True

    def adopt(self, next_number: int, connections: Iterable[int]) -> None:
        """See World."""
        assert not self._connections, "adopt comes before open"
        self._next = next_number
        self._events += [Event(EventKind.BLOCK_CLOSE, 0, encode_close(name)) for name in connections]

    def close(self) -> None:
        """See World."""
        self.accepting = False
        for connection in list(self._connections):
            self.drop(connection)

    # -- the outside --------------------------------------------------------------------------------------------

    def connect(self, peer: Peer) -> Connection:
        """A client is accepted."""
        connection = Connection(self, peer)
        self._connections.append(connection)
        return connection

    def asks(self, connection: Connection, asked: Asked) -> None:
        """A request arrives."""
        if connection.open:
            connection.unread.append(asked)
            self.news = True

    def type(self, data: bytes) -> None:
        """Somebody types."""
        if self.accepting:
            self._typed.append(data)
            self.news = True

    def drop(self, connection: Connection) -> None:
        """A connection ends: what was not read of it is discarded, its end is an event."""
        if not connection.open:
            return
        connection.open = False
        connection.unread.clear()
        self._connections.remove(connection)
        self._issued = {number: owed for number, owed in self._issued.items() if owed[0] is not connection}
        self.news = True
        if connection.name:
            self._events.append(Event(EventKind.BLOCK_CLOSE, 0, encode_close(connection.name)))
        connection.peer.reset(connection)
