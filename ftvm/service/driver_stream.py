# SPDX-License-Identifier: GPL-2.0-or-later
"""`DriverStream`: the driver's replies, cut out of the bytes that it writes to its port. Deterministic, no I/O.

Only a whole, well-formed reply to a request that is in the driver comes out. Anything else is a violation of the
service's protocol: `DriverViolation` says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ftvm.service.nbd import ERRORS, READ, REPLY, REPLY_MAGIC


class DriverViolation(Exception):
    """The driver wrote something to its port that is not a reply to what it was asked."""


class Asked(Protocol):
    """What the stream needs to know of a request that the driver has."""

    @property
    def kind(self) -> int:
        """NBD command."""

    @property
    def length(self) -> int:
        """Bytes asked for."""


class DriverStream:
    """Reassembles replies; holds at most one partial one."""

    def __init__(self) -> None:
        self._partial = bytearray()

    def receive(self, data: bytes) -> None:
        """Take bytes from the driver's port."""
        self._partial += data

    def next(self, in_driver: Mapping[int, Asked]) -> tuple[int, int, bytes] | None:
        """The next whole reply as (number, error, data); None when it has not arrived. Raises DriverViolation."""
        partial = self._partial
        if len(partial) < REPLY.size:
            return None
        magic, error, number = REPLY.unpack_from(partial)
        if magic != REPLY_MAGIC:
            raise DriverViolation(f"reply with magic {magic:#x}")
        request = in_driver.get(number)
        if request is None:
            raise DriverViolation(f"reply to request {number}, which the driver does not have")
        if error not in ERRORS:
            raise DriverViolation(f"reply to request {number} with unknown error {error}")
        size = REPLY.size
        if request.kind == READ and not error:
            size += request.length
            if len(partial) < size:
                return None
        with memoryview(partial) as view:
            data = bytes(view[REPLY.size : size])
        del partial[:size]
        return number, error, data

    def clear(self) -> None:
        """The driver was restarted: what it had begun to say is void."""
        self._partial.clear()

    def save(self) -> bytes:
        """The partial reply."""
        return bytes(self._partial)

    def restore(self, state: bytes) -> None:
        """Inverse of `save`."""
        self._partial[:] = state
