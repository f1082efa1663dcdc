# SPDX-License-Identifier: GPL-2.0-or-later
"""A timeline's stills in `LOG.ckpt` (replay/checkpoint_file.py), and back: what was opened once is open at once.

    section       what
    hart, machine the machine's state without RAM and disks
    layer         what
    pages         RAM's pages that changed since the checkpoint before, 16 to a group
    disk/U        the same for chunks of disk U, each by itself

`load` puts what the file holds into a timeline, without reading more than its index: pages are read when the machine
goes there. Checkpoints of entries that the log does not have (the recorder was killed, or cut the log) are left out,
and so is what builds upon them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ftvm.hart import Hit
from ftvm.layers import Layers, Piece
from ftvm.ram_snapshot import PAGE
from ftvm.scratch_disk import CHUNK
from ftvm.traveller import Still, Travelling
from replay.checkpoint_file import NONE, Checkpoint, CheckpointFile, Layer, Mark, path_of
from replay.checkpoint_writer import CheckpointWriter
from replay.entries import Entries
from replay.errors import LogError, StateLost
from replay.header import LogHeader
from replay.stills import Kept
from replay.timeline import Timeline

PAGES: Final = "pages"
PAGES_PER_GROUP: Final = 16
DISK: Final = "disk/"
BATCH: Final = 64 * PAGES_PER_GROUP
SPACING_MIN: Final = 150_000_000  # of the clock: some 0.1 s of computing
SPACING_MAX: Final = 520_000_000
CLOCK_PER_BYTE: Final = 490

Line = Timeline[Still, Hit]


def spacing(size: int) -> int:
    """How far, by the clock, from one checkpoint to the next when that takes so many bytes: dense where it is cheap."""
    return min(max(size * CLOCK_PER_BYTE, SPACING_MIN), SPACING_MAX)


def make(
    timeline: Line, traveller: Travelling, log: Path, header: LogHeader, progress: Callable[[int], None]
) -> tuple[Path, int]:
    """Replays the whole recording and writes its checkpoints; where, and how many. Divergence, LogError."""
    done = timeline.position.sequence

    def tell() -> bool:
        nonlocal done
        progress(timeline.position.sequence - done)
        done = timeline.position.sequence
        return False

    timeline.interrupted = tell
    timeline.seek(timeline.end)
    timeline.keep()
    timeline.interrupted = lambda: False
    _space_out(timeline, traveller)
    writer = CheckpointWriter(path_of(log), header)
    try:
        for kept in timeline.stills:
            if kept.sequence > timeline.start.sequence:
                _write(writer, timeline, traveller, kept)
        count = writer.count
        writer.close()
    except BaseException:
        writer.discard()
        raise
    return path_of(log), count


def _space_out(timeline: Line, traveller: Travelling) -> None:
    """Take out what is denser than it is worth; neither the first nor the last."""
    first, *others = timeline.stills
    clock = first.clock
    for kept in others[:-1]:
        layers = (traveller.pages, *traveller.chunks)
        if kept.clock - clock < spacing(sum(layer.size(kept.sequence) for layer in layers)):
            timeline.stills.remove(kept)
        else:
            clock = kept.clock


def load(timeline: Line, traveller: Travelling, log: Path, header: LogHeader) -> CheckpointFile | None:
    """Take what checkpoints there are into the timeline, which stands at the beginning.

    The file stays open for what is read later; None when there is none that can be read. LogError when it belongs to
    another recording.
    """
    file = checkpoints_of(log, header)
    if file is None:
        return None
    try:
        _load(timeline, traveller, file)
    except BaseException:
        file.close()
        raise
    return file


def checkpoints_of(log: Path, header: LogHeader) -> CheckpointFile | None:
    """The file beside a log, or those in a pack; None when there is none. LogError when it is another recording's."""
    with suppress(StateLost):
        return CheckpointFile(path_of(log), header)
    with suppress(StateLost):
        return CheckpointFile(log, header, packed=True)
    return None


