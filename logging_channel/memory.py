# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated network: the same interface as `transport`, driven by given time and a seeded random.Random.

    Network.step(now)       delivers everything due up to `now`; next_at() says when something is due next
    Listener, Dialer        see `endpoint`; a paused process is one whose endpoint nobody asks

A connection is two streams, and a stream is a queue of (time due, message): order within a connection is kept, as TCP
does, whatever the delays. What goes wrong, and how:

    cut(a, b)         connections between two hosts break: of what is in flight in each direction a prefix still
                      arrives, the rest is lost; both ends are told, each after its own notice delay
    crash(host)       a killed process: what it has sent is in flight like before, its ends vanish
    partition(a, b)   nothing arrives and nobody is told anything, until heal(a, b)
    late frames       with `late_chance` a lost message turns up on the next connection, as if the transport had
                      handed it over: the session number has to catch it

The next connection of a Dialer is tried after the retry delay, as long as it takes.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from logging_channel.endpoint import LISTENER, Arrival, Link, Sent
from logging_channel.errors import ChannelError

Range = tuple[float, float]  # seconds, from and to


@dataclass(frozen=True, slots=True)
class Conditions:
    """How bad the network is."""

    delay: Range = (0.00002, 0.0002)  # of one message
    notice: Range = (0.0005, 0.005)  # from a loss to the disconnect notice
    retry: Range = (0.01, 0.05)  # from a disconnect to the next attempt
    late_chance: float = 0.0
    late: Range = (0.0, 0.05)  # from the next connection to a late message
    high_water: int = 2048  # messages per direction, in flight and not received


class _Stream:
    """One direction of a connection."""

    def __init__(self, network: Network, source: _End, target: _End, peer: bytes) -> None:
        self.source, self.target, self.peer = source, target, peer
        self.flight: deque[tuple[float, bytes | Link]] = deque()
        self.broken = False
        self._network = network

    def put(self, item: bytes | Link, delay: Range) -> None:
        """Send something down the stream: it is due after a delay, and arrives when all ahead of it has, too."""
        at = self._network.now + self._network.random.uniform(*delay)
        self.flight.append((at, item))
        self._network.at(at, self.pump)

    def pump(self) -> None:
        """Deliver what is due, unless a partition is in the way."""
        while self.flight and self.flight[0][0] <= self._network.now and not self._blocked():
            self.target.arrive(self.peer, self.flight.popleft()[1])

    def _blocked(self) -> bool:
        return frozenset((self.source.host, self.target.host)) in self._network.partitions

    def lose(self, survive: int | None, notice: Range) -> list[bytes]:
        """Break: return the messages that are lost; the target is told after the last one that survives."""
        keep = self._network.random.randint(0, len(self.flight)) if survive is None else survive
        lost = [item for _, item in list(self.flight)[keep:] if isinstance(item, bytes)]
        while len(self.flight) > keep:
            self.flight.pop()
        self.broken = True
        self.put(Link.DISCONNECTED, notice)
        return lost


class _Connection:
    """Two streams between a dialer and a listener."""

    def __init__(self, network: Network, dialer: Dialer, listener: Listener, peer: bytes) -> None:
        self.dialer, self.listener, self.peer = dialer, listener, peer
        self.up = _Stream(network, dialer, listener, peer)
        self.down = _Stream(network, listener, dialer, LISTENER)
        self.broken = False

    @property
    def over(self) -> bool:
        """Whether it is broken and nothing is left of it."""
        return self.broken and not self.up.flight and not self.down.flight


class _End:
    """What both ends share."""

    def __init__(self, network: Network, address: str, host: str) -> None:
        self.host = host
        self.counts: Counter[str] = Counter()
        self._network = network
        self._address = address
        self._inbox: deque[Arrival] = deque()
        self._closed = False

    @property
    def address(self) -> str:
        """The name it listens or dials to."""
        return self._address

    @property
    def closed(self) -> bool:
        """Whether it was closed or its host has crashed."""
        return self._closed

    def receive(self) -> Arrival | None:
        """Return the next arrival, None when there is none now."""
        return self._inbox.popleft() if self._inbox else None

    def fileno(self) -> int:
        """There is nothing to poll in simulation."""
        return -1

    def wake(self) -> None:
        """There is nobody to wake in simulation."""

    def arrive(self, peer: bytes, item: bytes | Link) -> None:
        """The network delivers."""
        raise NotImplementedError

    def close(self, linger_ms: int = 0) -> None:
        """Close for good; what is in flight arrives if a linger was granted."""
        if not self._closed:
            self.vanish()
            self._network.drop_end(self, survive=None if linger_ms == 0 else 1 << 30)

    def vanish(self) -> None:
        """From now on nothing arrives here."""
        self._closed = True
        self._inbox.clear()

    def _put(self, stream: _Stream, data: bytes) -> Sent:
        network = self._network
        if len(stream.flight) + len(stream.target._inbox) >= network.conditions.high_water:
            return Sent.FULL
        if not stream.broken:  # else it is lost: this end has not been told yet
            stream.put(data, network.conditions.delay)
        return Sent.TAKEN


