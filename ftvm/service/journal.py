# SPDX-License-Identifier: GPL-2.0-or-later
"""`Journal`: every client request from its event to its one reply; outlives the driver, and the host.

It is part of the machine's replicated state: events and the driver's bytes go in, frames for the driver and outputs
come out, and nothing else (no clock, no socket) has a say. A request is in one of three places:

    HELD       journaled, never in the driver: the window is full, a barrier is down, or the driver is being recovered
    IN_DRIVER  submitted, the watchdog runs
    BACKLOG    was in the driver when it died: submitted again alone, in arrival order, before anything held

    event      HELD -> IN_DRIVER          when no barrier is down, the backlog is empty and the window has room
    death      IN_DRIVER -> BACKLOG       partial replies are void; a request that was alone twice is answered with EIO
    recovery   BACKLOG -> IN_DRIVER       one at a time
    reply      IN_DRIVER -> gone          an output, unless the connection has ended

**The barrier.** When a connection ends, its requests that the driver has never seen are dropped, and while others of
them that change the disk are in the driver nothing is submitted: a write that a client sends again on another
connection can never be overtaken by its own late twin. A client that lost its connection has no reply, so dropping is
as good as executing. At a restart of the driver the requests of ended connections are dropped too.

**Overdue.** A request has the watchdog's time from when it is in a driver that has opened its port. A driver that boots
has the time of a boot instead, from the request's submission: a kernel needs seconds.

`restarted` and `died` are called by the supervisor; times are guest ticks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import xxhash

from devices.event import Output, OutputKind
from ftvm.service.driver_stream import DriverStream, DriverViolation
from ftvm.service.nbd import FLUSH, FUA, READ, WRITE, Errno, request_frame
from ftvm.service.request import decode_close, decode_request
from replay.errors import LogError

STATE_VERSION: Final = 2
WINDOW_REQUESTS: Final = 128
WINDOW_BYTES: Final = 4 << 20
DEATHS_ALONE_MAX: Final = 2
_FIELDS: Final = [int] * 6 + [bytes] + [int] * 2  # types of those of a `Pending`


@dataclass(slots=True)
class Pending:
    """A request without a reply; `connection` is 0 once its connection has ended."""

    number: int
    connection: int
    kind: int
    flags: int
    offset: int
    length: int
    data: bytes
    submitted: int = 0  # guest ticks of the last submission
    deaths: int = 0  # times that the driver died with this request alone in it

    @property
    def weight(self) -> int:
        """Bytes of payload, either way."""
        return self.length if self.kind == READ or self.kind == WRITE else 0


class Journal:
    """The replicated half of the block service."""

    def __init__(
        self,
        submit: Callable[[bytes], None],
        emit: Callable[[Output], None],
        violation: Callable[[str], None],
        watchdog_ticks: int,
        boot_ticks: int = 0,
    ) -> None:
        self._submit = submit
        self._emit = emit
        self._violation = violation
        self._watchdog = watchdog_ticks
        self._boot = max(watchdog_ticks, boot_ticks)
        self._opened = -1  # when the driver opened its port; -1 while it is closed
        self._stream = DriverStream()
        self._next = 1
        self._open: set[int] = set()
        self._held: deque[Pending] = deque()
        self._backlog: deque[Pending] = deque()
        self._in_driver: dict[int, Pending] = {}
        self._weight = 0  # of what is in the driver
        self._draining: set[int] = set()  # numbers in the driver that keep the barrier down
        self._recovering = False  # the backlog, or the last of it, is being worked off
        self._deaf = False  # the driver is dead: what it says is ignored until it is restarted
        self._digest = 0

    # -- for the world --------------------------------------------------------------------------------------------

    @property
    def next_number(self) -> int:
        """The number that the next request will get."""
        return self._next

    @property
    def open_connections(self) -> list[int]:
        """Connections that have sent a request and have not ended, in order."""
        return sorted(self._open)

    @property
    def outstanding(self) -> int:
        """Requests without a reply."""
        return len(self._held) + len(self._backlog) + len(self._in_driver)

    def request(self, data: bytes, time: int) -> None:
        """A BLOCK_REQUEST event. LogError when no host could have sent it."""
        request = decode_request(data)
        number = self._next
        if request.connection == number:
            self._open.add(number)
        elif request.connection not in self._open:
            raise LogError(f"block request {number} comes from connection {request.connection}, which is not open")
        self._next = number + 1
        self._digest = xxhash.xxh3_64_intdigest(data, self._digest)
        pending = Pending(
            number, request.connection, request.kind, request.flags, request.offset, request.length, request.data
        )
        if not self._held and self._admits(pending):
            self._put(pending, time)
        else:
            self._held.append(pending)

    def close(self, data: bytes, time: int) -> None:
        """A BLOCK_CLOSE event. LogError when that connection is not open."""
        connection = decode_close(data)
        if connection not in self._open:
            raise LogError(f"block connection {connection} ends, but is not open")
        self._digest = xxhash.xxh3_64_intdigest(data, self._digest ^ 1)
        self._open.remove(connection)
        self._held = deque(pending for pending in self._held if pending.connection != connection)
        self._backlog = deque(pending for pending in self._backlog if pending.connection != connection)
        for pending in self._in_driver.values():
            if pending.connection == connection:
                pending.connection = 0
                if pending.kind not in (READ, FLUSH):
                    self._draining.add(pending.number)
        self._pump(time)

    # -- for the driver -------------------------------------------------------------------------------------------

    def port_output(self, data: bytes, time: int) -> None:
        """The driver wrote to its port."""
        self._digest = xxhash.xxh3_64_intdigest(data, self._digest)
        if self._deaf:
            return
        stream, in_driver = self._stream, self._in_driver
        stream.receive(data)
        try:
            reply = stream.next(in_driver)
            if reply is None:
                return
            while reply is not None:
                self._answer(*reply)
                reply = stream.next(in_driver)
        except DriverViolation as error:
            self._deaf = True
            self._violation(f"block service: {error}")
            return
        self._pump(time)

    def port_opened(self, opened: bool, time: int) -> None:
        """The driver opened or closed its port."""
        self._opened = time if opened else -1

    def _answer(self, number: int, error: int, data: bytes) -> None:
        pending = self._in_driver.pop(number)
        self._weight -= pending.weight
        self._draining.discard(number)
        if pending.connection:
            self._reply(pending, error, data)

    def _reply(self, pending: Pending, error: int, data: bytes = b"") -> None:
        durable = pending.kind == FLUSH or bool(pending.flags & FUA)
        content = error.to_bytes(4, "big") + data
        self._emit(Output(OutputKind.BLOCK_REPLY, pending.connection, content, pending.number, durable))

    def _admits(self, pending: Pending) -> bool:
        """May this request, the first in line, enter the driver now?"""
        count = len(self._in_driver)
        if not count:
            return not (self._deaf or self._backlog)
        return not (
            self._deaf
            or self._recovering
            or self._draining
            or count >= WINDOW_REQUESTS
            or self._weight + pending.weight > WINDOW_BYTES
        )

    def _pump(self, time: int) -> None:
        """Submit what may be submitted."""
        if self._recovering and not self._in_driver and not self._deaf:
            if self._backlog:
                self._put(self._backlog.popleft(), time)
                return
            self._recovering = False
        while self._held and self._admits(self._held[0]):
            self._put(self._held.popleft(), time)

    def _put(self, pending: Pending, time: int) -> None:
        pending.submitted = time
        self._in_driver[pending.number] = pending
        self._weight += pending.weight
        self._submit(
            request_frame(pending.kind, pending.flags, pending.number, pending.offset, pending.length, pending.data)
        )

    # -- for the supervisor ---------------------------------------------------------------------------------------

    def died(self) -> None:
        """The driver is dead: count it against a request that was alone in it, and listen to it no more."""
        self._deaf = True
        if len(self._in_driver) == 1:
            next(iter(self._in_driver.values())).deaths += 1

    def restarted(self, time: int) -> None:
        """The driver boots anew and knows nothing: give it again what it had, one request at a time."""
        self._digest = xxhash.xxh3_64_intdigest(b"restarted", self._digest)
        self._stream.clear()
        suspects = sorted(self._in_driver.values(), key=lambda pending: pending.number)
        self._in_driver.clear()
        self._draining.clear()
        self._weight = 0
        self._deaf = False
        self._opened = -1
        killers = [pending for pending in suspects if pending.deaths >= DEATHS_ALONE_MAX]
        again = [pending for pending in suspects if pending.connection and pending.deaths < DEATHS_ALONE_MAX]
        self._backlog.extendleft(reversed(again))
        self._recovering = bool(self._backlog)
        for pending in killers:
            if pending.connection:
                self._reply(pending, Errno.EIO)
        self._pump(time)

    @property
    def in_driver(self) -> int:
        """Requests that the driver has and has not answered."""
        return len(self._in_driver)

    def deadline(self) -> int | None:
        """Guest time at which the oldest request in the driver is overdue; None when the driver has nothing to do."""
        if not self._in_driver:
            return None
        submitted = next(iter(self._in_driver.values())).submitted
        return submitted + self._boot if self._opened < 0 else max(submitted, self._opened) + self._watchdog

    def overdue(self, time: int) -> int | None:
        """The number of the oldest request in the driver, when it has been there for too long."""
        deadline = self.deadline()
        return next(iter(self._in_driver)) if deadline is not None and time >= deadline else None

    # -- state ----------------------------------------------------------------------------------------------------

    def digest(self) -> int:
        """A running digest of all that went in, 64 bits; the rest of the state follows from that."""
        return self._digest

    def save(self) -> dict[str, Any]:
        """The whole state, for msgpack."""
        return {
            "version": STATE_VERSION,
            "next": self._next,
            "open": self.open_connections,
            "held": [_pack(pending) for pending in self._held],
            "backlog": [_pack(pending) for pending in self._backlog],
            "in_driver": [_pack(pending) for pending in self._in_driver.values()],
            "draining": sorted(self._draining),
            "recovering": self._recovering,
            "deaf": self._deaf,
            "opened": self._opened,
            "partial": self._stream.save(),
            "digest": self._digest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `save`; ValueError when it comes from another version."""
        if state["version"] != STATE_VERSION:
            raise ValueError(f"journal state has version {state['version']}, this ftvm reads {STATE_VERSION}")
        self._next = state["next"]
        if not all(type(number) is int for number in (*state["open"], *state["draining"])):
            raise ValueError("journal state has a connection or a request without a number")
        self._open = set(state["open"])
        self._held = deque(_unpack(fields) for fields in state["held"])
        self._backlog = deque(_unpack(fields) for fields in state["backlog"])
        self._in_driver = {pending.number: pending for pending in map(_unpack, state["in_driver"])}
        self._weight = sum(pending.weight for pending in self._in_driver.values())
        self._draining = set(state["draining"])
        self._recovering = state["recovering"]
        self._deaf = state["deaf"]
        self._opened = state["opened"]
        self._stream.restore(state["partial"])
        self._digest = state["digest"] & (1 << 64) - 1


def _pack(pending: Pending) -> list[Any]:
    return [
        pending.number,
        pending.connection,
        pending.kind,
        pending.flags,
        pending.offset,
        pending.length,
        pending.data,
        pending.submitted,
        pending.deaths,
    ]


def _unpack(fields: Any) -> Pending:
    """The inverse of `_pack`; ValueError when no journal packed it."""
    if type(fields) is not list or [type(field) for field in fields] != _FIELDS:
        raise ValueError(f"journal state has an impossible request {str(fields)[:80]}")
    pending = Pending(*fields)
    whole = 0 <= pending.offset < 1 << 64 and 0 <= pending.length < 1 << 32
    counts = (pending.number, pending.connection, pending.submitted, pending.deaths)
    codes = (pending.kind, pending.flags)
    if not whole or min(*counts, *codes) < 0 or max(counts) >= 1 << 62 or max(codes) > 0xFFFF:
        raise ValueError(f"journal state has an impossible request {pending.number}")
    return pending
