# SPDX-License-Identifier: GPL-2.0-or-later
"""An NBD client that outlives its connection: many requests in flight, reconnect, and resend of what is unanswered.

    submit -> pending -> (batched) transport -> reply -> the request's callback
                 ^                                |
                 +---- connection lost: connect again, shake hands, send all pending once more, oldest first

The one idea: a request is a callback in a table, not a task; requests submitted in one turn of the event loop leave in
one write. A request is answered to its callback exactly once, however often it was sent. Behind a failover the
listening socket stays open, so `connect` succeeds before anybody accepts: the client then just waits for the greeting.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ftvm.demo.nbd_wire import Command, Export, Handshake, NbdError, Reply, ReplyParser, Request, error_text

NO_CONNECTION: Final = -1  # an outcome's error when the client gave up: the server never answered
BACKOFF_MIN_S: Final = 0.001
BACKOFF_MAX_S: Final = 0.05
HANDSHAKE_S_MAX: Final = 10.0
PATIENCE_S: Final = 30.0
LENGTH_MAX: Final = 32 << 20  # the specification's limit for a request when no other was negotiated


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a host and port, or a Unix socket's path (then `host` is empty)."""

    host: str = ""
    port: int = 0
    path: str = ""

    @staticmethod
    def parse(text: str) -> Address:
        """From "HOST:PORT" or "unix:PATH". Raises ValueError in words."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return Address(path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is no address: it must read HOST:PORT or unix:PATH")
        return Address(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. `seconds` since it was submitted; `attempts` times it was sent; over which connection."""

    error: int
    data: bytes
    seconds: float
    attempts: int
    connection: int


@dataclass(frozen=True, slots=True)
class Gap:
    """One loss of connection as the client saw it; times of the monotonic clock, in seconds."""

    lost: float
    last_reply_before: float
    first_reply_after: float
    resent: int


Done = Callable[[Outcome], None]


@dataclass(slots=True)
class _Pending:
    request: Request
    done: Done
    submitted: float
    attempts: int = 0


