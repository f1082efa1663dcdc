# SPDX-License-Identifier: GPL-2.0-or-later
"""The real world of one member: console, networks, block clients and the host's entropy behind one poller.

Everything here belongs to the live side. A member that follows has a world too, but it is not opened until it goes
live; listening sockets may be open all along, then clients wait in their queues.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable

from devices.event import Event, EventKind, Output, OutputKind
from ftvm.service.block_server import BlockServer
from ftvm.world.console import Console
from ftvm.world.entropy import host_entropy
from ftvm.world.network.port import Ports
from ftvm.world.poller import Poller

CONSOLE_INPUT_MAX = 4096


class HostWorld:
    """Sockets, terminals and files."""

    def __init__(
        self,
        poller: Poller,
        open_console: Callable[[], Console],
        block: BlockServer | None,
        notice: Callable[[str], None],
        on_open: Callable[[], None] = lambda: None,
        ports: Ports | None = None,
    ) -> None:
        """`ports`: of the machine's networks. `on_open` is called once this side is live and may serve clients."""
        self.poller = poller
        self.block = block
        self.ports = ports or Ports({})
        self._open_console = open_console
        self._console: Console | None = None
        self._notice = notice
        self._on_open = on_open
        self.opened = False
        if block is not None:
            block.attach(_Watch(poller))

    def take_events(self) -> list[Event]:
        """See `World`."""
        events: list[Event] = []
        if self._console is not None:
            typed = self._console.take_input()
            events += [
                Event(EventKind.CONSOLE_INPUT, 0, typed[start : start + CONSOLE_INPUT_MAX])
                for start in range(0, len(typed), CONSOLE_INPUT_MAX)
            ]
        if self.block is not None:
            events += self.block.take_events()
        return events + self.ports.take_events()

    def entropy(self, count: int) -> bytes:
        """See `World`."""
        return host_entropy(count)

    def deliver(self, sequence: int, index: int, output: Output) -> None:
        """See `World`."""
        kind = output.kind
        if kind == OutputKind.BLOCK_REPLY:
            if self.block is not None:
                self.block.deliver(output)
        elif kind == OutputKind.CONSOLE:
            self._consoles().write(output.data, output.offset)
        elif kind == OutputKind.PACKET:
            self.ports.deliver(output)
        elif kind == OutputKind.NOTICE:
            self._notice(output.data.decode(errors="replace"))

    def observe(self, output: Output) -> None:
        """See `World`."""
        self.ports.observe(output)

    def open(self) -> None:
        """See `World`."""
        self._consoles()
        self.ports.open()
        if self.block is not None:
            self.block.start()
        self.opened = True
        self._on_open()

    def adopt(self, next_number: int, connections: Iterable[int]) -> None:
        """See `World`."""
        if self.block is not None:
            self.block.adopt(next_number, connections)

    def close(self) -> None:
        """See `World`."""
        self.ports.close()
        if self.block is not None:
            self.block.close()
            self.block = None
        if self._console is not None:
            self._console.close()
            self._console = None

    def _consoles(self) -> Console:
        if self._console is None:
            self._console = self._open_console()
        return self._console


class _Watch:
    """The poller as the block service wants it: epoll event masks."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    def watch(self, fd: int, events: int, callback: Callable[[], None]) -> None:
        """See `Watcher`."""
        read, write = bool(events & select.EPOLLIN), bool(events & select.EPOLLOUT)
        self._poller.watch(fd, read, write, lambda *_: callback())

    def unwatch(self, fd: int) -> None:
        """See `Watcher`."""
        self._poller.unwatch(fd)
