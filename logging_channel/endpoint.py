# SPDX-License-Identifier: GPL-2.0-or-later
"""What the real and the simulated network have in common: the interface that the pair is written against.

A Listener (primary) has several peers at a time, one id per *connection*: a peer that reconnects comes under a new id.
A Dialer (backup) has one peer, `LISTENER`, and connects again by itself.

Everything arrives through `receive()`, in one order that can be relied on:

    CONNECTED      Dialer: the connection stands. Listener: the peer's first message follows.
    bytes          one message
    DISCONNECTED   comes after the last message of that connection, and at once (a killed peer: within milliseconds)

The sessions of `session` are needed all the same: a Listener's caller compares the peer's id with the one it talks to,
and a message that a dying process has sent may be taken by the kernel after its successor was heard.
A killed listener's port is free a moment after its connections have ended: try again.

Waiting: poll `fileno()` for reading, then call `receive()` until it returns None; only then poll again. The descriptor
also becomes readable when something could be received after a `send`, and by `wake()`. Nothing blocks, ever.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

LISTENER = b""  # the Dialer's only peer


class Link(Enum):
    """What happened to a peer's connection."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


class Sent(Enum):
    """What became of a message given to `send`. Only TAKEN ones may arrive; none is ever dropped silently before."""

    TAKEN = "taken"
    FULL = "full"  # the high-water mark is reached: try again later
    GONE = "gone"  # there is no connection to that peer


Arrival = tuple[bytes, "bytes | Link"]  # peer, message or what happened to its connection


class Endpoint(Protocol):
    """One end of the channel."""

    @property
    def address(self) -> str:
        """Where it listens or dials to, e.g. tcp://127.0.0.1:7700, with the real port."""

    def receive(self) -> Arrival | None:
        """Return the next arrival, None when there is none now."""

    def send(self, peer: bytes, data: bytes) -> Sent:
        """Hand a message over for `peer`, without blocking."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `receive` may return something (-1 in simulation)."""

    def wake(self) -> None:
        """Make `fileno()` readable once; the only method that may be called from any thread without a lock."""

    def close(self, linger_ms: int = 0) -> None:
        """Close for good; messages already taken get at most `linger_ms` to leave."""
