# SPDX-License-Identifier: GPL-2.0-or-later
"""`Connection`: one client's socket, what it asked and has not been told, and what it has not read yet.

    socket -> Session -> Part (at most 1 MiB, in turn with the other clients') -> journal ... driver
    socket <- unsent  <- Answer (joins a request's parts)  <-------------------------------- reply

A connection is read only while its session starves for bytes and its client reads its replies, so a client can make
its server hold no more than one socket read, one partial request, and the replies it is owed. All clients together can
make it hold no more than `owed_bytes_max` of replies and what is in the machine: a READ whose reply has to be joined
from parts waits until there is room for all of it.
"""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass
from select import EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import Final, NamedTuple

from ftvm.service.export import Export
from ftvm.service.limits import Limits, Owed
from ftvm.service.nbd import FLUSH, PART_MAX, READ, VENDOR, WRITE, reply_head
from ftvm.service.session import DISCONNECT, ClientRequest, Session

WITH_PAYLOAD: Final = (READ, WRITE)
WITHOUT_LENGTH: Final = (FLUSH, VENDOR)  # their length field is no range of the disk


@dataclass(slots=True)
class Answer:
    """What is owed for one client request; `missing` bytes (or 1 for a request without length) are outstanding."""

    cookie: int
    kind: int
    start: int
    missing: int
    error: int = 0
    joined: bytearray | None = None  # read data of a request that was split
    sent: bool = False  # already answered (with an error) while parts were still to come
    reserved: int = 0  # bytes of `joined`, counted as owed from the request on


