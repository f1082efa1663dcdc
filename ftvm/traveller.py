# SPDX-License-Identifier: GPL-2.0-or-later
"""`Travelling`: a machine with its disks as a timeline moves it: it keeps whole states, and goes back to them.

A kept state (a *still*) costs what the guest has written since the one before: RAM's pages and the disks' chunks lie in
`Layers`, the rest is some kilobytes. Going back writes only what differs. The first still costs nothing: its pages are
where the recording has them (ftvm/first_ram.py), the disks' chunks stay as they are until they are written.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ftvm.first_ram import FirstRam
from ftvm.hart import Hit
from ftvm.layers import Layers
from ftvm.machine import Machine
from ftvm.ram_snapshot import PAGE, Pages
from ftvm.scratch_disk import CHUNK, ScratchDisk
from replay.entry import Entry, EpochResult
from replay.errors import LogError
from replay.timeline import Range

Sections = list[tuple[str, bytes]]
BATCH: Final = 256  # pages
READ_MAX: Final = 8192  # pages that are held uncompressed
PAGES_WORTH: Final = 256 << 20  # bytes of stills, compressed, that a timeline may keep


@dataclass(frozen=True, slots=True)
class Still:
    """A whole state between two entries, in the layers of its traveller."""

    moment: int
    read: Callable[[], Sections]

    @property
    def sections(self) -> Sections:
        """The machine's state but for RAM and disks; StateLost."""
        return self.read()