class Listener(_End):
    """The primary's end: several peers, each id one connection."""

    def __init__(self, network: Network, address: str, host: str) -> None:
        super().__init__(network, address, host)
        self._known: dict[bytes, bool] = {}  # peer -> whether it has sent something

    @property
    def peers(self) -> tuple[bytes, ...]:
        """The connections that have sent something and have not ended."""
        return tuple(peer for peer, spoke in self._known.items() if spoke)

    def accept(self, peer: bytes) -> None:
        """A connection stands; nobody is told before its first message."""
        self._known[peer] = False

    def arrive(self, peer: bytes, item: bytes | Link) -> None:
        """The network delivers."""
        if self._closed or peer not in self._known:
            return
        if isinstance(item, Link):
            if self._known.pop(peer):
                self._inbox.append((peer, item))
            return
        if not self._known[peer]:
            self._known[peer] = True
            self._inbox.append((peer, Link.CONNECTED))
        self._inbox.append((peer, item))

    def send(self, peer: bytes, data: bytes) -> Sent:
        """Hand a message over for `peer`."""
        connection = self._network.connection_of(peer)
        if self._closed or not self._known.get(peer) or connection is None:
            return Sent.GONE
        return self._put(connection.down, data)


class Dialer(_End):
    """The backup's end: one peer, `LISTENER`; connects again by itself."""

    def __init__(self, network: Network, address: str, host: str) -> None:
        super().__init__(network, address, host)
        self.link: _Connection | None = None
        self.late: list[tuple[bool, bytes]] = []  # (towards the listener, message) for the next connection
        self._connected = False  # as received
        self._stands = False  # as arrived

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as was told."""
        return self._connected

    def receive(self) -> Arrival | None:
        """Return the next arrival, None when there is none now."""
        arrival = super().receive()
        if arrival is not None and isinstance(arrival[1], Link):
            self._connected = arrival[1] is Link.CONNECTED
        return arrival

    def arrive(self, peer: bytes, item: bytes | Link) -> None:
        """The network delivers."""
        if self._closed:
            return
        if item is Link.DISCONNECTED:
            self.link = None
            self._network.retry(self)
        if not isinstance(item, Link) or self._stands is not (item is Link.CONNECTED):
            self._inbox.append((peer, item))  # else it ended before it was known to stand
        if isinstance(item, Link):
            self._stands = item is Link.CONNECTED

    def vanish(self) -> None:
        """From now on nothing arrives here."""
        super().vanish()
        self._connected = False

    def send(self, peer: bytes, data: bytes) -> Sent:
        """Hand a message over for the listener."""
        assert peer == LISTENER, peer
        if self._closed or not self._connected:
            return Sent.GONE
        if self.link is None:
            return Sent.TAKEN  # lost: this end has not looked at its inbox yet
        return self._put(self.link.up, data)


class Network:
    """All hosts, their ends and what is between them. One random.Random decides everything, in a fixed order."""

    def __init__(self, random: Random, conditions: Conditions | None = None, now: float = 0.0) -> None:
        self.random = random
        self.conditions = conditions or Conditions()
        self.now = now
        self.partitions: set[frozenset[str]] = set()
        self._listeners: dict[str, Listener] = {}
        self._connections: dict[bytes, _Connection] = {}
        self._dialers: list[Dialer] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    # Time

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do `action` at a time."""
        self._serial += 1
        heapq.heappush(self._agenda, (when, self._serial, action))

    def next_at(self) -> float | None:
        """Return when something is due next, None when nothing is."""
        return self._agenda[0][0] if self._agenda else None

    def step(self, now: float) -> None:
        """Let time pass until `now`, and deliver what falls due, in order."""
        assert now >= self.now, (now, self.now)
        while self._agenda and self._agenda[0][0] <= now:
            when, _, action = heapq.heappop(self._agenda)
            self.now = max(self.now, when)
            action()
        self.now = now

    # Ends

    def listen(self, address: str, host: str) -> Listener:
        """Return a listener; raise ChannelError while another one has the address."""
        if address in self._listeners:
            raise ChannelError(f"{address} is in use: another side of the pair still listens there")
        listener = self._listeners[address] = Listener(self, address, host)
        return listener

    def dial(self, address: str, host: str) -> Dialer:
        """Return a dialer that connects as soon as somebody listens."""
        dialer = Dialer(self, address, host)
        self._dialers.append(dialer)
        self.at(self.now + self.random.uniform(*self.conditions.delay), lambda: self._connect(dialer))
        return dialer

    def connection_of(self, peer: bytes) -> _Connection | None:
        """Return the connection behind a listener's peer id."""
        return self._connections.get(peer)

    def retry(self, dialer: Dialer) -> None:
        """Plan the next attempt of a dialer."""
        self.at(self.now + self.random.uniform(*self.conditions.retry), lambda: self._connect(dialer))

    def _connect(self, dialer: Dialer) -> None:
        if dialer.closed or dialer.link is not None:
            return
        listener = self._listeners.get(dialer.address)
        if listener is None or frozenset((dialer.host, listener.host)) in self.partitions:
            self.retry(dialer)
            return
        self._connections = {peer: link for peer, link in self._connections.items() if not link.over}
        self._serial += 1
        peer = b"\0" + self._serial.to_bytes(4, "big")
        connection = self._connections[peer] = _Connection(self, dialer, listener, peer)
        dialer.link = connection
        listener.accept(peer)
        connection.down.put(Link.CONNECTED, self.conditions.delay)
        self._plan_late(connection)

    def _plan_late(self, connection: _Connection) -> None:
        """What an earlier connection has lost turns up on this one."""
        late, connection.dialer.late = connection.dialer.late, []
        for upwards, data in late:
            stream = connection.up if upwards else connection.down
            when = self.now + self.random.uniform(*self.conditions.late)
            self.at(when, lambda stream=stream, data=data: self._arrive_late(stream, data))  # type: ignore[misc]

    def _arrive_late(self, stream: _Stream, data: bytes) -> None:
        if not stream.broken:
            stream.put(data, (0.0, 0.0))

    # Faults

    def cut(self, one: str, other: str, survive: int | None = None) -> int:
        """Break all connections between two hosts; return how many. `survive`: messages per direction, random if None.

        A host has connections with itself too: cut("a", "a").
        """
        hosts = sorted((one, other))
        found = [link for link in self._alive() if sorted((link.dialer.host, link.listener.host)) == hosts]
        for connection in found:
            self._break(connection, survive)
        return len(found)

    def crash(self, host: str, survive: int | None = None) -> None:
        """Kill everything on a host; of what it has sent, so many messages per connection survive (random if None)."""
        ends: list[_End] = [*self._listeners.values(), *self._dialers]
        for end in [end for end in ends if end.host == host and not end.closed]:
            end.vanish()
            self.drop_end(end, survive)

    def drop_end(self, end: _End, survive: int | None) -> None:
        """An end is gone: free its address and break its connections."""
        if self._listeners.get(end.address) is end:
            del self._listeners[end.address]
        self._dialers = [dialer for dialer in self._dialers if dialer is not end]
        for connection in self._alive():
            if end is connection.dialer or end is connection.listener:
                self._break(connection, survive)

    def partition(self, one: str, other: str) -> None:
        """From now on nothing passes between two hosts, and nobody is told."""
        self.partitions.add(frozenset((one, other)))

    def heal(self, one: str, other: str) -> None:
        """End a partition: what was held back arrives now."""
        self.partitions.discard(frozenset((one, other)))
        for connection in list(self._connections.values()):
            connection.up.pump()
            connection.down.pump()

    def _alive(self) -> list[_Connection]:
        return [connection for connection in self._connections.values() if not connection.broken]

    def _break(self, connection: _Connection, survive: int | None) -> None:
        connection.broken = True
        for upwards, stream in ((True, connection.up), (False, connection.down)):
            for data in stream.lose(survive, self.conditions.notice):
                if self.random.random() < self.conditions.late_chance:
                    connection.dialer.late.append((upwards, data))
