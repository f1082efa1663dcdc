# SPDX-License-Identifier: GPL-2.0-or-later
"""`Network`: what one of the guest's network cards is connected to, and which kinds there are.

    none                   nothing
    tap:NAME               a TAP device of this host (`tap`), on a bridge for real addresses
    passt, passt:PATH      passt's socket (`stream`): the host's own connections, without privileges (`passt`)
    stream:HOST:PORT, stream:unix:PATH     a peer that speaks QEMU's stream protocol (`stream`)

Only the live side connects: a card has one place in the network. Connecting may fail at first (the side that died still
holds the TAP device, passt has not noticed yet that its client is gone), so it is tried again and again, without
waiting. Packets are those of `devices.virtio.offload`. Nothing is kept for a slow guest: what is not taken stays with
the kernel or the peer, within their bounds.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

from ftvm.config_values import Backend, TcpAddress, UnixAddress, parse_address
from ftvm.world.poller import Poller

RETRY_S = 0.005  # at first; the name is mostly free again when the dead side's last descriptor is closed
RETRY_MAX_S = 0.5
TAKE_MAX = 64  # packets at once
TAKE_BYTES_MAX = 512 << 10


class Network(Protocol):
    """One backend. Nothing here blocks, nothing raises for the network's sake."""

    @property
    def attached(self) -> bool:
        """Whether packets can pass now."""

    @property
    def problem(self) -> str:
        """Why they cannot, in words; empty when they can, or nothing is known yet."""

    def attach(self, now: float) -> None:
        """Connect, when it is not connected and time to try."""

    def take(self, count: int) -> list[bytes]:
        """Packets that have come, at most `count` and a few more where one had to be split."""

    def watch(self, wanted: bool) -> None:
        """Whether to be woken when packets come."""

    def send(self, packet: bytes) -> bool:
        """Hand a packet over; False when it had to be dropped."""

    def close(self) -> None: ...


class Retry:
    """When to try again: soon at first, then more and more rarely."""

    def __init__(self) -> None:
        self._at = 0.0
        self._delay = RETRY_S

    def due(self, now: float) -> bool:
        """Whether it is time."""
        return now >= self._at

    def failed(self, now: float) -> None:
        """It did not work."""
        self._at = now + self._delay
        self._delay = min(RETRY_MAX_S, self._delay * 1.5)

    def worked(self) -> None:
        """It did."""
        self._delay = RETRY_S


def make_network(backend: Backend, unit: int, state: Path, poller: Poller) -> Network | None:
    """The backend of card `unit`, not connected yet; None for nothing. Relative paths are relative to `state`."""
    from ftvm.world.network.passt import socket_path
    from ftvm.world.network.stream import StreamNetwork
    from ftvm.world.network.tap import TapNetwork

    if backend.kind == "none":
        return None
    if backend.kind == "tap":
        return TapNetwork(backend.argument, poller)
    if backend.kind == "passt":
        path = state / Path(backend.argument).expanduser() if backend.argument else socket_path(state, unit)
        return StreamNetwork(UnixAddress(str(path)), poller)
    assert backend.kind == "stream", backend
    address = parse_address(backend.argument)
    if isinstance(address, TcpAddress):
        return StreamNetwork(address, poller)
    return StreamNetwork(UnixAddress(str(state / Path(address.path).expanduser())), poller)


def words(error: OSError) -> str:
    """An error of the system's, as the last part of a message."""
    number = error.errno or 0
    return {errno.EBUSY: "another process holds it"}.get(number) or os.strerror(number) if number else str(error)
