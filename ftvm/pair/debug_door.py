# SPDX-License-Identifier: GPL-2.0-or-later
"""`DebugDoor`: where a debugger looks into a running pair: at its backup's machine, which does not stand still for it.

    STATE/b/debug.sock    there while side b is a backup in sync (debug_wire.py says what goes over it)

    guest's thread    [entry] a debugger waits: begin a moment [entry] tell the moment [entry] ...
    door's thread     accept | send the moment | send entries as they come | until the debugger goes

Between two entries the guest's thread begins a copy-on-write snapshot, a fraction of a millisecond. Everything else
happens in the door's thread, at a lower priority. Memory is bounded: a debugger that takes too slowly, or a guest that
writes faster than can be read, ends the connection in words. One debugger at a time; the next one waits for its turn.

With `history`, a debugger is given a moment of the past and all that followed: up to two moments are held that nobody
reads yet. The younger one begins when the older one has come to half of what it may take, and takes its place then.

    older |--------------------------------> entries
    younger                  |-------------> entries      now
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgpack

from ftvm.chunk_snapshot import FollowedDisk
from ftvm.machine import Machine
from ftvm.pair.debug_wire import NAME, VERSION, Kind, chunk_body, entry_body, message
from ftvm.pair.moment import Moment
from ftvm.pair.ram_feed import encode_pages
from ftvm.world.unix_listener import listen_unix
from replay.entry import EpochResult

HELD_MAX: Final = 256 << 20
HISTORY_CLOCK: Final = 2_000_000_000  # what a debugger has to run to come to the present: some seconds of computing
NICE: Final = 10
SEND_S: Final = 30.0  # for a debugger to take what waits
POLL_S: Final = 0.2
JOIN_S: Final = 5.0
TOO_SLOW: Final = "the guest writes faster than the debugger reads: try again"


class SizedDisk(FollowedDisk, Protocol):
    """A followed disk whose size is known."""

    @property
    def capacity(self) -> int: ...


class DebugDoor:
    """Of one backup. `executed`, `boundary` and `close` are called in the guest's thread, between two epochs."""

    def __init__(
        self,
        directory: Path,
        machine: Machine,
        disks: Sequence[SizedDisk],
        wake: Callable[[], None],
        say: Callable[[str], None] = lambda text: None,
        held_max: int = HELD_MAX,
        history: int = 0,
    ) -> None:
        """Opens the socket; OSError. `wake` is called in the door's thread when `boundary` is due."""
        self._path = directory / NAME
        self._machine = machine
        self._disks = disks
        self._wake = wake
        self._say = say
        self._held_max = held_max + history
        self._history = history
        self._past: deque[Moment] = deque()  # older and younger, not read by anybody
        self._news = threading.Condition()
        self._asked = self._closing = False
        self._moment: Moment | None = None  # that is being read
        self._given: Moment | None = None  # the same, until the door's thread has taken it
        self._listener = listen_unix(self._path)
        self._thread = threading.Thread(target=self._work, name="debug door", daemon=True)
        self._thread.start()

    # -- the guest's thread -----------------------------------------------------------------------------------------

    def boundary(self) -> None:
        """Begin a moment for a debugger that waits for one, and let go of one that is not wanted any more."""
        moment = self._moment
        if moment is not None and moment.read and moment.follows:
            moment.close()
        if moment is not None and moment.over:
            moment.close()
            with self._news:
                self._moment = None
                self._news.notify()
        if self._asked and self._moment is None:
            with self._news:
                self._asked = False
                self._moment = self._past.popleft() if self._past else Moment(self._machine, self._disks)
                self._moment.present = self._machine.sequence
                self._given = self._moment
                self._news.notify()
        if self._history:
            self._keep_past()

    def _keep_past(self) -> None:
        past = self._past
        if past and (self._full(past[0]) >= 1 or sum(moment.held for moment in past) > 1.5 * self._history):
            past.popleft().close()
        if not past or (len(past) < 2 and self._full(past[0]) >= 0.5):
            past.append(Moment(self._machine, self._disks))

    def _full(self, moment: Moment) -> float:
        """How much of what it may take it has taken: memory, or of a debugger's time to come to the present."""
        return max(moment.held / self._history, (self._machine.clock - moment.clock) / HISTORY_CLOCK)

    def executed(self, data: bytes, result: EpochResult) -> None:
        """The machine has run an entry, here as it came over the channel."""
        moment = self._moment
        if not self._past and (moment is None or moment.over):
            return
        body = entry_body(data, result)
        for past in self._past:
            past.executed(body)
        if moment is not None and not moment.over:
            moment.executed(body)
            if moment.held > self._held_max:
                moment.end(TOO_SLOW)

    def close(self, why: str) -> None:
        """This side is no backup any more: whoever is connected is told why."""
        with self._news:
            self._closing = True
            self._news.notify()
        if self._moment is not None:
            self._moment.end(why)
            self._moment.close()
        while self._past:
            self._past.popleft().close()
        with suppress(OSError):
            self._path.unlink()

    def join(self) -> None:
        """Wait for the thread, which has been told to end."""
        self._thread.join(JOIN_S)

    # -- the door's thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        with self._listener:
            while not self._closing:
                if not select.select([self._listener], [], [], POLL_S)[0]:
                    continue
                with suppress(OSError):
                    connection, _ = self._listener.accept()
                    with connection:
                        connection.settimeout(SEND_S)
                        self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        with self._news:
            self._asked = True
        self._wake()
        with self._news:
            self._news.wait_for(lambda: self._given is not None or self._closing)
            moment, self._given = self._given, None
        if moment is None:
            return
        self._say("a debugger looks at this side's machine")
        try:
            self._send(connection, moment)
        except OSError:
            pass  # it has gone, or takes nothing
        except Exception as error:  # our own bug, or the disk's; the pair is not to suffer from it
            self._say(f"a debugger cannot be served: {type(error).__name__}: {error}")
        finally:
            moment.end("the debugger has gone")
            self._say("the debugger has gone")
            self._wake()
            with self._news:
                self._news.wait_for(lambda: self._moment is not moment or self._closing, POLL_S * 50)

    def _send(self, connection: socket.socket, moment: Moment) -> None:
        sizes = [disk.capacity for disk in self._disks]
        hello = [VERSION, moment.sequence, moment.present, self._machine.config.digest(), sizes]
        connection.sendall(message(Kind.HELLO, msgpack.packb(hello)))
        for section in moment.sections:
            connection.sendall(message(Kind.SECTION, msgpack.packb(section)))
        for pages in moment.pages():
            connection.sendall(message(Kind.RAM, encode_pages(pages)))
            if moment.over:
                break
        for unit, index, content in moment.chunks():
            connection.sendall(message(Kind.CHUNK, chunk_body(unit, index, content)))
            if moment.over:
                break
        if not moment.over:
            moment.read = True
            connection.sendall(message(Kind.WHOLE))
        while (bodies := moment.entries()) is not None:
            if bodies:
                connection.sendall(b"".join(message(Kind.ENTRY, body) for body in bodies))
            elif select.select([connection], [], [], 0)[0] and not connection.recv(1):
                return  # the debugger has gone
        connection.sendall(message(Kind.BYE, moment.over.encode()))
