# SPDX-License-Identifier: GPL-2.0-or-later
"""The world's simulated twin: events come from a test, outputs are kept for it, entropy comes from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from devices.event import Event, Output, OutputKind

Released = tuple[int, int, Output]


class SimulatedWorld:
    """A world without sockets. Several members of a simulated pair share one, as hosts share the outside."""

    def __init__(self, seed: int = 0) -> None:
        self.released: list[Released] = []
        self.opened = 0
        self.adopted: list[tuple[int, tuple[int, ...]]] = []
        self.on_deliver: Callable[[int, int, Output], None] | None = None
        self._random = random.Random(seed)
        self._events: list[Event] = []

    def inject(self, *events: Event) -> None:
        """These inputs arrive now."""
        self._events += events

    def take_events(self) -> list[Event]:
        """See `World`."""
        events, self._events = self._events, []
        return events

    def entropy(self, count: int) -> bytes:
        """See `World`."""
        return self._random.randbytes(count)

    def deliver(self, sequence: int, index: int, output: Output) -> None:
        """See `World`."""
        self.released.append((sequence, index, output))
        if self.on_deliver is not None:
            self.on_deliver(sequence, index, output)

    def observe(self, output: Output) -> None:
        """See `World`."""

    def open(self) -> None:
        """See `World`."""
        self.opened += 1

    def adopt(self, next_number: int, connections: Iterable[int]) -> None:
        """See `World`."""
        self.adopted.append((next_number, tuple(connections)))

    def close(self) -> None:
        """See `World`."""

    def console(self) -> bytes:
        """The console stream as a file sink would hold it: every byte at its offset, repeats on top of each other."""
        stream = bytearray()
        for _, _, output in self.released:
            if output.kind == OutputKind.CONSOLE:
                stream[output.offset : output.offset + len(output.data)] = output.data
        return bytes(stream)
