# SPDX-License-Identifier: GPL-2.0-or-later
"""RAM as it was between two epochs, read while the guest runs on.

    series = hart.snapshots()             # a row of snapshots, for one purpose
    snapshot = series.begin()             # between two epochs: all pages, as they are now
    while pages := snapshot.take(256):    # in any thread, at any pace
        ...
    snapshot = series.begin(changed=True) # later: only pages written since the one before began

Beginning one takes a fraction of a millisecond. A page that the guest writes before it was taken is copied first
(`ftvm/core/snapshot.c` tells how), so the cost is a copy for each page written meanwhile, and memory for the copies
that wait (`kept`), at most as much as RAM. Whoever takes slowly looks at `kept`, and slows the guest.

A *loose* snapshot (`exact=False`) copies nothing: pages that the guest writes before they were taken drop out of it.
They are part of the next one, since they have changed; a row of loose ones with an exact one at its end brings all of
RAM somewhere else, and holds few copies.

A living snapshot may be looked at (`look`) as often as one likes, for a debugger; what was taken is gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Pages:
    """Some pages of RAM. Numbers are 32-bit, in the host's byte order."""

    numbers: bytes  # of the pages that hold something
    content: bytes  # theirs, in that order
    zeros: bytes = b""  # numbers of pages that are all zero

    def __len__(self) -> int:
        return (len(self.numbers) + len(self.zeros)) // 4


class _Core(Protocol):
    """What this needs of `ftvm._hart.Core`."""

    def series_open(self) -> int: ...
    def series_close(self, series: int, /) -> None: ...
    def series_changed(self, series: int, /) -> int: ...
    def snapshot_begin(self, series: int, changed: bool, exact: bool, /) -> int: ...
    def snapshot_end(self, series: int, /) -> None: ...
    def snapshot_state(self, series: int, /) -> tuple[int, int]: ...
    def snapshot_take(self, series: int, pages_max: int, /) -> tuple[bytes, bytes, bytes]: ...
    def snapshot_look(self, series: int, page: int, /) -> bytes | None: ...


class RamSnapshot:
    """One snapshot; it ends when its series begins the next one."""

    def __init__(self, core: _Core, series: int, pages: int, owner: SnapshotSeries) -> None:
        self.pages = pages  # that it had at its beginning
        self._core = core
        self._series = series
        self._owner = owner  # which closes itself when nobody has it any more
        self._over = False

    @property
    def left(self) -> int:
        """Pages to be taken."""
        return 0 if self._over else self._core.snapshot_state(self._series)[0]

    @property
    def kept(self) -> int:
        """Copies that wait to be taken; each is memory."""
        return 0 if self._over else self._core.snapshot_state(self._series)[1]

    def take(self, pages_max: int) -> Pages:
        """Up to so many pages that hold something, and zero pages met on the way; an empty batch when none is left.

        Copies come first, then pages in their order. Another thread may call this than the one that runs the guest.
        """
        if self._over:
            return Pages(b"", b"")
        return Pages(*self._core.snapshot_take(self._series, pages_max))

    def look(self, page: int) -> bytes | None:
        """A page as it was; None when it is not part of the snapshot (any more)."""
        return None if self._over else self._core.snapshot_look(self._series, page)

    def end(self) -> None:
        """The rest is not wanted."""
        if not self._over:
            self._over = True
            self._core.snapshot_end(self._series)


class SnapshotSeries:
    """A row of snapshots of one hart's RAM, one at a time."""

    def __init__(self, core: _Core) -> None:
        self._core = core
        self._number: int | None = core.series_open()
        self._latest: Callable[[], RamSnapshot | None] = lambda: None

    def begin(self, *, changed: bool = False, exact: bool = True) -> RamSnapshot:
        """Between two epochs. `changed`: only pages written since the snapshot before (all, when there was none)."""
        if self._number is None:
            raise ValueError("this series of snapshots is closed")
        if (before := self._latest()) is not None:
            before.end()
        pages = self._core.snapshot_begin(self._number, changed, exact)
        snapshot = RamSnapshot(self._core, self._number, pages, self)
        self._latest = weakref.ref(snapshot)
        return snapshot

    def changed(self) -> int:
        """How many pages the guest has written since the latest snapshot began."""
        if self._number is None:
            raise ValueError("this series of snapshots is closed")
        return self._core.series_changed(self._number)

    def close(self) -> None:
        """End the snapshot that is being read, and follow the guest's writes no longer."""
        if self._number is None:
            return
        if (latest := self._latest()) is not None:
            latest.end()
        self._core.series_close(self._number)
        self._number = None

    def __del__(self) -> None:
        if getattr(self, "_number", None) is not None:
            self.close()
