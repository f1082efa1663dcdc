# SPDX-License-Identifier: GPL-2.0-or-later
"""`stream:HOST:PORT`, `stream:unix:PATH`, `passt`: a stream socket with frames on it (`framing`), to which we connect.

The peer is QEMU with `-netdev stream,server=on`, passt, or anything else that speaks the same; it stays what it is when
a failover changes who is connected to it. A lost connection is made again, for ever. What the peer does not take at
once waits within bounds; beyond them new frames are dropped, whole ones only. The peer gets plain frames: checksums and
long segments that the guest left to us are finished here.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

from devices.guest_error import GuestError
from devices.virtio.offload import FRAME_MIN, PLAIN, frames
from ftvm.config_values import Address, TcpAddress
from ftvm.world.network.framing import Deframer, FramingError, encode
from ftvm.world.network.network import Retry, words
from ftvm.world.poller import Poller

SEND_MAX: Final = 1 << 20  # bytes that wait for the peer
RECEIVE: Final = 64 << 10
CONNECT_S: Final = 2.0
HOLD_S: Final = 0.02  # a connection that ends sooner was none: passt ends those that come beside another one


class StreamNetwork:
    """One connection; implements `Network`."""

    def __init__(self, address: Address, poller: Poller) -> None:
        self.address = address
        self.problem = ""
        self._poller = poller
        self._socket: socket.socket | None = None
        self._connected = False
        self._since = 0.0
        self._now = 0.0
        self._retry = Retry()
        self._reading = True
        self._watched: tuple[bool, bool] = (False, False)
        self._ready = False
        self._deframer = Deframer()
        self._taken: list[bytes] = []  # received, and more than was asked for
        self._waiting = bytearray()

    @property
    def attached(self) -> bool:
        """See `Network`."""
        return self._connected

    def attach(self, now: float) -> None:
        """See `Network`."""
        self._now = now
        if self._connected:
            if now - self._since > HOLD_S:
                self._retry.worked()
            return
        if self._socket is None and self._retry.due(now):
            self._since = now
            try:
                self._socket = self._begin()
            except OSError as error:
                self._lost(words(error))
                return
        if self._socket is not None:
            self._check_connected()

    def take(self, count: int) -> list[bytes]:
        """See `Network`."""
        while self._ready and len(self._taken) < count:
            self._receive()
        taken, self._taken = self._taken[:count], self._taken[count:]
        return taken

    def watch(self, wanted: bool) -> None:
        """See `Network`."""
        self._reading = wanted
        self._watch()

    def send(self, packet: bytes) -> bool:
        """See `Network`."""
        if not self._connected:
            return False
        try:
            data = b"".join([encode(frame) for frame in frames(packet)])
        except GuestError:
            return False
        if self._waiting and len(self._waiting) + len(data) > SEND_MAX:
            return False
        self._waiting += data
        self._drain()
        return True

    def close(self) -> None:
        """See `Network`."""
        self._reading = False
        self._forget()

    # -- connecting ---------------------------------------------------------------------------------------------

    def _begin(self) -> socket.socket:
        address = self.address
        if isinstance(address, TcpAddress):
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            where: str | tuple[str, int] = (address.host, address.port)
        else:
            family, where = socket.AF_UNIX, address.path
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_UNIX:
                _connect_unix(connection, Path(str(where)))
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(where)
        except OSError as error:
            if error.errno != errno.EINPROGRESS:
                connection.close()
                raise
        return connection

    def _check_connected(self) -> None:
        connection = self._socket
        assert connection is not None
        failure = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            self._lost(words(OSError(failure, "")))
            return
        try:
            connection.getpeername()
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self._lost(words(error))
            elif self._now - self._since > CONNECT_S:
                self._lost("no answer")
            return
        self._connected = True
        self._since = self._now
        self.problem = ""
        self._watch()

    def _lost(self, why: str) -> None:
        self._forget()
        self._retry.failed(self._now)
        self.problem = f"{self.address}: {why}"

    def _forget(self) -> None:
        self._connected = False
        self._watch()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._deframer = Deframer()
        self._taken.clear()
        self._waiting.clear()
        self._ready = False

    # -- bytes --------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(RECEIVE)
            if not data:
                self._lost("the peer has ended the connection")
                return
            found = self._deframer.feed(data)
        except BlockingIOError:
            self._ready = False
        except FramingError as error:
            self._lost(str(error))
        except OSError as error:
            self._lost(words(error))
        else:
            self._taken += [PLAIN + frame for frame in found if len(frame) >= FRAME_MIN]

    def _drain(self) -> None:
        assert self._socket is not None
        try:
            while self._waiting:
                del self._waiting[: self._socket.send(self._waiting)]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(words(error))
            return
        self._watch()

    def _watch(self) -> None:
        wanted = (self._reading, bool(self._waiting)) if self._connected else (False, False)
        if self._socket is not None and wanted != self._watched:
            self._watched = wanted
            self._poller.watch(self._socket.fileno(), *wanted, self._event)

    def _event(self, readable: bool, writable: bool) -> None:
        if readable:
            self._ready = True
        if writable and self._connected:
            self._drain()


def _connect_unix(connection: socket.socket, path: Path) -> None:
    """Connect to a path of any length, by way of its directory's descriptor."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
