# SPDX-License-Identifier: GPL-2.0-or-later
"""A network in memory: a switch that learns where addresses are, and ends of cables that a `Port` or a test holds.

It is told everything, loses nothing, and has no time: for tests of what is connected to a network.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from devices.virtio.offload import PLAIN, frames

QUEUE_MAX: Final = 1024  # frames at one end; newer ones are dropped


class Switch:
    """Frames go to the end behind which their address was seen last, or to all others."""

    def __init__(self) -> None:
        self._ends: list[SimulatedNetwork] = []
        self._table: dict[bytes, SimulatedNetwork] = {}

    def plug(self) -> SimulatedNetwork:
        """A new end."""
        return SimulatedNetwork(self)

    def connect(self, end: SimulatedNetwork) -> None:
        """From now on frames reach `end`."""
        self._ends.append(end)

    def disconnect(self, end: SimulatedNetwork) -> None:
        """No longer; what was learned of it is forgotten, as when a port loses its carrier."""
        self._ends.remove(end)
        self._table = {address: other for address, other in self._table.items() if other is not end}

    def forward(self, frame: bytes, source: SimulatedNetwork) -> None:
        """A frame comes in."""
        target, sender = frame[:6], frame[6:12]
        if not sender[0] & 1:
            self._table[sender] = source
        known = self._table.get(target) if not target[0] & 1 else None
        for end in self._ends if known is None else [known]:
            if end is not source:
                end.arrive(frame)


class SimulatedNetwork:
    """One end; implements `Network`. `reachable` says whether attaching works."""

    def __init__(self, switch: Switch) -> None:
        self.reachable = True
        self.attached = False
        self.problem = ""
        self.watched = False
        self.arrived: deque[bytes] = deque()
        self.dropped = 0
        self._switch = switch

    def attach(self, now: float) -> None:
        """See `Network`."""
        if self.attached and not self.reachable:
            self.close()
        if not self.attached and self.reachable:
            self.attached = True
            self._switch.connect(self)
        self.problem = "" if self.attached else "the cable is pulled"

    def take(self, count: int) -> list[bytes]:
        """See `Network`."""
        return [PLAIN + self.arrived.popleft() for _ in range(min(count, len(self.arrived)))]

    def watch(self, wanted: bool) -> None:
        """See `Network`."""
        self.watched = wanted

    def send(self, packet: bytes) -> bool:
        """See `Network`."""
        if self.attached:
            for frame in frames(packet):
                self._switch.forward(frame, self)
        return self.attached

    def arrive(self, frame: bytes) -> None:
        """The switch sends a frame here."""
        if len(self.arrived) < QUEUE_MAX:
            self.arrived.append(frame)
        else:
            self.dropped += 1

    def close(self) -> None:
        """See `Network`."""
        if self.attached:
            self.attached = False
            self._switch.disconnect(self)
        self.arrived.clear()
