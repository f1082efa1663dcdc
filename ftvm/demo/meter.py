# SPDX-License-Identifier: GPL-2.0-or-later
"""What the load measures: counts and latencies of all requests, and, while a kill is on, a watch on the replies.

    kill                                next reply          all clients
     |<------------- first_ms ------------->|                    |
     |<------------------------- all_ms ------------------------>|
     reply ....................... reply     the longest silence: no reply to any client

The one idea: a host's death breaks the connections, so the next reply is the first one over a *newer* connection (what
was already in a socket's buffer does not count); a driver's death breaks nothing, so there the pause is the longest
silence between any two replies. Times are seconds of the monotonic clock, given by the caller.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of a measured time, by nearest rank, in milliseconds; all zero when nothing was measured."""

    count: int
    p50: float
    p99: float
    max: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Spread:
        """From values in seconds."""
        if not seconds:
            return Spread(0, 0.0, 0.0, 0.0)
        ordered = sorted(seconds)
        last = len(ordered) - 1

        def rank(percent: int) -> float:
            return round(ordered[min(last, -(-len(ordered) * percent // 100) - 1)] * 1000, 3)

        return Spread(len(ordered), rank(50), rank(99), round(ordered[last] * 1000, 3))


@dataclass(slots=True)
class Watch:
    """Replies from the moment of a kill on. `generations[client]`: the client's connection number at that moment."""

    start: float
    generations: tuple[int, ...]
    first_replies: dict[int, float] = field(default_factory=dict)  # client: time of its first reply on a new connection
    silence: float = 0.0
    replies: int = 0
    _last: float = 0.0

    def reply(self, now: float, client: int, connection: int) -> None:
        """A client was answered over its connection of this number."""
        self.silence = max(self.silence, now - max(self._last, self.start))
        self._last = now
        self.replies += 1
        if connection > self.generations[client] and client not in self.first_replies:
            self.first_replies[client] = now

    @property
    def failed_over(self) -> bool:
        """Whether every client has had a reply over a new connection."""
        return len(self.first_replies) == len(self.generations)

    @property
    def first_s(self) -> float:
        """From the kill to the first reply over any new connection."""
        return min(self.first_replies.values()) - self.start

    @property
    def all_s(self) -> float:
        """From the kill until every client had had a reply over a new connection."""
        return max(self.first_replies.values()) - self.start


class Meter:
    """Statistics of the whole load. The load reports each request's end; a kill puts its watch on and takes it off."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()  # successful requests by command
        self.errors: list[str] = []  # error replies, in words
        self.latencies = array("d")
        self.longest_silence = 0.0
        self.watch: Watch | None = None
        self._last_reply = 0.0

    def answered(self, now: float, client: int, connection: int, command: str, seconds: float) -> None:
        """A request was answered with success."""
        self.done[command] += 1
        self._reply(now, client, connection, seconds)

    def failed(self, now: float, client: int, connection: int, text: str, seconds: float) -> None:
        """A request was answered with an error."""
        self.errors.append(text)
        self._reply(now, client, connection, seconds)

    def _reply(self, now: float, client: int, connection: int, seconds: float) -> None:
        self.latencies.append(seconds)
        if self._last_reply:
            self.longest_silence = max(self.longest_silence, now - self._last_reply)
        self._last_reply = now
        if self.watch is not None:
            self.watch.reply(now, client, connection)
