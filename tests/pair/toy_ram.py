# SPDX-License-Identifier: GPL-2.0-or-later
"""A toy machine's RAM with snapshots, a small twin of `ftvm.ram_snapshot`."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from ftvm.machine import Sections
from ftvm.ram_snapshot import PAGE, Pages

ZERO = bytes(PAGE)


class ToyRam:
    """So many pages. `write` is the only way to change one."""

    def __init__(self, count: int) -> None:
        self.pages = [ZERO] * count
        self.series: list[ToySeries] = []
        self.copies_ever = 0

    def write(self, number: int, content: bytes) -> None:
        """The guest writes a page."""
        for series in self.series:
            series.before_write(number)
        self.pages[number] = content.ljust(PAGE, b"\0")

    def clear(self) -> None:
        """See Machine.clear_ram."""
        for number in range(len(self.pages)):
            self.write(number, ZERO)

    def put(self, pages: Pages) -> None:
        """See Machine.put_pages."""
        numbers, zeros = array("I", pages.numbers), array("I", pages.zeros)
        if max([*numbers, *zeros], default=0) >= len(self.pages):
            raise ValueError("a page is outside RAM")
        for place, number in enumerate(numbers):
            self.write(number, pages.content[place * PAGE : (place + 1) * PAGE])
        for number in zeros:
            self.write(number, ZERO)

    def snapshots(self) -> ToySeries:
        """See Machine.snapshots."""
        self.series.append(ToySeries(self))
        return self.series[-1]


class ToySeries:
    """See SnapshotSeries."""

    def __init__(self, ram: ToyRam) -> None:
        self.ram = ram
        self.written = set(range(len(ram.pages)))
        self.latest: ToySnapshot | None = None

    def begin(self, *, changed: bool = False, exact: bool = True) -> ToySnapshot:
        """See SnapshotSeries."""
        wanted = self.written if changed else range(len(self.ram.pages))
        self.latest = ToySnapshot(self.ram, sorted(wanted), exact)
        self.written = set()
        return self.latest

    def changed(self) -> int:
        """See SnapshotSeries."""
        return len(self.written)

    def close(self) -> None:
        """See SnapshotSeries."""
        self.ram.series.remove(self)

    def before_write(self, number: int) -> None:
        """The page is about to change."""
        if self.latest is not None:
            self.latest.before_write(number)
        self.written.add(number)


class ToySnapshot:
    """See RamSnapshot."""

    def __init__(self, ram: ToyRam, wanted: list[int], exact: bool) -> None:
        self._ram = ram
        self._pending = dict.fromkeys(wanted)
        self._copies: dict[int, bytes] = {}
        self._exact = exact

    @property
    def left(self) -> int:
        """See RamSnapshot."""
        return len(self._pending) + len(self._copies)

    @property
    def kept(self) -> int:
        """See RamSnapshot."""
        return len(self._copies)

    def before_write(self, number: int) -> None:
        """The page is about to change."""
        if number in self._pending:
            del self._pending[number]
            if self._exact:
                self._copies[number] = self._ram.pages[number]
                self._ram.copies_ever += 1

    def take(self, pages_max: int) -> Pages:
        """See RamSnapshot."""
        numbers, zeros, content = array("I"), array("I"), bytearray()
        while self.left and len(numbers) < pages_max and len(zeros) < 16 * pages_max:
            if self._copies:
                number, page = next(iter(self._copies.items()))
                del self._copies[number]
            else:
                number = next(iter(self._pending))
                page = self._ram.pages[number]
                del self._pending[number]
            if page == ZERO:
                zeros.append(number)
            else:
                numbers.append(number)
                content += page
        return Pages(numbers.tobytes(), bytes(content), zeros.tobytes())


class FakeMachine:
    """A machine as a transfer sees it."""

    def __init__(self, pages: int = 0) -> None:
        self.ram = ToyRam(pages)
        self.sections: Sections = [("machine", b"state")]
        self.on_save: Callable[[], None] = lambda: None

    def snapshots(self) -> ToySeries:
        """See Machine."""
        return self.ram.snapshots()

    def save_state(self) -> Sections:
        """See Machine."""
        self.on_save()
        return self.sections

    def clear_ram(self) -> None:
        """See Machine."""
        self.ram.clear()

    def put_pages(self, pages: Pages) -> None:
        """See Machine."""
        self.ram.put(pages)
