# SPDX-License-Identifier: GPL-2.0-or-later
"""`Moment`: a machine between two entries, held while it runs on; and the entries that it has run since.

RAM and disks are copy-on-write: a page or chunk is copied before its first change, so a moment that nobody reads costs
memory for what has changed since (`held`), and one that is being read ever less. Whoever reads takes all of it, once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from ftvm.checkpointing import Changes
from ftvm.chunk_snapshot import FollowedDisk
from ftvm.machine import Machine
from ftvm.ram_snapshot import PAGE, Pages
from ftvm.scratch_disk import CHUNK

PAGES_AT_ONCE: Final = 64  # as a piece of RAM holds
ENTRIES_AT_ONCE: Final = 500
PAUSE_S: Final = 0.05  # a thread that woke for each entry would cost the pair more than all else


class Moment:
    """Made, and told of entries, in the guest's thread between two epochs; read in another one.

    `present` is the last entry when its reader came, `sequence` the one behind which it was made.
    """

    def __init__(self, machine: Machine, disks: Sequence[FollowedDisk]) -> None:
        self.sequence = self.present = machine.sequence
        self.clock = machine.clock
        self.sections = machine.save_state()
        self._changes = Changes(machine, disks)
        self._ram, _ = self._changes.begin(changed=False)
        self._news = threading.Condition()
        self._entries: deque[bytes] = deque()
        self._come = self._gone = 0  # bytes of entries, each counted by one thread
        self._behind = False
        self._over = ""
        self.read = False  # all of RAM and disks
        self._reading = threading.Lock()  # closed is closed: the machine's next snapshots are not this one's
        self._closed = False

    @property
    def held(self) -> int:
        """Bytes of memory, about."""
        waiting = self._come - self._gone
        if self._closed:
            return waiting
        return self._ram.kept * PAGE + sum(series.kept for series in self._changes.disks) * CHUNK + waiting

    def executed(self, body: bytes) -> None:
        """The machine has run an entry; it and its result as they are sent. Nobody is woken for it."""
        self._entries.append(body)
        self._come += len(body)

    def end(self, why: str) -> None:
        """Nothing more will be executed, or wanted."""
        with self._news:
            self._over = self._over or why
            self._news.notify()

    @property
    def follows(self) -> bool:
        """Whether it costs the guest something when it writes."""
        return not self._closed

    @property
    def over(self) -> str:
        """Why nothing more will come; empty while it may."""
        return self._over

    def pages(self) -> Iterator[Pages]:
        """All of RAM that is not zero."""
        while len(pages := self._take_pages()):
            if len(pages.numbers):
                yield Pages(pages.numbers, pages.content)

    def chunks(self) -> Iterator[tuple[int, int, bytes]]:
        """All chunks of disks that may hold something: disk, number, content. OSError."""
        for unit in range(len(self._changes.disks)):
            while (piece := self._take_chunk(unit)) is not None:
                yield unit, *piece

    def _take_pages(self) -> Pages:
        with self._reading:
            return Pages(b"", b"") if self._closed else self._ram.take(PAGES_AT_ONCE)

    def _take_chunk(self, unit: int) -> tuple[int, bytes] | None:
        with self._reading:
            return None if self._closed else self._changes.disks[unit].take()

    def entries(self) -> list[bytes] | None:
        """Executed entries that have come, after a while; empty when none has. None: that was all."""
        with self._news:
            over = self._news.wait_for(lambda: self._over, 0 if self._entries and self._behind else PAUSE_S)
        found: list[bytes] = []
        while self._entries and len(found) < ENTRIES_AT_ONCE:
            found.append(self._entries.popleft())
        self._behind = bool(self._entries)
        self._gone += sum(map(len, found))
        return found if found or not over else None

    def close(self) -> None:
        """Follow RAM and disks no longer; in the guest's thread. All was read, or `over` says why it will not be."""
        with self._reading:
            self._closed = True
            self._changes.close()
