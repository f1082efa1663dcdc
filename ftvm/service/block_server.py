# SPDX-License-Identifier: GPL-2.0-or-later
"""`BlockServer`: the host's half of the block service. NBD clients on one side, events and outputs on the other.

    clients -> sockets -> Connection.next_part -> BLOCK_REQUEST, BLOCK_CLOSE events -> (log, journal, driver)
    clients <- sockets <- Connection.complete  <- BLOCK_REPLY outputs               <- (output rule)

Everything here is lost with the host; what must survive is in the journal. Requests longer than 1 MiB are cut here and
their replies joined here: each part is journaled and answered exactly once, and a client that loses its connection
sends the whole request again.

All sockets sit in one epoll of the server's own, whose descriptor is what the process's loop watches. `turn` moves
bytes; `take_events` picks parts from the clients in rotation. Before any part is picked, connections that have ended
are looked for once more: what a client sent on a dead connection and the server has not picked is discarded, and that
connection's BLOCK_CLOSE goes first. So a request that a client sends again cannot meet its twin afterwards.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, epoll
from typing import Final

from devices.event import Event, EventKind, Output
from ftvm.service.connection import Connection, Part
from ftvm.service.export import Export
from ftvm.service.limits import Limits, Owed
from ftvm.service.nbd import ClientError
from ftvm.service.request import encode_close, encode_request
from ftvm.service.watcher import Watcher

ENDED: Final = EPOLLRDHUP | EPOLLHUP | EPOLLERR
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class BlockServer:
    """Serves one export on sockets that already listen (TCP or Unix); only the live side calls `start`."""

    def __init__(self, listeners: Sequence[socket.socket], export: Export, limits: Limits | None = None) -> None:
        self.export = export
        self.limits = limits or Limits()
        self.refused = 0  # connections closed because the client broke the protocol
        self.refusal = ""  # how the last of them did
        self._listeners: dict[int, socket.socket] = {}
        self._accepting = self._started = False
        self._poller = epoll()
        self._connections: dict[int, Connection] = {}
        self._round: deque[Connection] = deque()
        self._held: list[Connection] = []  # their next request waits until less is owed
        self._issued: dict[int, Part] = {}
        self._bytes = 0
        self._owed = Owed()
        self._next = 1
        self._events: list[Event] = []
        self._scratch = memoryview(bytearray(self.limits.receive_bytes))
        self._watcher: Watcher | None = None
        self.listen(listeners)

    # -- for the loop ---------------------------------------------------------------------------------------------

    def attach(self, watcher: Watcher) -> None:
        """Let the process's loop call `turn` when there is something to do."""
        self._watcher = watcher
        watcher.watch(self.fileno(), EPOLLIN, self.turn)

    def fileno(self) -> int:
        """Readable when `turn` has something to do."""
        return self._poller.fileno()

    def turn(self) -> None:
        """Move bytes: accept, read, write. Never waits."""
        for fd, mask in self._poller.poll(0):
            if connection := self._connections.get(fd):
                self._serve(connection, mask)
            elif fd in self._listeners:
                self._accept(self._listeners[fd])

    def tick(self, now: float) -> None:
        """Drop clients that do not come out of the handshake, or do not read while others wait; call now and then."""
        limits, crowded = self.limits, bool(self._held) or self._owed.bytes > self.limits.owed_bytes_max
        for connection in list(self._connections.values()):
            if connection.since is None:
                connection.since = now
            waited = now - connection.since
            if connection.greeting:
                if waited >= limits.handshake_s:
                    self._refuse(ClientError(f"a handshake took longer than {limits.handshake_s:g} s"))
                    self._drop(connection)
            elif not connection.unread:
                connection.since = None
            elif waited >= limits.stalled_s and crowded and connection.owed > limits.share:
                self._refuse(ClientError(f"a client has read nothing for {limits.stalled_s:g} s while others waited"))
                self._drop(connection)

    def take_events(self) -> list[Event]:
        """Requests and ends of connections since the last call, in order."""
        if self._watcher is None:
            self.turn()
        self._listen()
        if self._held:
            self._let_in()
        if self._round:
            # A connection that is alone has no twins: what it asked before it ended may be picked.
            for fd, mask in self._poller.poll(0) if len(self._connections) > 1 else ():
                if mask & ENDED and (connection := self._connections.get(fd)):
                    self._serve(connection, mask)
            self._pick()
        events, self._events = self._events, []
        return events

    def deliver(self, output: Output) -> None:
        """A BLOCK_REPLY may leave. Replies to clients that are gone, and repeated ones, are ignored."""
        part = self._issued.pop(output.offset, None)
        if part is None:
            return
        self._bytes -= part.weight
        connection, data = part.connection, output.data
        connection.complete(part, int.from_bytes(data[:4], "big"), data[4:])
        if connection.done:
            self._drop(connection)
            return
        self._settle(connection)
        if connection.eager:
            self._queue(connection)

    @property
    def outstanding(self) -> int:
        """Requests that went to the journal and whose reply has not come back."""
        return len(self._issued)

    @property
    def owed(self) -> int:
        """Bytes of replies kept for clients that have not read them, or whose parts are not all there."""
        return self._owed.bytes

    @property
    def connections(self) -> int:
        """Clients that are connected."""
        return len(self._connections)

    @property
    def busy(self) -> bool:
        """Would `take_events` have something to give even if no socket became ready?"""
        return bool(self._events or (self._round and self._bytes < self.limits.in_flight_bytes_max))

    # -- life -----------------------------------------------------------------------------------------------------

    def adopt(self, next_number: int, open_connections: Iterable[int]) -> None:
        """Go on where the journal stands: numbers continue, the connections of the side that died have ended."""
        assert not self._connections, "adopt comes before start"
        self._next = next_number
        self._events += [Event(EventKind.BLOCK_CLOSE, 0, encode_close(name)) for name in open_connections]

    def listen(self, listeners: Iterable[socket.socket]) -> None:
        """Further sockets that listen already."""
        for listener in listeners:
            listener.setblocking(False)
            self._listeners[listener.fileno()] = listener
            if self._accepting:
                self._poller.register(listener.fileno(), EPOLLIN)

    def start(self) -> None:
        """This side is live: accept clients."""
        self._started = True
        self._listen()

    def stop(self) -> None:
        """Accept no more and close every connection; the listening sockets stay open for their owner."""
        self._started = False
        self._pause()
        for connection in list(self._connections.values()):
            self._drop(connection)

    def close(self) -> None:
        """Stop, and release the poller; the server cannot be used afterwards. Closing twice is once."""
        if self._poller.closed:
            return
        self.stop()
        if self._watcher is not None:
            self._watcher.unwatch(self.fileno())
        self._poller.close()

    # -- sockets --------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._started and not self._accepting and len(self._connections) < self.limits.connections_max:
            self._accepting = True
            for fd in self._listeners:
                self._poller.register(fd, EPOLLIN)

    def _pause(self) -> None:
        if self._accepting:
            self._accepting = False
            for fd in self._listeners:
                self._poller.unregister(fd)

    def _accept(self, listener: socket.socket) -> None:
        while self._accepting:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue  # that client is gone already
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                self._pause()  # until the next look at the clients
                return
            self._add(sock)
            if len(self._connections) >= self.limits.connections_max:
                self._pause()

    def _add(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        connection = Connection(sock, self.export, self.limits, self._owed)
        self._connections[connection.fd] = connection
        self._settle(connection)

    def _serve(self, connection: Connection, mask: int) -> None:
        """React to what the poller says about one client."""
        if mask & EPOLLOUT and not connection.flush():
            self._drop(connection)
            return
        if mask & EPOLLIN and connection.wanted & EPOLLIN:
            connection.read(self._scratch)
            mask &= ~EPOLLIN
        if (mask & ENDED or connection.ended) and not self._end(connection):
            return
        if connection.done:
            self._drop(connection)
            return
        self._settle(connection, mask)
        if connection.eager:
            self._queue(connection)

    def _end(self, connection: Connection) -> bool:
        """The client has closed its side; False when the connection is gone."""
        try:
            if connection.end(self._scratch):
                return True
        except ClientError as error:
            self._refuse(error)
        self._drop(connection)
        return False

    def _settle(self, connection: Connection, mask: int = 0) -> None:
        """Poll for what the connection wants. Superfluous interest stays until it is reported (`mask`)."""
        wanted, interest = connection.wanted, connection.interest
        if wanted & ~interest or (mask | interest & EPOLLOUT) & ~wanted or interest < 0:
            if interest < 0:
                if wanted:
                    self._poller.register(connection.fd, wanted)
            elif wanted:
                self._poller.modify(connection.fd, wanted)
            else:
                self._poller.unregister(connection.fd)
            connection.interest = wanted or -1

    def _refuse(self, error: ClientError) -> None:
        self.refused += 1
        self.refusal = str(error)

    def _drop(self, connection: Connection) -> None:
        """The connection is over: forget it, and tell the journal if it ever asked for something."""
        if connection.gone:
            return
        if connection.interest >= 0:
            self._poller.unregister(connection.fd)
        connection.close()
        del self._connections[connection.fd]
        if connection.in_flight:
            for number, part in list(self._issued.items()):
                if part.connection is connection:
                    self._bytes -= part.weight
                    del self._issued[number]
        if connection.name:
            self._events.append(Event(EventKind.BLOCK_CLOSE, 0, encode_close(connection.name)))
        self._listen()

    # -- requests -------------------------------------------------------------------------------------------------

    def _queue(self, connection: Connection) -> None:
        if not connection.queued:
            connection.queued = True
            self._round.append(connection)

    def _pick(self) -> None:
        """One part from each client in turn, while the machine may take more."""
        waiting = self._round
        while waiting and self._bytes < self.limits.in_flight_bytes_max:
            connection = waiting.popleft()
            connection.queued = False
            if connection.gone:
                continue
            try:
                part = connection.next_part()
            except ClientError as error:
                self._refuse(error)
                self._drop(connection)
                continue
            if part is not None:
                self._issue(part)
                self._queue(connection)
            elif connection.done:
                self._drop(connection)
            else:
                if connection.held:
                    self._held.append(connection)
                self._settle(connection)

    def _let_in(self) -> None:
        """Ask those again that were held back."""
        held, self._held = self._held, []
        for connection in held:
            connection.held = False
            if not connection.gone:
                self._queue(connection)

    def _issue(self, part: Part) -> None:
        number = self._next
        self._next = number + 1
        connection = part.connection
        if not connection.name:
            connection.name = number
        self._issued[number] = part
        self._bytes += part.weight
        data = encode_request(connection.name, part.kind, part.flags, part.offset, part.length, part.data)
        self._events.append(Event(EventKind.BLOCK_REQUEST, 0, data))