class Travelling:
    """What replay/timeline.py calls a traveller. The machine was made with `debug`."""

    def __init__(self, machine: Machine, disks: Sequence[ScratchDisk], first: FirstRam) -> None:
        """The machine's RAM is as `first` tells."""
        self.machine = machine
        self.hart = machine.hart
        self.disks = disks
        self._series = machine.snapshots()
        count = len(self.hart.ram) // PAGE
        self.pages = Layers(PAGE, first.page, lambda: (number for number in first.full() if number < count))
        self.chunks = [_chunks_of(disk) for disk in disks]
        self._base: int | None = None  # the still that the machine has gone on from, ...
        self._more: set[int] = set()  # ... and pages changed since, beside those that the series knows
        self._more_chunks: list[set[int]] = [set() for _ in disks]
        self._read: dict[int, bytes] = {}  # pages as they are in the still that was gone back to last, ...
        self._read_of = -1  # ... which steps back go to again and again

    @property
    def clock(self) -> int:
        """Guest progress."""
        return self.hart.clock

    @property
    def full(self) -> bool:
        """Whether the stills take more memory than they should."""
        return self.pages.stored + sum(layers.stored for layers in self.chunks) > PAGES_WORTH

    def begin(self, entry: Entry) -> None:
        """Deliver the entry's events."""
        self.machine.begin(entry)

    def advance(self) -> bool:
        """Run to the end of the epoch, or to a pause: then True."""
        return self.machine.advance()

    def finish(self) -> EpochResult:
        """The result of the epoch."""
        return self.machine.finish()

    def pause_at(self, clock: int | None) -> None:
        """See `Hart.pause_at`."""
        self.hart.pause_at(clock)

    def breakpoints(self, addresses: Sequence[int], *, record: bool = False) -> None:
        """See `Hart.breakpoints`."""
        self.hart.breakpoints(addresses, record=record)

    def watch(self, ranges: Sequence[Range]) -> None:
        """See `Hart.watch`."""
        self.hart.watch(ranges)

    def hits(self) -> list[Hit]:
        """See `Hart.hits`."""
        return self.hart.hits()

    def made(self, kind: int) -> int:
        """See `Machine.made`."""
        return self.machine.made(kind)

    # -- stills -----------------------------------------------------------------------------------------------------

    def keep(self) -> Still:
        """The present state; there is none of this entry yet."""
        moment = self.machine.sequence
        if self._base is None:
            self._begin(moment)
        else:
            changed = dict(self._changed_pages())
            for number in self._more - changed.keys():
                changed[number] = bytes(self.hart.ram[number * PAGE : (number + 1) * PAGE])
            self.pages.add(moment, changed.items())
            for unit, (disk, layers) in enumerate(zip(self.disks, self.chunks, strict=True)):
                written = disk.take_dirty() | self._more_chunks[unit]
                layers.add(moment, ((index, disk.read_chunk(index)) for index in written))
        self._stands_on(moment)
        state = self.machine.save_state()
        return Still(moment, lambda: state)

    def _begin(self, moment: int) -> None:
        self._series.begin().end()
        for layers in (self.pages, *self.chunks):
            layers.begin(moment)
        for disk in self.disks:
            disk.start_tracking()

    def go_back(self, still: Still) -> None:
        """Become that state again, from whatever the machine is now; StateLost when it cannot be read."""
        assert self._base is not None
        self._more |= {number for number, _ in self._changed_pages()}
        for more, disk in zip(self._more_chunks, self.disks, strict=True):
            more |= disk.take_dirty()
        sections = still.sections
        pages = self._pages_at(still.moment, self._more | self.pages.changed(self._base, still.moment))
        chunks = [
            layers.at(still.moment, more | layers.changed(self._base, still.moment))
            for layers, more in zip(self.chunks, self._more_chunks, strict=True)
        ]
        try:
            self._become(pages, chunks, sections)
        except ValueError as error:
            raise LogError(f"the checkpoint behind entry {still.moment} does not fit its machine: {error}") from None
        self._series.begin(changed=True).end()
        self._stands_on(still.moment)

    def _become(self, pages: dict[int, bytes], chunks: Sequence[dict[int, bytes]], sections: Sections) -> None:
        self._put_pages(pages)
        for disk, contents in zip(self.disks, chunks, strict=True):
            for index, content in contents.items():
                if content:
                    disk.write_chunk(index, content)
                else:
                    disk.zero(index * CHUNK, min(CHUNK, disk.capacity - index * CHUNK))
            disk.take_dirty()
        self.machine.restore_state(sections, keep_code=True)

    def _pages_at(self, moment: int, numbers: set[int]) -> dict[int, bytes]:
        if self._read_of != moment or len(self._read) > READ_MAX:
            self._read, self._read_of = {}, moment
        self._read |= self.pages.at(moment, numbers - self._read.keys())
        return {number: self._read[number] for number in numbers}

    def drop(self, still: Still) -> None:
        """A state that is not needed any more."""
        if still.moment == self._read_of:
            self._read_of = -1
        if still.moment == self._base:
            before = self.pages.before(still.moment)
            self._more |= self.pages.changed(before, still.moment)
            for unit, layers in enumerate(self.chunks):
                self._more_chunks[unit] |= layers.changed(before, still.moment)
            self._base = before
        self.pages.drop(still.moment)
        for layers in self.chunks:
            layers.drop(still.moment)

    def may_have_written(self, since: Still, until: Still, ranges: Sequence[Range]) -> bool:
        """Whether anything of these physical ranges was written between two stills."""
        changed = self.pages.changed(since.moment, until.moment)
        first = self.machine.memory.base
        spans = (range((at - first) // PAGE, (at + length - 1 - first) // PAGE + 1) for at, length, _ in ranges)
        return any(number in changed for span in spans for number in span)

    def _stands_on(self, moment: int) -> None:
        self._base = moment
        self._more = set()
        self._more_chunks = [set() for _ in self.disks]

    def _changed_pages(self) -> Iterator[tuple[int, bytes]]:
        """Pages written since the last still was kept or gone back to, as they are now; empty when all zero."""
        snapshot = self._series.begin(changed=True)
        while pages := snapshot.take(BATCH):
            for place, number in enumerate(array("I", pages.numbers)):
                yield number, pages.content[place * PAGE : (place + 1) * PAGE]
            for number in array("I", pages.zeros):
                yield number, b""

    def _put_pages(self, contents: dict[int, bytes]) -> None:
        full = [number for number, content in contents.items() if content]
        for start in range(0, len(full), BATCH):
            numbers = full[start : start + BATCH]
            content = b"".join([contents[number] for number in numbers])
            self.machine.put_pages(Pages(array("I", numbers).tobytes(), content))
        zeros = array("I", [number for number, content in contents.items() if not content])
        self.machine.put_pages(Pages(b"", b"", zeros.tobytes()))


def _chunks_of(disk: ScratchDisk) -> Layers:
    first = disk.freeze()
    return Layers(CHUNK, lambda index: first.get(index, b""), lambda: first)
