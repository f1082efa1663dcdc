# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole block service in one process: real sockets, the server, the journal, and a stand-in for the driver VM.

The stand-in serves from memory; it can be told to reorder, to die on a poisoned sector, to answer nonsense and to hang.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time as clock
from collections.abc import Callable
from pathlib import Path

from devices.event import EventKind, Output
from ftvm.service.block_server import BlockServer
from ftvm.service.export import Export
from ftvm.service.journal import Journal
from ftvm.service.limits import Limits
from ftvm.service.nbd import FLUSH, READ, REQUEST, REQUEST_MAGIC, TRIM, VENDOR, WRITE, WRITE_ZEROES, reply_head

WATCHDOG = 20_000_000  # two seconds in guest ticks


class DriverDied(Exception):
    """The stand-in has panicked."""


class FakeDriver:
    """The driver VM's translation module and disk. `say` takes the bytes that it writes to its port."""

    def __init__(self, size: int, say: Callable[[bytes], None], seed: int = 0) -> None:
        self.disk = bytearray(size)
        self.say = say
        self.queue: list[tuple[int, int, int, int, int, bytes]] = []
        self.random = random.Random(seed)
        self.reorder = False
        self.fragments = False
        self.poison: set[int] = set()  # offsets whose requests kill it
        self.nonsense = 0  # after that many requests it says something wrong
        self.handled: list[int] = []
        self.flushes = 0

    def submit(self, frame: bytes) -> None:
        """One request frame from the journal."""
        magic, flags, kind, number, offset, length = REQUEST.unpack_from(frame)
        assert magic == REQUEST_MAGIC
        data = frame[REQUEST.size :]
        assert len(data) == (length if kind == WRITE else 0)
        self.queue.append((kind, flags, number, offset, length, data))

    def reset(self) -> None:
        """Power-cycled: it forgets everything but the disk."""
        self.queue.clear()

    def work(self) -> bool:
        """Handle one request; False when there is none. Raises DriverDied."""
        if not self.queue:
            return False
        kind, _, number, offset, length, data = self.queue.pop(
            self.random.randrange(len(self.queue)) if self.reorder else 0
        )
        self.handled.append(number)
        if offset in self.poison and kind != FLUSH:
            raise DriverDied
        body = b""
        if kind == READ:
            body = bytes(self.disk[offset : offset + length])
        elif kind == WRITE:
            self.disk[offset : offset + length] = data
        elif kind in (TRIM, WRITE_ZEROES):
            self.disk[offset : offset + length] = bytes(length)
        elif kind == FLUSH:
            self.flushes += 1
        else:
            assert kind == VENDOR
        if self.nonsense:
            self.nonsense -= 1
            if not self.nonsense:
                self.say(b"panic: ")
                return True
        self._speak(reply_head(number, 0) + body)
        return True

    def _speak(self, reply: bytes) -> None:
        while reply:
            count = self.random.randint(1, len(reply)) if self.fragments else len(reply)
            self.say(reply[:count])
            reply = reply[count:]


class Bench:
    """Server, journal and driver under one loop; use as a context manager to run the loop in a thread."""

    def __init__(
        self, listeners: list[socket.socket], size: int = 64 << 20, limits: Limits | None = None, vendor: bool = True
    ) -> None:
        self.server = BlockServer(listeners, Export(size, name="disk", vendor=vendor), limits)
        self.driver = FakeDriver(size, lambda data: self.journal.port_output(data, self.time))
        self.violations: list[str] = []
        self.outputs: list[Output] = []
        self.keep_outputs = False
        self.deaths = 0
        self.time = 0
        self.idle_s = 0.02
        self.work_max = 1000
        self._broken = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.journal = Journal(self.driver.submit, self._emit, self._violated, WATCHDOG)

    def _emit(self, output: Output) -> None:
        if self.keep_outputs:
            self.outputs.append(output)
        self.server.deliver(output)

    def _violated(self, text: str) -> None:
        self.violations.append(text)
        self._broken = True

    def step(self) -> bool:
        """One epoch; True when something happened."""
        self.time += 1000
        events = self.server.take_events()
        for event in events:
            call = self.journal.request if event.kind == EventKind.BLOCK_REQUEST else self.journal.close
            call(event.data, self.time)
        worked = False
        try:
            for _ in range(self.work_max):
                if self._broken or not self.driver.work():
                    break
                worked = True
        except DriverDied:
            self._broken = True
        if self._broken or self.journal.overdue(self.time) is not None:
            self.deaths += 1
            self._broken = False
            self.journal.died()
            self.driver.reset()
            self.journal.restarted(self.time)
        return bool(events) or worked

    def settle(self) -> None:
        """Step until nothing happens any more."""
        quiet = 0
        while quiet < 3:
            quiet = 0 if self.step() else quiet + 1

    def _run(self) -> None:
        poller = select.epoll()
        poller.register(self.server.fileno(), select.EPOLLIN)
        try:
            while not self._stopping:
                if not self.step() and not self.server.busy:
                    poller.poll(self.idle_s)
        except BaseException as error:
            self.failure = error
        finally:
            poller.close()

    def __enter__(self) -> Bench:
        self.server.start()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        if self._thread is not None:
            self._thread.join()
        self.server.close()
        if self.failure is not None:
            raise self.failure

    def wait(self, condition: Callable[[], bool], seconds: float = 5) -> None:
        """Wait until `condition` holds while the loop runs in its thread."""
        end = clock.monotonic() + seconds
        while not condition():
            assert clock.monotonic() < end, "the block service did not get there in time"
            assert self.failure is None
            clock.sleep(0.005)


def listen_unix(path: Path) -> socket.socket:
    """A listening Unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    return listener


def listen_tcp() -> socket.socket:
    """A listening TCP socket on a free port of the loopback."""
    return socket.create_server(("127.0.0.1", 0))
