# SPDX-License-Identifier: GPL-2.0-or-later
"""`VirtioRng`: entropy device (virtio 1.2, section 5.4).

Entropy is an input like any other: it comes as events (`feed`) into a pool, and requests wait on the queue until the
pool has something. `wanted` tells the world how many bytes waiting requests could use. A request gets at most 64 bytes,
which the specification allows (5.4.6) and which keeps a greedy guest from filling the log.
"""

from __future__ import annotations

from collections.abc import Callable

from devices.device import Line, State
from devices.memory import GuestMemory
from devices.virtio.mmio import VirtioDevice
from devices.virtio.queue import RingViolation, Virtqueue, length_of

QUEUE_SIZE = 8
REQUEST_MAX = 64


class VirtioRng(VirtioDevice):
    """The entropy device, with its pool."""

    device_id = 4
    kind = "rng"

    def __init__(self, memory: GuestMemory, line: Line, violation: Callable[[str], None]) -> None:
        super().__init__(memory, line, violation, features=0, queue_sizes=[QUEUE_SIZE], config=b"")
        self._pool = bytearray()
        self._waiting = 0  # requests seen on the queue and not served

    @property
    def wanted(self) -> int:
        """Bytes that waiting requests could use and the pool does not have."""
        waiting = self._waiting if self.running and self.queues[0].ready else 0
        return max(0, waiting * REQUEST_MAX - len(self._pool))

    def feed(self, data: bytes) -> None:
        """Random bytes from the world; waiting requests are served at once."""
        self._pool += data
        self.kick(0)

    def serve(self, index: int, queue: Virtqueue) -> None:
        """Serves requests while there are bytes."""
        self._waiting = queue.available()
        while self._waiting and self._pool:
            self._waiting -= 1
            head, _, writable = queue.pop()
            if not writable:
                raise RingViolation("a request without writable bytes")
            count = min(REQUEST_MAX, length_of(writable), len(self._pool))
            queue.push(head, queue.scatter(writable, self._pool[:count]))
            del self._pool[:count]
        if queue.flush():
            self.interrupt()

    def on_reset(self) -> None:
        """No request waits any more; the pool stays."""
        self._waiting = 0

    def reset(self) -> None:
        """Power-on reset; the pool stays, since nobody has seen it."""
        super().reset()
        self._waiting = 0

    def save(self) -> State:
        """The pool and the number of waiting requests."""
        return super().save() | {"pool": bytes(self._pool), "waiting": self._waiting}

    def restore(self, state: State) -> None:
        """Takes over what `save` returned."""
        super().restore(state)
        self._pool = bytearray(state["pool"])
        self._waiting = min(max(0, state["waiting"]), QUEUE_SIZE)
