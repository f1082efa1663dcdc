# SPDX-License-Identifier: GPL-2.0-or-later
"""One place to wait in: descriptors, a deadline in microseconds, and other threads.

epoll alone rounds its timeout to milliseconds, ten times an epoch's overhead. An epoll descriptor is readable when
something in it is ready, so the wait is a select(2) on that one descriptor (microseconds), and epoll then tells what.
A callback may watch and unwatch anything, also descriptors that are ready in the same round.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass

Callback = Callable[[bool, bool], None]
_FD_SETSIZE = 1024
_ROUND_MAX = 64


@dataclass(frozen=True, slots=True)
class _Watch:
    read: bool
    write: bool
    callback: Callback


class Poller:
    """Calls `callback(readable, writable)` for descriptors that are ready; an error or hang-up counts as both."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._epoll_fd = self._epoll.fileno()
        self._watches: dict[int, _Watch] = {}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)

    def watch(self, fd: int, read: bool, write: bool, callback: Callback) -> None:
        """Call back whenever `fd` is ready; replaces what was asked for `fd` before. Neither read nor write: unwatch.

        Raises PermissionError for what is always ready (regular files).
        """
        if not read and not write:
            self.unwatch(fd)
            return
        mask = (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0)
        if fd in self._watches:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._watches[fd] = _Watch(read, write, callback)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`; must come before it is closed. Nothing happens when it was not watched."""
        if self._watches.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait(self, timeout_seconds: float) -> int:
        """Wait at most that long for something to be ready, call back for it; returns the number of callbacks.

        Zero or less only looks. Returns early, possibly with 0, after `wake`.
        """
        if timeout_seconds > 0 and not self._sleep(timeout_seconds):
            return 0
        called = 0
        for fd, mask in self._epoll.poll(0, _ROUND_MAX):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
                continue
            watch = self._watches.get(fd)
            if watch is None:  # unwatched by a callback of this round
                continue
            readable = watch.read and bool(mask & ~select.EPOLLOUT)
            writable = watch.write and bool(mask & ~select.EPOLLIN)
            if readable or writable:
                called += 1
                watch.callback(readable, writable)
        return called

    def wake(self) -> None:
        """End a `wait` that is under way, or the next one; the only call that other threads may make."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Release the poller's own descriptors; watched ones stay open."""
        self._watches.clear()
        self._epoll.close()
        os.close(self._wake_fd)

    def _sleep(self, seconds: float) -> bool:
        if self._epoll_fd >= _FD_SETSIZE:  # beyond what select(2) can name: milliseconds have to do
            ready = select.poll()
            ready.register(self._epoll_fd, select.POLLIN)
            return bool(ready.poll(seconds * 1000))
        return bool(select.select((self._epoll_fd,), (), (), seconds)[0])
