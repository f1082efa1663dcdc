# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a network card's cable ends: between one card of the machine and one `Network`, on the live side only.

    card --PACKET output, after the output rule--> Port --> Network
    card <--PACKET event (in an entry)------------ Port <-- Network

Packets are taken out of the network only while the guest has room for them; for a guest whose driver does not run they
are thrown away, unlogged. Attaching may take a few attempts after a failover: what the guest sends meanwhile waits for
a moment. The card's link follows when the network is away for longer. Once attached, the port announces where the guest
is now: to the network in the guest's name, and to the guest's driver, which may do it better.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from devices.event import LINK_DOWN, LINK_MOVED, LINK_UP, Event, EventKind, Output
from devices.virtio.offload import plain
from ftvm.world.network.announce import REPEAT_S, Addresses, announcements
from ftvm.world.network.network import TAKE_MAX, Network

GRACE_S: Final = 1.0  # without the network, before the guest's link goes down
TELL_S: Final = 0.5  # before an operator is told
HELD_MAX: Final = 256  # packets that wait for the network


class Card(Protocol):
    """What a port asks the machine's card."""

    mac: bytes
    link: bool

    @property
    def room(self) -> int | None:
        """Packets that the guest can take now; None when no driver runs."""


class Port:
    """One card's place in the network."""

    def __init__(self, unit: int, name: str, card: Card, network: Network, notice: Callable[[str], None]) -> None:
        """`name`: the backend as in the machine file, for messages."""
        self.unit = unit
        self.name = name
        self.sent = self.received = self.dropped = 0
        self._card = card
        self._network = network
        self._notice = notice
        self._addresses = Addresses(card.mac)
        self._open = False
        self._attached = False
        self._away_since = 0.0
        self._told = ""
        self._link_told: bool | None = None
        self._announce_at: list[float] = []
        self._due: list[Event] = []
        self._held: deque[tuple[float, bytes]] = deque()

    def open(self, now: float) -> None:
        """This side is live and may be seen."""
        self._open = True
        self._away_since = now
        self._due = self._attach(now)

    def close(self) -> None:
        """Off the network, at once."""
        self._open = False
        self._network.close()

    def observe(self, packet: bytes) -> None:
        """The guest has made a packet, which may or may not leave here."""
        self._addresses.observe(packet)

    def send(self, packet: bytes, now: float) -> None:
        """A packet leaves the machine."""
        if self._attached:
            self._send(packet)
        elif len(self._held) < HELD_MAX:
            self._held.append((now, packet))
        else:
            self.dropped += 1

    def turn(self, now: float) -> list[Event]:
        """Attach if need be, announce what is due, and take what has come."""
        if not self._open:
            return []
        events = self._due + self._attach(now)
        self._due = []
        if self._announce_at and now >= self._announce_at[0]:
            self._announce(now)
        events += self._follow(now)
        if self._attached:
            events += self._take()
        return events

    def report(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "unit": self.unit,
            "backend": self.name,
            "attached": self._attached,
            "problem": self._network.problem,
            "sent": self.sent,
            "received": self.received,
            "dropped": self.dropped,
        }

    # -- inside -------------------------------------------------------------------------------------------------

    def _attach(self, now: float) -> list[Event]:
        network = self._network
        network.attach(now)
        if network.attached == self._attached:
            if not self._attached and now - self._away_since > TELL_S and network.problem != self._told:
                self._told = network.problem
                self._notice(f"network {self.unit} ({self.name}): {network.problem}")
            return []
        self._attached = network.attached
        if not self._attached:
            self._away_since = now
            return []
        if self._told:
            self._notice(f"network {self.unit} ({self.name}): attached")
            self._told = ""
        self._announce_at = [now + delay for delay in REPEAT_S]
        self._announce(now)
        self._let_go(now)
        return [Event(EventKind.LINK, self.unit, LINK_MOVED)] if self._card.room is not None else []

    def _follow(self, now: float) -> list[Event]:
        """The card's link is the network's, except for short gaps."""
        link = self._attached or now - self._away_since < GRACE_S
        if link in (self._card.link, self._link_told):
            self._link_told = link if link != self._card.link else None
            return []
        self._link_told = link
        return [Event(EventKind.LINK, self.unit, LINK_UP if link else LINK_DOWN)]

    def _announce(self, now: float) -> None:
        while self._announce_at and now >= self._announce_at[0]:
            del self._announce_at[0]
        if self._attached and self._card.room is not None:
            for frame in announcements(self._card.mac, self._addresses.known):
                self._network.send(plain(frame))

    def _let_go(self, now: float) -> None:
        """Send what has waited, unless it is so old that whoever sent it has given up."""
        while self._held:
            made, packet = self._held.popleft()
            if now - made < GRACE_S:
                self._send(packet)
            else:
                self.dropped += 1

    def _send(self, packet: bytes) -> None:
        if self._network.send(packet):
            self.sent += 1
        else:
            self.dropped += 1

    def _take(self) -> list[Event]:
        room = self._card.room
        self._network.watch(room != 0)
        if room == 0:
            return []
        packets = self._network.take(TAKE_MAX if room is None else min(room, TAKE_MAX))
        if room is None:
            self.dropped += len(packets)
            return []
        self.received += len(packets)
        return [Event(EventKind.PACKET, self.unit, packet) for packet in packets]


class Ports:
    """All of a machine's."""

    def __init__(self, ports: Mapping[int, Port], clock: Callable[[], float] = time.monotonic) -> None:
        """`ports` by unit; cards without one are connected to nothing."""
        self._ports = dict(ports)
        self._clock = clock

    def open(self) -> None:
        """This side is live and may be seen."""
        now = self._clock()
        for port in self._ports.values():
            port.open(now)

    def close(self) -> None:
        """Off the network."""
        for port in self._ports.values():
            port.close()

    def take_events(self) -> list[Event]:
        """What has come."""
        if not self._ports:
            return []
        now = self._clock()
        return [event for port in self._ports.values() for event in port.turn(now)]

    def deliver(self, output: Output) -> None:
        """A packet leaves."""
        if (port := self._ports.get(output.unit)) is not None:
            port.send(output.data, self._clock())

    def observe(self, output: Output) -> None:
        """A packet was made."""
        if (port := self._ports.get(output.unit)) is not None:
            port.observe(output.data)

    def report(self) -> list[dict[str, Any]]:
        """For the status file."""
        return [port.report() for port in self._ports.values()]
