# SPDX-License-Identifier: GPL-2.0-or-later
"""A console on a Unix socket: clients attach and detach at will, e.g. `socat -,raw,echo=0 unix-connect:console.sock`.

Whoever attaches first gets the last 16 KiB of the stream, then everything; what all of them type is the guest's input.
A client that reads too slowly misses whole pieces, and a notice with their size stands where they were.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from ftvm.world.console import INPUT_MAX, Stream, gap_notice
from ftvm.world.poller import Poller

HISTORY = 16 << 10
CLIENTS_MAX = 16
CLIENT_BUFFER_MAX = 256 << 10
CHUNK = 64 << 10


@dataclass(slots=True, eq=False)
class _Client:
    connection: socket.socket
    waiting: bytearray = field(default_factory=bytearray)
    missed: int = 0
    watched: tuple[bool, bool] = (False, False)

    def offer(self, data: bytes, missing: int) -> None:
        """Queue output; when there is no room, remember how much this client has missed."""
        if len(self.waiting) + len(data) > CLIENT_BUFFER_MAX:
            self.missed += missing + len(data)
            return
        missing += self.missed
        self.missed = 0
        self.waiting += gap_notice(missing) + data if missing else data


class UnixConsole:
    """Serves the console on `listener`, which it owns from now on."""

    def __init__(self, listener: socket.socket, poller: Poller) -> None:
        self._listener = listener
        self._poller = poller
        self._stream = Stream()
        self._history = bytearray()
        self._typed = bytearray()
        self._clients: set[_Client] = set()
        listener.setblocking(False)
        poller.watch(listener.fileno(), True, False, lambda readable, writable: self._accept())

    def take_input(self) -> bytes:
        """See `Console`."""
        typed = bytes(self._typed)
        if typed:
            self._typed.clear()
            for client in self._clients:
                self._watch(client)
        return typed

    def write(self, data: bytes, offset: int) -> None:
        """See `Console`."""
        missing, new = self._stream.take(data, offset)
        if missing:
            self._history.clear()
        self._history += new
        del self._history[:-HISTORY]
        for client in tuple(self._clients):
            client.offer(new, missing)
            self._send(client)

    def close(self) -> None:
        """See `Console`."""
        self._poller.unwatch(self._listener.fileno())
        self._listener.close()
        for client in tuple(self._clients):
            self._drop(client)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone again already, or out of descriptors
            return
        if len(self._clients) >= CLIENTS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(connection)
        self._clients.add(client)
        before = (self._stream.position or 0) - len(self._history)
        client.offer(bytes(self._history), before)
        self._watch(client)
        self._send(client)

    def _ready(self, client: _Client, readable: bool, writable: bool) -> None:
        if readable:
            self._receive(client)
        if writable and client in self._clients:
            self._send(client)

    def _receive(self, client: _Client) -> None:
        try:
            data = client.connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        self._typed += data
        if len(self._typed) >= INPUT_MAX:
            for other in self._clients:
                self._watch(other)

    def _send(self, client: _Client) -> None:
        try:
            while client.waiting:
                del client.waiting[: client.connection.send(client.waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        self._watch(client)

    def _watch(self, client: _Client) -> None:
        """Read unless too much is typed ahead, write only while something waits."""
        wanted = (len(self._typed) < INPUT_MAX, bool(client.waiting))
        if wanted != client.watched:
            client.watched = wanted
            self._poller.watch(
                client.connection.fileno(), *wanted, lambda readable, writable: self._ready(client, readable, writable)
            )

    def _drop(self, client: _Client) -> None:
        self._clients.discard(client)
        self._poller.unwatch(client.connection.fileno())
        client.connection.close()
