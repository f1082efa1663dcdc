# SPDX-License-Identifier: GPL-2.0-or-later
"""A block client with two addresses: it goes on at the other host when one does not answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence

from ftvm.demo.nbd_wire import Command, Handshake, NbdError, Reply, ReplyParser, Request

BLOCK = 4096
PATIENCE_S = 10.0

Connect = Callable[[str], socket.socket]


class Connection:
    """One connection, one request at a time. OSError or NbdError when it does not answer."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._handshake = Handshake()
        self._request: Request | None = None
        self._parser = ReplyParser(self._length)
        while self._handshake.export is None:
            sock.sendall(self._handshake.feed(self._receive()))

    def send(self, request: Request) -> None:
        """Ask, without waiting for the answer."""
        self._request = request
        self._sock.sendall(request.encode(1))

    def answer(self) -> Reply:
        """Wait for the answer."""
        while not (replies := self._parser.feed(self._receive())):
            pass
        return replies[0]

    def ask(self, request: Request) -> bytes:
        """Ask and wait; NbdError when the answer is an error."""
        self.send(request)
        reply = self.answer()
        if reply.error:
            raise NbdError(f"error {reply.error}")
        return reply.data

    def close(self) -> None:
        """Break the connection."""
        self._sock.close()

    def _receive(self) -> bytes:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        return data

    def _length(self, cookie: int) -> int | None:
        request = self._request
        return None if request is None else request.length if request.command == Command.READ else 0


class Writer:
    """Writes version after version of one block, and every so often flushes; remembers what was acknowledged."""

    def __init__(self, connect: Connect, addresses: Sequence[str]) -> None:
        self._connect = connect
        self._addresses = list(addresses)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged = 0  # the last version
        self.served_by = ""
        self.trouble = ""

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S + 5)

    def read(self) -> int:
        """The version that is there now."""
        return int.from_bytes(self._patiently(Request(Command.READ, 0, BLOCK))[:8], "big")

    def _run(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set():
            version = self.acknowledged + 1
            try:
                connection = connection or self._open()
                connection.ask(Request(Command.WRITE, 0, data=version.to_bytes(8, "big") * (BLOCK // 8)))
                if version % 8 == 0:
                    connection.ask(Request(Command.FLUSH))
                self.acknowledged = version
            except (OSError, NbdError) as error:
                self.trouble = f"{self.served_by}: {error}"
                self._addresses.reverse()  # on to the other host
                if connection is not None:
                    connection.close()
                connection = None
            time.sleep(0.005)
        if connection is not None:
            connection.close()

    def _patiently(self, request: Request) -> bytes:
        end = time.monotonic() + PATIENCE_S
        while True:
            connection: Connection | None = None
            try:
                connection = self._open()
                return connection.ask(request)
            except (OSError, NbdError) as error:
                assert time.monotonic() < end, f"no host answers: {error}"
                self._addresses.reverse()
                time.sleep(0.05)
            finally:
                if connection is not None:
                    connection.close()

    def _open(self) -> Connection:
        address = self._addresses[0]
        sock = self._connect(address)
        try:
            connection = Connection(sock)
        except (OSError, NbdError):
            sock.close()
            raise
        self.served_by = address
        return connection