def _load(timeline: Line, traveller: Travelling, file: CheckpointFile) -> None:
    limits = (len(traveller.hart.ram) // PAGE, *(-(-disk.capacity // CHUNK) for disk in traveller.disks))
    stores = _Stores(file, traveller)
    for checkpoint in belonging(file, timeline.entries):
        mark = checkpoint.mark
        if not stores.take(checkpoint, limits):
            break
        timeline.stills.add(mark.sequence, mark.clock, Still(mark.sequence, stores.sections_of(checkpoint)))


def belonging(file: CheckpointFile, entries: Entries) -> list[Checkpoint]:
    """Those of a recording's entries, as far as what they build upon is there, too; LogError when none is."""
    found: list[Checkpoint] = []
    known, foreign = True, False
    for checkpoint in file.checkpoints:
        mark = checkpoint.mark
        if not entries.first <= mark.sequence <= entries.last:
            continue
        result = entries[mark.sequence][1]
        if (mark.clock, mark.digest) != (result.clock, result.digest):
            known, foreign = False, True
            continue
        known = known or mark.full
        if known:
            found.append(checkpoint)
    if foreign and not found:
        raise LogError(f"{file.path}: these checkpoints are not of this recording; remove the file, or make it again")
    return found


class _Store:
    """Pieces of one kind in the file, by the numbers that stand for them in `Layers`."""

    def __init__(self, file: CheckpointFile) -> None:
        self._file = file
        self._starts: list[int] = []
        self._layers: list[Layer] = []
        self._next = 0
        self._latest: tuple[int, int] = (-1, -1)
        self._content = b""

    def add(self, layer: Layer) -> dict[int, Piece]:
        """A layer of a checkpoint, for `Layers.put`."""
        self._starts.append(self._next)
        self._layers.append(layer)
        places = range(self._next, self._next + len(layer.numbers))
        pieces: dict[int, Piece] = dict(zip(layer.numbers, places, strict=True))
        pieces.pop(NONE, None)
        self._next += len(layer.numbers)
        return pieces | dict.fromkeys(layer.zeros, b"")

    def read(self, place: int) -> bytes:
        """One of them; StateLost."""
        which = bisect_right(self._starts, place) - 1
        layer = self._layers[which]
        group, at = divmod(place - self._starts[which], layer.per)
        if self._latest != (which, group):
            self._content = self._file.blob(layer.groups[group], layer.size * layer.per)
            self._latest = (which, group)
        return self._content[at * layer.size : (at + 1) * layer.size]


class _Stores:
    """All kinds: RAM's pages, then the disks' chunks."""

    def __init__(self, file: CheckpointFile, traveller: Travelling) -> None:
        self._file = file
        self._kinds: list[tuple[str, int, Layers, _Store]] = []
        disks = [(f"{DISK}{unit}", CHUNK, layers) for unit, layers in enumerate(traveller.chunks)]
        for name, size, layers in [(PAGES, PAGE, traveller.pages), *disks]:
            store = _Store(file)
            layers.elsewhere = store.read
            self._kinds.append((name, size, layers, store))

    def take(self, checkpoint: Checkpoint, limits: Iterable[int]) -> bool:
        """Put what a checkpoint holds in place; False when it does not fit the machine."""
        found = [checkpoint.layers.get(name, Layer(size, 1)) for name, size, _, _ in self._kinds]
        for layer, (_, size, _, _), limit in zip(found, self._kinds, limits, strict=True):
            if layer.size != size or max(layer.pieces(), default=-1) >= limit:
                return False
        for layer, (_, _, layers, store) in zip(found, self._kinds, strict=True):
            layers.put(checkpoint.mark.sequence, store.add(layer), full=checkpoint.mark.full)
        return True

    def sections_of(self, checkpoint: Checkpoint) -> Callable[[], list[tuple[str, bytes]]]:
        """To be read when the machine goes there."""
        return lambda: self._file.sections(checkpoint)


def _write(writer: CheckpointWriter, timeline: Line, traveller: Travelling, kept: Kept[Still]) -> None:
    moment = kept.sequence
    writer.begin()
    for name, data in kept.state.sections:
        writer.section(name, data)
    _put_layer(writer, PAGES, PAGE, PAGES_PER_GROUP, _contents(traveller.pages, moment))
    for unit, layers in enumerate(traveller.chunks):
        _put_layer(writer, f"{DISK}{unit}", CHUNK, 1, _contents(layers, moment))
    digest = timeline.entries[moment][1].digest
    writer.commit(Mark(moment, kept.clock, digest, traveller.pages.is_full(moment)))


def _contents(layers: Layers, moment: int) -> Iterable[tuple[int, bytes]]:
    numbers = sorted(layers.touched(moment))
    for start in range(0, len(numbers), BATCH):
        yield from sorted(layers.at(moment, numbers[start : start + BATCH]).items())


def _put_layer(writer: CheckpointWriter, name: str, size: int, per: int, contents: Iterable[tuple[int, bytes]]) -> None:
    zeros: list[int] = []
    group: list[tuple[int, bytes]] = []

    def put() -> None:
        writer.pieces(name, size, per, [number for number, _ in group], b"".join(content for _, content in group))
        group.clear()

    for number, content in contents:
        if content:
            group.append((number, content))
            if len(group) == per:
                put()
        else:
            zeros.append(number)
    if group:
        put()
    writer.zeros(name, size, per, zeros)
