# SPDX-License-Identifier: GPL-2.0-or-later
"""`Limits`: what one block service takes on at a time, so that no client can make it grow or starve the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts and bytes; a request longer than 1 MiB counts as its parts."""

    connections_max: int = 64  # more wait in the listening socket's queue
    in_flight_max: int = 128  # requests of one connection that are in the machine
    in_flight_bytes_max: int = 32 << 20  # payload of all requests that are in the machine
    unsent_bytes_max: int = 4 << 20  # replies that one client has not read: beyond that its requests wait
    owed_bytes_max: int = 64 << 20  # the same of all clients, and replies that are being joined: see `Owed`
    receive_bytes: int = 256 << 10  # read from one client in one go
    handshake_s: float = 10.0  # from a connection's first byte to its transmission phase
    stalled_s: float = 10.0  # a client that reads nothing for so long is dropped when what is owed grows too much

    @property
    def share(self) -> int:
        """Bytes that may be owed to one client whatever is owed to others."""
        return self.owed_bytes_max // self.connections_max


@dataclass(slots=True)
class Owed:
    """What all clients of a service have not read yet. Beyond `owed_bytes_max` only those below their share go on."""

    bytes: int = 0
