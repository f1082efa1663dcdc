# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers to test the demo against.

`QemuNbd` is a real server process on a listening socket that outlives it, as in a pair: SIGKILL it, start the next one
on the same socket. `FaultyServer` is a small NBD server in a thread, whose driver "dies" on the vendor request, and
that breaks its promises on demand: it loses, doubles or damages a block.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftvm.demo.content import BLOCK
from ftvm.demo.nbd_wire import (
    ANSWER,
    ANSWER_ACK,
    ANSWER_INFO,
    ANSWER_MAGIC,
    FIXED_NEWSTYLE,
    GREETING,
    INFO_EXPORT,
    INIT_MAGIC,
    NO_ZEROES,
    OPTION,
    OPTION_GO,
    OPTION_MAGIC,
    REPLY,
    REPLY_MAGIC,
    REQUEST,
    Command,
    ExportFlag,
)

SIZE = 16 << 20


class QemuNbd:
    """A pair's stand-in: qemu-nbd on an inherited socket. `delay_s`: how long after a kill nobody serves."""

    def __init__(self, image: Path, address: str, delay_s: float = 0.03) -> None:
        with image.open("wb") as file:
            file.truncate(SIZE)
        self._image = image
        self._delay_s = delay_s
        self._socket = _listen(address)
        self._closed = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._successor: threading.Thread | None = None
        self.start()

    @property
    def address(self) -> str:
        """Where it is served."""
        name = self._socket.getsockname()
        return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"

    def start(self) -> None:
        """Serve, in a new process that gets the socket by the socket activation protocol."""
        script = 'exec 3<&"$0"; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
        server = ["qemu-nbd", "-f", "raw", "--discard=unmap", "--persistent", "--shared=0", str(self._image)]
        fd = self._socket.fileno()
        self._process = subprocess.Popen(["bash", "-c", script, str(fd), *server], pass_fds=[fd])

    def kill(self) -> int:
        """SIGKILL the server; nobody serves then."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        return self._process.pid

    def close(self) -> None:
        """End everything."""
        self._closed.set()
        if self._successor is not None:
            self._successor.join()
        self.kill()
        assert self._process is not None
        self._process.wait()
        self._socket.close()

    def primary_pid(self) -> int:
        self.wait_protected(5)
        assert self._process is not None
        return self._process.pid

    def wait_protected(self, timeout_s: float) -> None:
        if self._successor is not None:
            self._successor.join(timeout_s)

    def status(self) -> dict[str, Any]:
        return {"protected": True, "driver_restarts": 0, "log_bytes": 1000}

    def kill_primary(self) -> int:
        process = self._process
        assert process is not None
        pid = self.kill()

        def succeed() -> None:
            process.wait()
            if not self._closed.wait(self._delay_s):
                self.start()

        self._successor = threading.Thread(target=succeed)
        self._successor.start()
        return pid


def _listen(address: str) -> socket.socket:
    """A listening socket at "unix:PATH", or on a free port for "tcp"."""
    if address.startswith("unix:"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address.removeprefix("unix:"))
    else:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    return listener


class FaultyServer:
    """An NBD server in threads, and a pair whose driver dies. `fault`: lost, doubled, damaged, refuses or empty."""

    def __init__(self, fault: str = "", block: int = 3, death_s: float = 0.02) -> None:
        self.restarts = 0
        self.driver_dies = True
        self._fault = fault
        self._block = block
        self._death_s = death_s
        self._disk = bytearray(SIZE)
        self._older: bytes | None = None  # what comes back over the block when it doubles
        self._stuck = False
        self._lock = threading.Lock()
        self._listener = _listen("tcp")
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def primary_pid(self) -> int:
        return os.getpid()

    def kill_primary(self) -> int:
        raise ProcessLookupError("this pair has no process of its own to kill")

    def wait_protected(self, timeout_s: float) -> None:
        return

    def status(self) -> dict[str, Any]:
        return {"protected": True, "driver_restarts": self.restarts, "log_bytes": 500}

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        try:
            connection.sendall(GREETING.pack(INIT_MAGIC, OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES))
            stream.read(4)
            _, option, length = OPTION.unpack(stream.read(OPTION.size))
            assert option == OPTION_GO
            stream.read(length)
            flags = 1 | ExportFlag.FLUSH | ExportFlag.FUA | ExportFlag.TRIM | ExportFlag.WRITE_ZEROES
            info = INFO_EXPORT.pack(0, SIZE, flags)
            connection.sendall(ANSWER.pack(ANSWER_MAGIC, OPTION_GO, ANSWER_INFO, len(info)) + info)
            connection.sendall(ANSWER.pack(ANSWER_MAGIC, OPTION_GO, ANSWER_ACK, 0))
            while head := stream.read(REQUEST.size):
                _, _, command, cookie, offset, length = REQUEST.unpack(head)
                data = stream.read(length) if command == Command.WRITE else b""
                error, reply = self._answer(command, offset, length, data)
                connection.sendall(REPLY.pack(REPLY_MAGIC, error, cookie) + reply)
        except (OSError, ValueError, struct.error):
            pass

    def _answer(self, command: int, offset: int, length: int, data: bytes) -> tuple[int, bytes]:
        with self._lock:
            if command == Command.READ:
                return self._read(offset, length)
            if command in (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES):
                self._write(offset, data or bytes(length))
            elif command == 0x4654 and self.driver_dies:
                time.sleep(self._death_s)
                self.restarts += 1
            return (5 if command == 0x4654 else 0), b""

    def _write(self, offset: int, data: bytes) -> None:
        for at in range(0, len(data), BLOCK):
            block, content = (offset + at) // BLOCK, data[at : at + BLOCK]
            if block == self._block and content[:1] != b"\0":
                if self._stuck:
                    continue
                if self._fault == "lost" and any(self._disk[block * BLOCK : block * BLOCK + 8]):
                    self._stuck = True  # this write is acknowledged, and never happens
                    continue
                self._older = bytes(self._disk[block * BLOCK : (block + 1) * BLOCK])
                content = bytes([content[0]]) + content[1:2000] + b"!" + content[2001:] if self._damages() else content
            elif block == self._block and self._stuck:
                continue
            self._disk[offset + at : offset + at + len(content)] = content

    def _damages(self) -> bool:
        return self._fault == "damaged"

    def _read(self, offset: int, length: int) -> tuple[int, bytes]:
        if self._fault == "refuses" and offset == self._block * BLOCK:
            return 5, b""
        data = bytes(self._disk[offset : offset + length])
        own = self._block * BLOCK
        newest = bytes(self._disk[own : own + BLOCK])
        seen = offset <= own < offset + length and newest[:1] != b"\0"
        if self._fault == "doubled" and seen and self._older and self._older[:1] != b"\0" and not self._stuck:
            self._stuck = True  # after this read a twin of the write before strikes
            self._disk[own : own + BLOCK] = self._older
        return 0, data


@contextmanager
def closing(server: Any) -> Iterator[Any]:
    """Close a server at the end, whatever happens."""
    try:
        yield server
    finally:
        server.close()
