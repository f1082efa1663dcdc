# SPDX-License-Identifier: GPL-2.0-or-later
"""A checkpoint's way to a joiner: disks and RAM while they change, sections in pieces, and what a joiner refuses."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

import lz4.block
import msgpack
import pytest

from ftvm.machine import Sections
from ftvm.pair import ram_feed, transfer
from ftvm.pair.ram_feed import encode_pages
from ftvm.pair.transfer import COPIES_MAX, PIECE, StateSink, StateSource
from ftvm.ram_snapshot import PAGE, Pages
from ftvm.scratch_disk import CHUNK, ScratchDisk
from logging_channel.errors import ChannelError
from logging_channel.messages import StateBegin, StateChunk, StateEnd
from tests.pair.toy_ram import FakeMachine

SIZE = 10 * CHUNK - 512
PAGE_8 = struct.pack("<I", 8)


def disk(seed: int) -> ScratchDisk:
    """A disk with holes, and a last chunk that is short."""
    chance, made = Random(seed), ScratchDisk(SIZE)
    for index in chance.sample(range(9), 5):
        made.write(index * CHUNK, chance.randbytes(CHUNK))
    made.write(SIZE - 512, chance.randbytes(512))
    return made


def move(
    source: StateSource,
    disks: list[ScratchDisk],
    between: Callable[[], None],
    joiner: FakeMachine | None = None,
) -> tuple[Sections, int]:
    """Run a transfer to its end; returns the joiner's sections and how many messages came before the snapshot."""
    sink: StateSink | None = None
    before = 0
    while True:
        if not source.holds_guest():
            between()
        if not source.snapshot_taken and source.ready_for_snapshot():
            source.snapshot()
        message = source.next()
        before += not source.snapshot_taken
        if isinstance(message, StateBegin):
            sink = StateSink(message, disks, joiner or FakeMachine())
            source.grant(sink.first_credit())
        elif isinstance(message, StateChunk):
            assert sink is not None
            if (credit := sink.chunk(message)) is not None:
                source.grant(credit)
        elif isinstance(message, StateEnd):
            assert sink is not None
            return sink.end(message), before


