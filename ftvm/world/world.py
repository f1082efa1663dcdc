# SPDX-License-Identifier: GPL-2.0-or-later
"""`World`: the only source of events and the only sink of outputs.

All nondeterminism enters a machine through `take_events` (and through the time that the live side gives an entry).
The real world is `host.HostWorld`; its simulated twin for tests is `simulated.SimulatedWorld`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from devices.event import Event, Output


class World(Protocol):
    """Everything outside the machine that clients and operators can see."""

    def take_events(self) -> list[Event]:
        """Inputs that came since the last call, in the order in which the machine is to see them."""

    def entropy(self, count: int) -> bytes:
        """`count` random bytes."""

    def deliver(self, sequence: int, index: int, output: Output) -> None:
        """Let an output leave. Repeats (after going live) are recognised by stream offset or journal number."""

    def observe(self, output: Output) -> None:
        """The guest has made a packet, which may or may not leave here: what is to be known of it when going live."""

    def open(self) -> None:
        """Begin to accept clients: this side is live."""

    def adopt(self, next_number: int, connections: Iterable[int]) -> None:
        """Continue the block service of a side that died: numbers go on, its open connections have ended."""

    def close(self) -> None:
        """Stop accepting, close what is open."""