class _Connection(asyncio.Protocol):
    """One connection: the handshake, then replies to `on_replies`; `ready` and `lost` are what its owner awaits."""

    def __init__(self, payload_length: Callable[[int], int | None], on_replies: Callable[[list[Reply]], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Export] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self._handshake = Handshake()
        self._parser = ReplyParser(payload_length)
        self._on_replies = on_replies
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.lost.done():
            return
        try:
            if not self.ready.done():
                data = self._negotiate(data)
            replies = self._parser.feed(data) if data else []
        except NbdError as error:
            self.drop(str(error))
            return
        if replies:
            self._on_replies(replies)

    def _negotiate(self, data: bytes) -> bytes:
        out = self._handshake.feed(data)
        if out:
            self.write(out)
        if self._handshake.export is None:
            return b""
        self.ready.set_result(self._handshake.export)
        return self._handshake.rest

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection broke: {exc}" if exc else "the server closed the connection")

    def write(self, data: bytes) -> None:
        """Hand bytes to the kernel, or to the transport's buffer."""
        assert self._transport is not None
        self._transport.write(data)

    def drop(self, why: str) -> None:
        """End this connection now, unsent bytes with it."""
        self._end(why)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
        if not self.ready.done():
            self.ready.set_exception(NbdError(why))
            self.ready.exception()  # retrieved: nobody may be waiting


class NbdClient:
    """See the top of this file. All calls belong to the running event loop's thread."""

    def __init__(self, address: Address, patience_s: float = PATIENCE_S) -> None:
        self.address = address
        self.gaps: list[Gap] = []
        self.retried = 0
        self.connections = 0
        self.last_reply = 0.0
        self.trouble = ""  # why the last attempt to connect failed, or the last connection ended
        self._patience_s = patience_s
        self._pending: dict[int, _Pending] = {}
        self._queue: list[int] = []
        self._cookie = 0
        self._connection: _Connection | None = None
        self._export: Export | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._flushing = False
        self._gap: tuple[float, float, int] | None = None
        self._gave_up = False

    @property
    def export(self) -> Export:
        """What the server offers; known once `open` has returned."""
        assert self._export is not None, "the client was not opened"
        return self._export

    @property
    def connected(self) -> bool:
        """Whether a connection is in its transmission phase."""
        return self._connection is not None and not self._connection.lost.done()

    @property
    def in_flight(self) -> int:
        """Requests sent over the present connection and not answered; 0 without a connection."""
        return len(self._pending) - len(self._queue) if self.connected else 0

    @property
    def unanswered(self) -> int:
        """Requests submitted and not answered, sent or not."""
        return len(self._pending)

    async def open(self) -> Export:
        """Connect for the first time. Raises NbdError when that does not succeed within the patience."""
        assert self._keeper is None, "the client is open already"
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep_connected(opened))
        await opened
        return self.export

    async def close(self) -> None:
        """Say goodbye when connected, and end. Requests that are still unanswered are forgotten."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._connection is not None:
            self._connection.write(Request(Command.DISCONNECT).encode(0))
            await asyncio.sleep(0)
            self._connection.drop("closed by the client")
            self._connection = None
        self._pending.clear()
        self._queue.clear()

    def submit(self, request: Request, done: Done) -> None:
        """Send a request soon; `done` is called once with its outcome, never from within this call."""
        assert not self._gave_up, "submitted to a client that gave up"
        assert max(request.length, len(request.data)) <= LENGTH_MAX, "the request is too long for the protocol"
        self._cookie += 1
        self._pending[self._cookie] = _Pending(request, done, time.monotonic())
        self._queue.append(self._cookie)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send what is queued at once, in one write."""
        self._flushing = False
        if self._connection is None or self._connection.lost.done() or not self._queue:
            return
        out = [self._encode(cookie) for cookie in self._queue]
        self._queue.clear()
        self._connection.write(b"".join(out))

    async def request(self, request: Request) -> bytes:
        """Send a request and await its data. Raises NbdError in words on an error reply, or without a connection."""
        if self._gave_up:
            raise NbdError(self._why(NO_CONNECTION))
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.submit(request, lambda outcome: None if answer.done() else answer.set_result(outcome))
        outcome = await answer
        if outcome.error:
            raise NbdError(f"{command_name(request.command)} at {request.offset}: {self._why(outcome.error)}")
        return outcome.data

    def _why(self, error: int) -> str:
        return f"no connection: {self.trouble}" if error == NO_CONNECTION else f"the server answers {error_text(error)}"

    def _encode(self, cookie: int) -> bytes:
        pending = self._pending[cookie]
        pending.attempts += 1
        return pending.request.encode(cookie)

    def _payload_length(self, cookie: int) -> int | None:
        pending = self._pending.get(cookie)
        if pending is None or not pending.attempts:
            return None
        return pending.request.length if pending.request.command == Command.READ else 0

    def _replies(self, replies: list[Reply]) -> None:
        now = time.monotonic()
        if self._gap is not None:
            self.gaps.append(Gap(self._gap[0], self._gap[1], now, self._gap[2]))
            self._gap = None
        self.last_reply = now
        for reply in replies:
            pending = self._pending.pop(reply.cookie)
            seconds = now - pending.submitted
            pending.done(Outcome(reply.error, reply.data, seconds, pending.attempts, self.connections))

    async def _keep_connected(self, opened: asyncio.Future[None]) -> None:
        since, backoff_s = time.monotonic(), BACKOFF_MIN_S
        while True:
            connection = await self._connect()
            if connection is not None:
                self._adopt(connection)
                if not opened.done():
                    opened.set_result(None)
                self._forsake(await connection.lost)
                since, backoff_s = time.monotonic(), BACKOFF_MIN_S
            elif time.monotonic() - since > self._patience_s:
                self._give_up(opened)
                return
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 1.5, BACKOFF_MAX_S)

    async def _connect(self) -> _Connection | None:
        """One attempt, up to the handshake's end; None when it failed (`trouble` says why)."""
        connection = _Connection(self._payload_length, self._replies)
        try:
            async with asyncio.timeout(min(HANDSHAKE_S_MAX, self._patience_s)):
                await self._dial(connection)
                self._export = await connection.ready
            return connection
        except TimeoutError:
            self.trouble = f"the server at {self.address} did not shake hands in time"
        except (OSError, NbdError) as error:
            self.trouble = f"cannot connect to {self.address}: {error}"
        except asyncio.CancelledError:
            connection.drop("closed by the client")
            raise
        connection.drop(self.trouble)
        return None

    async def _dial(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        if self.address.path:
            await loop.create_unix_connection(lambda: connection, self.address.path)
        else:
            await loop.create_connection(lambda: connection, self.address.host, self.address.port)

    def _adopt(self, connection: _Connection) -> None:
        """A connection is ready: send everything that is unanswered, oldest first."""
        resent = sum(1 for pending in self._pending.values() if pending.attempts)
        self.retried += resent
        if self._gap is not None:
            self._gap = (self._gap[0], self._gap[1], resent)
        self.connections += 1
        self._connection = connection
        self._queue = list(self._pending)
        self.flush()

    def _forsake(self, why: str) -> None:
        self._connection = None
        self.trouble = why
        if self._gap is None:
            self._gap = (time.monotonic(), self.last_reply, 0)

    def _give_up(self, opened: asyncio.Future[None]) -> None:
        """The patience is at its end: every request fails, later ones are a bug."""
        self._gave_up = True
        if not opened.done():
            opened.set_exception(NbdError(f"{self.trouble} (tried for {self._patience_s:g} s)"))
        now, pendings = time.monotonic(), list(self._pending.values())
        self._pending.clear()
        self._queue.clear()
        for pending in pendings:
            outcome = Outcome(NO_CONNECTION, b"", now - pending.submitted, pending.attempts, self.connections)
            pending.done(outcome)

    @property
    def gave_up(self) -> bool:
        """Whether the client stopped trying to connect; it takes no more requests then."""
        return self._gave_up


def command_name(command: int) -> str:
    """A command in words."""
    try:
        return Command(command).name.replace("_", " ")
    except ValueError:
        return f"vendor command {command:#x}"
