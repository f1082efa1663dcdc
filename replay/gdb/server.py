# SPDX-License-Identifier: GPL-2.0-or-later
"""The debugger's door: listens, and serves one connection after the other.

While the guest runs for a debugger, its connection is looked at between entries: an interrupt (Ctrl-C) stops the run,
and so does a closed connection.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Final

from replay.gdb.packet import ACK, INTERRUPT, NAK, PacketReader, ProtocolError, frame
from replay.gdb.session import Session, Target

RECEIVE: Final = 1 << 16
TELL_EVERY_S: Final = 0.5  # GDB gives a command up after two seconds without a word


class Server:
    """Bound and listening from its birth on; OSError when the address is not to be had."""

    def __init__(self, host: str, port: int, say: Callable[[str], None] = lambda words: None) -> None:
        self._listener = socket.create_server((host, port), family=_family(host), backlog=1)
        self._say = say

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens; the port is a real one also when 0 was asked for."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def serve(self, target: Target, connections: int | None = None) -> None:
        """Serve debuggers, one at a time; so many, or for ever."""
        served = 0
        while connections is None or served < connections:
            connection, peer = self._listener.accept()
            with connection:
                self._say(f"a debugger has connected from {peer[0]}")
                words = Connection(connection, target).serve()
                self._say(f"the debugger has gone{words}; waiting for the next one")
            served += 1

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Connection:
    """One debugger, from its first byte to its last."""

    def __init__(self, connection: socket.socket, target: Target) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._reader = PacketReader()
        self._waiting: list[tuple[bytes, bool]] = []
        self._closed = False
        self._interrupted = False
        self._last = b""
        self._told = 0.0
        self._session = Session(target)
        target.timeline.interrupted = self._asked_to_stop

    def serve(self) -> str:
        """Until the debugger goes; words for why, when there is something to be said."""
        try:
            while not self._closed and not self._session.ended:
                if not self._waiting:
                    self._receive()
                while self._waiting and not self._session.ended:
                    self._take(*self._waiting.pop(0))
        except ProtocolError as error:
            return f": {error}"
        except OSError as error:
            return f": {error.strerror}"
        finally:
            self._session.close()
            self._session.timeline.interrupted = lambda: False
        return ""

    def _take(self, item: bytes, is_packet: bool) -> None:
        if not is_packet:
            if item == NAK and self._last:
                self._socket.sendall(self._last)
            return
        if item == NAK:  # a packet whose sum was wrong
            self._socket.sendall(NAK)
            return
        if self._session.acks:
            self._socket.sendall(ACK)
        self._interrupted = False
        self._told = time.monotonic()
        self._last = frame(self._session.handle(item))
        self._socket.sendall(self._last)

    def _receive(self) -> None:
        data = self._socket.recv(RECEIVE)
        self._closed = not data
        self._waiting += self._reader.feed(data)

    def _asked_to_stop(self) -> bool:
        """While the guest runs: has something come that ends it?"""
        while not self._closed and select.select([self._socket], [], [], 0)[0]:
            self._receive()
        while self._waiting and not self._waiting[0][1]:
            item, _ = self._waiting.pop(0)
            self._interrupted = self._interrupted or item == INTERRUPT
        if self._session.talking:
            self._tell_progress()
        return self._interrupted or self._closed

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now - self._told < TELL_EVERY_S:
            return
        self._told = now
        timeline = self._session.timeline
        words = f"at entry {timeline.position.sequence} of {timeline.end.sequence}\n"
        self._socket.sendall(frame(b"O" + words.encode().hex().encode()))