class Part(NamedTuple):
    """What goes to the journal as one request."""

    connection: Connection
    answer: Answer
    kind: int
    flags: int
    offset: int
    length: int
    data: bytes
    weight: int  # bytes of payload, either way


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket, export: Export, limits: Limits, owed: Owed) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.name = 0  # number of its first request; 0 before that
        self.in_flight = 0
        self.queued = False  # in the server's round
        self.interest = -1  # what the poller watches it for; -1 when it is not registered
        self.gone = False  # the socket is closed
        self.ended = False  # the client sends no more
        self.finishing = False  # the client said that it is done: answer, then close
        self.held = False  # its next request waits until less is owed to all clients
        self.since: float | None = None  # when it was first looked at, or was last seen to read what it is owed
        self.owed = 0  # bytes that this client has not read, or that are being joined for it
        self._export = export
        self._limits = limits
        self._all = owed
        self._session = Session(export)
        self._starved = True
        self._waiting: deque[ClientRequest] = deque()  # taken from the session ahead of their turn: only at the end
        self._current: ClientRequest | None = None
        self._answer: Answer | None = None
        self._position = 0  # bytes of the current request that went out as parts
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self.send(self._session.outgoing())

    # -- reading --------------------------------------------------------------------------------------------------

    def read(self, scratch: memoryview) -> bool:
        """Take what the client has sent; False when there is nothing, `ended` when there will be no more."""
        try:
            count = self.sock.recv_into(scratch)
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self.ended = True
            return False
        self._session.receive(scratch[:count])
        self._starved = False
        return True

    def end(self, scratch: memoryview) -> bool:
        """The client has closed: drop its unread requests, unless it said goodbye; False when nothing is left to do."""
        while not self.ended and self.read(scratch):
            pass
        self.ended = True
        rest: list[ClientRequest] = []
        while not self.finishing and (item := self._session.next()) is not None:
            if isinstance(item, ClientRequest):
                rest.append(item)
            else:
                self.finishing = True
                self._waiting.extend(rest)
        return self.finishing and not self.done

    @property
    def eager(self) -> bool:
        """Could there be a part to be had?"""
        return bool(not self._starved or self._current or self._waiting)

    @property
    def wanted(self) -> int:
        """Events to poll for."""
        events = EPOLLOUT if self._unsent else 0
        if self.ended or self.finishing:
            return events
        return events | (EPOLLIN | EPOLLRDHUP if self._starved and not self.congested else EPOLLRDHUP)

    @property
    def congested(self) -> bool:
        """Does the client not read its replies?"""
        limits = self._limits
        crowded = self._all.bytes > limits.owed_bytes_max and self.owed > limits.share
        return crowded or self._unsent_bytes > limits.unsent_bytes_max

    @property
    def unread(self) -> bool:
        """Is there something that the client has not taken?"""
        return bool(self._unsent)

    @property
    def greeting(self) -> bool:
        """Is the handshake still going on?"""
        return self._session.phase == "handshake"

    @property
    def done(self) -> bool:
        """Has a client that is finishing got all it is owed?"""
        return self.finishing and not (self.in_flight or self._unsent or self._waiting or self._current)

    # -- requests -------------------------------------------------------------------------------------------------

    def next_part(self) -> Part | None:
        """The next part to be journaled; None when there is none now. Raises ClientError."""
        if self.in_flight >= self._limits.in_flight_max or (self.congested and not self._has_room):
            return None
        while self._current is None:
            request = self._next_request()
            if request is None:
                return None
            if self._too_much(request):
                self._waiting.appendleft(request)
                self.held = True
                return None
            self._begin(request)
            if self.congested and not self._has_room:
                return None
        return self._cut(self._current)

    def _next_request(self) -> ClientRequest | None:
        if self._waiting:
            return self._waiting.popleft()
        if self.finishing or self._starved:
            return None
        item = self._session.next()
        if answer := self._session.outgoing():
            self.send(answer)
        if item is None:
            self._starved = True
        elif item is DISCONNECT:
            self.finishing = True
        else:
            assert isinstance(item, ClientRequest)
            return item
        return None

    def _too_much(self, request: ClientRequest) -> bool:
        """Must this READ wait until there is room for its joined reply? One that is alone never waits."""
        joined = request.total if request.kind == READ and request.total > PART_MAX else 0
        return bool(joined and self._all.bytes) and self._all.bytes + joined > self._limits.owed_bytes_max

    @property
    def _has_room(self) -> bool:
        """Was the current request's reply counted as owed when it began?"""
        return self._current is not None and self._answer is not None and self._answer.reserved > 0

    def _owe(self, count: int) -> None:
        self.owed += count
        self._all.bytes += count

    def _begin(self, request: ClientRequest) -> None:
        """Make `request` the current one, or answer it at once."""
        kind = request.kind
        if request.offset == request.start:  # not a later part of a long WRITE
            error = self._export.check(kind, request.flags, request.start, request.total)
            without_length = kind in WITHOUT_LENGTH
            self._answer = Answer(request.cookie, kind, request.start, 1 if without_length else request.total)
            if error or not (request.total or without_length):
                self._finish(self._answer, error)
            elif kind == READ and request.total > PART_MAX:
                self._answer.reserved = request.total
                self._owe(request.total)
        assert self._answer is not None
        if not self._answer.sent:
            self._current = request
            self._position = 0

    def _cut(self, request: ClientRequest) -> Part:
        answer = self._answer
        assert answer is not None
        kind, offset, length = request.kind, request.offset, request.length
        if length <= PART_MAX or kind in WITHOUT_LENGTH:
            self._current = None
        else:
            offset += self._position
            length = min(PART_MAX, length - self._position)
            self._position += length
            if self._position == request.length:
                self._current = None
        self.in_flight += 1
        weight = length if kind in WITH_PAYLOAD else 0
        return Part(self, answer, kind, request.flags, offset, length, request.data, weight)

    def complete(self, part: Part, error: int, data: bytes) -> None:
        """The driver's reply to one part."""
        self.in_flight -= 1
        answer = part.answer
        without_length = part.kind in WITHOUT_LENGTH
        answer.missing -= 1 if without_length else part.length
        answer.error = answer.error or error
        if not answer.missing and answer.joined is None:
            self._finish(answer, answer.error, data)
            return
        if answer.kind == READ:
            if answer.joined is None:
                answer.joined = bytearray(answer.missing + part.length)
            if not error:
                at = part.offset - answer.start
                answer.joined[at : at + len(data)] = data
        if not answer.missing:
            self._finish(answer, answer.error, b"" if answer.error else answer.joined or b"")

    def _finish(self, answer: Answer, error: int, data: bytes | bytearray = b"") -> None:
        answer.sent = True
        if not self.gone:
            self._owe(-answer.reserved)
        self.send(reply_head(answer.cookie, error), data)

    # -- writing --------------------------------------------------------------------------------------------------

    def send(self, head: bytes, data: bytes | bytearray = b"") -> None:
        """Send now what the socket takes, keep the rest. Failures show as the connection's end when it is polled."""
        if self.gone or not head:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = self.sock.sendmsg((head, data)) if data else self.sock.send(head)
            except BlockingIOError:
                pass
            except OSError:
                return
        total = len(head) + len(data)
        if sent == total:
            return
        self._unsent_bytes += total - sent
        self._owe(total - sent)
        for piece in (memoryview(head), memoryview(data)):
            if sent < len(piece):
                self._unsent.append(piece[sent:])
            sent = max(0, sent - len(piece))

    def flush(self) -> bool:
        """Send what was kept; False when the connection has ended."""
        while self._unsent:
            try:
                sent = self.sock.sendmsg(list(self._unsent)[:64])
            except BlockingIOError:
                return True
            except OSError:
                return False
            self._unsent_bytes -= sent
            self._owe(-sent)
            self.since = None
            while sent:
                piece = self._unsent[0]
                if sent < len(piece):
                    self._unsent[0] = piece[sent:]
                    break
                sent -= len(piece)
                self._unsent.popleft()
        return True

    def close(self) -> None:
        """Close the socket and forget what was owed."""
        self.gone = True
        self._unsent.clear()
        self._unsent_bytes = 0
        self._owe(-self.owed)
        self.sock.close()
