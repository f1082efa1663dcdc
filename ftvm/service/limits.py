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
    receive_bytes: int = 256 << 10  # read from one client in one go
