# SPDX-License-Identifier: GPL-2.0-or-later
"""An end of the simulated network with an ear: sees what a process sends, and is a point where it can die."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logging_channel.endpoint import Arrival, Sent
from logging_channel.frame import FrameKind, decode
from logging_channel.memory import Dialer, Listener
from logging_channel.messages import Ack

if TYPE_CHECKING:
    from tests.sim.process import Process


class TappedEnd:
    """Implements Endpoint around a simulated one."""

    def __init__(self, end: Dialer | Listener, process: Process) -> None:
        self._end = end
        self._process = process

    @property
    def address(self) -> str:
        """See Endpoint."""
        return self._end.address

    @property
    def has_arrival(self) -> bool:
        """Whether `receive` has something."""
        return bool(self._end._inbox)

    def receive(self) -> Arrival | None:
        """See Endpoint."""
        return self._end.receive()

    def send(self, peer: bytes, data: bytes) -> Sent:
        """See Endpoint."""
        process = self._process
        frame = decode(data)
        if frame.kind is FrameKind.ACK:
            process.told_acks = max(process.told_acks, Ack.decode(frame.body).received)
        process.point(f"send {frame.kind.name} {frame.sequence}")
        sent = self._end.send(peer, data)
        process.cluster.note(process.name, f"sends {frame.kind.name}", frame.sequence, sent.value)
        return sent

    def fileno(self) -> int:
        """See Endpoint."""
        return -1

    def wake(self) -> None:
        """See Endpoint."""

    def close(self, linger_ms: int = 0) -> None:
        """See Endpoint."""
        self._end.close(linger_ms)