@pytest.mark.parametrize("seed", range(5))
def test_a_disk_that_changes_arrives_as_it_was_at_the_snapshot(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes, zeroes and discards between any two messages, in several rounds."""
    monkeypatch.setattr(transfer, "FEW_CHUNKS", 0)
    monkeypatch.setattr(transfer, "MANY_CHUNKS", 0)
    chance, ours, theirs = Random(seed), disk(seed), disk(seed + 100)
    at_snapshot: list[bytes] = []

    def change() -> None:
        offset = chance.randrange(SIZE // 512 - 300) * 512
        if chance.random() < 0.7:
            ours.write(offset, chance.randbytes(512))
        else:
            ours.zero(offset, 300 * 512)

    machine = FakeMachine()
    machine.on_save = lambda: at_snapshot.append(ours.read(0, SIZE))
    source = StateSource([ours], machine)
    sections, before = move(source, [theirs], change)
    assert before > 6, "the guest ran on for several rounds"
    assert theirs.read(0, SIZE) == at_snapshot[0]
    assert sections == [("machine", b"state")]
    assert ours.take_dirty() == set(), "nobody is interested in changes any more"


class Writer:
    """A guest that writes to random places of a large disk, so many times between any two messages."""

    def __init__(self, disk: ScratchDisk, count: int) -> None:
        self.runs = 0
        self._disk, self._count, self._chance = disk, count, Random(count)

    def __call__(self) -> None:
        self.runs += 1
        for _ in range(self._count):
            self._disk.write(self._chance.randrange(self._disk.capacity // 512) * 512, b"w" * 512)


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_a_guest_that_writes_everywhere_is_slowed_and_the_pause_stays_bounded(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be outrun: without being slowed, nearly all of its disk would be copied in one pause."""
    monkeypatch.setattr(transfer, "FEW_CHUNKS", 4)
    monkeypatch.setattr(transfer, "MANY_CHUNKS", 16)
    ours, theirs = ScratchDisk(256 * CHUNK), ScratchDisk(256 * CHUNK)
    for index in range(0, 256, 2):
        ours.write(index * CHUNK, b"o" * 512)
    machine = FakeMachine()
    source, writer = StateSource([ours], machine), Writer(ours, count)
    in_pause: list[int] = []
    at_snapshot: list[int] = []

    def save() -> None:
        in_pause.append(len(source._last))
        at_snapshot.extend(hash(ours.read_chunk(index)) for index in range(256))

    machine.on_save = save
    move(source, [theirs], writer)
    assert in_pause[0] <= 16
    assert writer.runs > 100, "the guest was stopped, not slowed"
    assert [hash(theirs.read_chunk(index)) for index in range(256)] == at_snapshot


def test_sections_of_any_size_arrive_whole_and_in_order() -> None:
    """Longer than a piece, longer than the credit, and empty."""
    content = Random(1).randbytes(6 * PIECE + 7)
    sections: Sections = [("long", content), ("empty", b""), ("piece", bytes(PIECE))]
    machine = FakeMachine()
    machine.sections = sections
    assert move(StateSource([], machine), [], lambda: None)[0] == sections


@pytest.mark.parametrize("few", [0, 10, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_ram_that_changes_arrives_as_it_was_at_the_snapshot(
    seed: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are written, and become zero again, between any two messages; the joiner's RAM held something before."""
    monkeypatch.setattr(transfer, "FEW_PAGES", few)
    monkeypatch.setattr(ram_feed, "PAGES_AT_ONCE", 3)
    chance, ours, theirs = Random(seed), FakeMachine(200), FakeMachine(200)
    for number in range(200):
        theirs.ram.write(number, b"old")
        if number % 3:
            ours.ram.write(number, chance.randbytes(100))
    at_snapshot: list[bytes] = []
    ours.on_save = lambda: at_snapshot.extend(ours.ram.pages)

    def change() -> None:
        for _ in range(chance.randrange(20)):
            ours.ram.write(chance.randrange(200), b"" if chance.random() < 0.3 else chance.randbytes(8))

    source = StateSource([], ours)
    move(source, [], change, theirs)
    assert [n for n in range(200) if theirs.ram.pages[n] != at_snapshot[n]] == []
    assert ours.ram.copies_ever > 0, "the guest wrote to pages of the snapshot before they were sent"
    source.close()
    assert not ours.ram.series


def test_pages_that_do_not_change_are_sent_once_and_zero_pages_never() -> None:
    """In a guest that writes to a tenth of its RAM."""
    ours, theirs = FakeMachine(3000), FakeMachine(3000)
    chance = Random(1)
    for number in range(0, 3000, 2):
        ours.ram.write(number, chance.randbytes(PAGE))
    source = StateSource([], ours)
    move(source, [], lambda: ours.ram.write(chance.randrange(0, 300, 2), chance.randbytes(PAGE)), theirs)
    assert source.sent_bytes < 1700 * (PAGE + 32)


def test_a_guest_that_dirties_everything_gets_its_snapshot_after_few_rounds() -> None:
    """No round leaves less than the one before: the last one is large, and the copies that wait are counted."""
    ours = FakeMachine(4000)

    def everything() -> None:
        for number in range(4000):
            ours.ram.write(number, b"x")

    source = StateSource([], ours)
    source.next()
    everything()
    rounds = 0
    while not source.ready_for_snapshot():
        rounds += 1
        while source.pages_left:
            source._make()
        everything()
    assert rounds <= 2
    source.snapshot()
    assert source.pages_left == 4000 and not source.copies_wait
    everything()
    assert source.copies_wait is (COPIES_MAX < 4000)


def test_copies_that_fill_their_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until enough of them are on their way."""
    monkeypatch.setattr(transfer, "COPIES_MAX", 50)
    ours = FakeMachine(100)
    for number in range(100):
        ours.ram.write(number, b"x")
    source = StateSource([], ours)
    source.next()
    while not source.ready_for_snapshot():
        source._make()
        for number in range(100):
            ours.ram.write(number, b"y")
    source.snapshot()
    for number in range(100):
        ours.ram.write(number, b"z")
    assert source.copies_wait
    source._make()
    assert not source.copies_wait and source.pages_left < 50


def test_an_old_disk_leaves_nothing_behind() -> None:
    """What only the joiner's disk held is gone."""
    ours, theirs = ScratchDisk(SIZE), disk(7)
    move(StateSource([ours], FakeMachine()), [theirs], lambda: None)
    assert theirs.read(0, SIZE) == bytes(SIZE)


def sink() -> StateSink:
    """A joiner with one disk, whose transfer has begun."""
    return StateSink(StateBegin(SIZE, msgpack.packb([SIZE])), [ScratchDisk(SIZE)], FakeMachine(8))


@pytest.mark.parametrize(
    "chunk, words",
    [
        (StateChunk(1, "disk/0", 0, b""), "chunk 1"),
        (StateChunk(0, "disk/1", 0, lz4.block.compress(b"x")), "does not know"),
        (StateChunk(0, "disk/-1", 0, b""), "does not know"),
        (StateChunk(0, "", 0, b""), "does not know"),
        (StateChunk(0, "disk/0", 0, b"\xff\xff\xff\xffgarbage"), "decompressed"),
        (StateChunk(0, "section/ram", 5, b"x"), "does not follow"),
        (StateChunk(0, "ram", 0, b"x"), "1 bytes"),
        (StateChunk(0, "ram", 0, encode_pages(Pages(PAGE_8, bytes(PAGE)))), "does not fit"),
        (StateChunk(0, "ram", 0, encode_pages(Pages(b"", b"", PAGE_8))), "does not fit"),
        (StateChunk(0, "ram", 0, struct.pack("<II", 1 << 31, 0) + b"x"), "2147483648 pages"),
        (StateChunk(0, "ram", 0, struct.pack("<II", 1, 0) + lz4.block.compress(b"", store_size=False)), "announced"),
        (StateChunk(0, "ram", 0, struct.pack("<II", 1, 0) + b"\xff" * 9), "decompressed"),
    ],
)
def test_a_joiner_refuses_pieces_that_do_not_fit(chunk: StateChunk, words: str) -> None:
    """In words, as the channel's error."""
    with pytest.raises(ChannelError, match=words):
        sink().chunk(chunk)


@pytest.mark.parametrize("offset", [10, 1 << 40])
def test_a_chunk_beyond_the_disk_is_refused(offset: int) -> None:
    """A primary that is confused must not write anywhere."""
    with pytest.raises(ChannelError):
        sink().chunk(StateChunk(0, "disk/0", offset, lz4.block.compress(bytes(CHUNK))))


def test_another_disk_size_is_refused_before_anything_is_lost() -> None:
    """The joiner's disk is as it was."""
    mine = disk(1)
    before = mine.read(0, SIZE)
    with pytest.raises(ChannelError, match="same machine file"):
        StateSink(StateBegin(SIZE, msgpack.packb([SIZE + 512])), [mine], FakeMachine())
    assert mine.read(0, SIZE) == before


def test_an_end_that_comes_early_is_refused() -> None:
    """Chunks are counted."""
    with pytest.raises(ChannelError, match="ends after"):
        sink().end(StateEnd(3, 0))
