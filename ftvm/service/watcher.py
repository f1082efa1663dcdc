# SPDX-License-Identifier: GPL-2.0-or-later
"""`Watcher`: the little that the block service asks of the loop that owns the process's one poller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Watcher(Protocol):
    """Calls back when a file descriptor is ready; `events` are `select.EPOLLIN` and the like."""

    def watch(self, fd: int, events: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever one of `events` holds for `fd`; replaces an earlier watch of the same `fd`."""

    def unwatch(self, fd: int) -> None:
        """Forget `fd`."""
