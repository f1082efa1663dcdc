# SPDX-License-Identifier: GPL-2.0-or-later
"""The output rule: an output leaves only after the backup has acknowledged every entry up to the one that produced it.

    mode        an output of entry s may leave when            a durable one also needs
    SHADOW      never (a backup: the primary emits it)         -
    PROTECTED   the backup has received s                      own disk and backup's disk synced up to s
    ALONE       at once                                        own disk synced up to s

    SHADOW --alone()--> ALONE --protect()--> PROTECTED --alone()--> ALONE

Order is kept within a stream: an output never overtakes an earlier held one of its stream, and streams do not wait for
each other. A backup holds its outputs too and forgets those that the primary reports as released: what is left when
it goes live is exactly what may not have left, and `alone()` lets it go.

Hot path: ask `may_leave` first and emit at once when it says yes; nothing is allocated for that.
(Rule: Bressoud and Schneider 1995; name and form: Scales, Nelson and Venkitachalam 2010.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class OutputMode(Enum):
    """Which rule is in force."""

    SHADOW = "shadow"
    PROTECTED = "protected"
    ALONE = "alone"


class OutputRule(Generic[T]):
    """Holds items of any type until they may leave."""

    def __init__(self, mode: OutputMode = OutputMode.ALONE) -> None:
        self.mode = mode
        self.held = 0  # how many items
        self._received = 0
        self._durable_own = 0
        self._durable_peer = 0
        self._streams: dict[Hashable, deque[tuple[int, int, T, bool]]] = {}  # sequence, index, item, durable

    def may_leave(self, sequence: int, durable: bool = False, stream: Hashable = None) -> bool:
        """Whether an output of entry `sequence` may leave at once, without being held."""
        return stream not in self._streams and self._allowed(sequence, durable)

    def _allowed(self, sequence: int, durable: bool) -> bool:
        if self.mode is OutputMode.PROTECTED:
            if sequence > self._received:
                return False
            return not durable or (sequence <= self._durable_own and sequence <= self._durable_peer)
        return self.mode is OutputMode.ALONE and (not durable or sequence <= self._durable_own)

    def hold(self, sequence: int, index: int, item: T, durable: bool = False, stream: Hashable = None) -> None:
        """Keep an output until it may leave. Within a stream, (sequence, index) only grows."""
        queue = self._streams.get(stream)
        if queue is None:
            queue = self._streams[stream] = deque()
        assert not queue or queue[-1][:2] < (sequence, index), f"output {sequence}.{index} comes after {queue[-1][:2]}"
        queue.append((sequence, index, item, durable))
        self.held += 1

    def release(self, received: int, durable_own: int, durable_peer: int) -> list[T]:
        """Take the three sequences, which never step back here, and return the items that may leave now, in order."""
        self._received = max(self._received, received)
        self._durable_own = max(self._durable_own, durable_own)
        self._durable_peer = max(self._durable_peer, durable_peer)
        return self._leaving() if self.held and self.mode is not OutputMode.SHADOW else []

    def _leaving(self) -> list[T]:
        found: list[tuple[int, int, T]] = []
        for stream, queue in list(self._streams.items()):
            while queue and self._allowed(queue[0][0], queue[0][3]):
                found.append(queue.popleft()[:3])
            if not queue:
                del self._streams[stream]
        self.held -= len(found)
        found.sort(key=lambda entry: entry[:2])
        return [item for _, _, item in found]

    def alone(self) -> list[T]:
        """This side is live without a backup (the arbiter has granted it): return the items that may leave now."""
        self.mode = OutputMode.ALONE
        return self._leaving()

    def protect(self, received: int, durable_peer: int) -> None:
        """A backup that holds everything up to `received` is in sync: from here on its acknowledgements count."""
        assert self.mode is OutputMode.ALONE, self.mode
        self.mode = OutputMode.PROTECTED
        self._received = received
        self._durable_peer = durable_peer

    def forget(self, released: int) -> int:
        """Drop what the primary reports as having left, up to entry `released`; return how many items."""
        before = self.held
        for stream, queue in list(self._streams.items()):
            while queue and queue[0][0] <= released:
                queue.popleft()
                self.held -= 1
            if not queue:
                del self._streams[stream]
        return before - self.held

    def left_through(self, finished: int) -> int:
        """Return the last sequence all of whose outputs have left, given that `finished` is the last one executed."""
        return min((queue[0][0] - 1 for queue in self._streams.values()), default=finished)
