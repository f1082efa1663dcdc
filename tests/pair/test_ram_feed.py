# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of a snapshot made in a thread, a few ahead; a reader that fails costs the joiner, never the live side."""

from __future__ import annotations

import threading
from array import array

import pytest

from ftvm.pair.link import LinkState
from ftvm.pair.ram_feed import AHEAD, PAGES_AT_ONCE, Feed, FeedThread, decode_pages
from ftvm.ram_snapshot import Pages
from logging_channel.errors import ChannelError
from logging_channel.messages import StateCredit
from tests.pair.test_link import JOINER, FrameKind, Leader
from tests.pair.toy_ram import ToyRam, ToySnapshot

PATIENCE_S = 30.0


def ram_of(pages: int) -> ToyRam:
    """Every third page is zero."""
    ram = ToyRam(pages)
    for number in range(pages):
        if number % 3:
            ram.write(number, number.to_bytes(4, "little"))
    return ram


class Listener:
    """Waits for news of a feed."""

    def __init__(self) -> None:
        self.news = threading.Event()
        self.feed = FeedThread(self.news.set)

    def poll(self) -> bytes | None:
        """The next piece, however long it takes; None when there is no more."""
        while not self.feed.exhausted:
            self.news.clear()
            if (piece := self.feed.poll()) is not None:
                return piece
            if not self.feed.exhausted:
                assert self.news.wait(PATIENCE_S), "no news"
        return None


def numbers(pieces: list[bytes]) -> tuple[list[int], list[int]]:
    """Of pages with content, and of zero pages."""
    pages = [decode_pages(piece) for piece in pieces]
    return [n for p in pages for n in array("I", p.numbers)], [n for p in pages for n in array("I", p.zeros)]


@pytest.mark.parametrize("zeros", [False, True])
def test_a_thread_makes_the_same_pieces(zeros: bool) -> None:
    """All pages once, zero pages only when they are wanted; more pieces than are made ahead, and another snapshot."""
    listener, inline = Listener(), Feed()
    for pages in ((AHEAD + 9) * PAGES_AT_ONCE, 10, 0):
        ram = ram_of(pages)
        listener.feed.begin(ram.snapshots().begin(), zeros)
        inline.begin(ram.snapshots().begin(), zeros)
        theirs, ours = list(iter(listener.poll, None)), list(iter(inline.poll, None))
        assert theirs == ours and inline.exhausted and listener.feed.exhausted
        full, empty = numbers(ours)
        assert full == [n for n in range(pages) if n % 3]
        assert empty == ([n for n in range(pages) if n % 3 == 0] if zeros else [])
    listener.feed.close()


def test_a_feed_that_nobody_reads_holds_few_pieces_and_ends_when_it_is_closed() -> None:
    ram = ram_of(4 * AHEAD * PAGES_AT_ONCE)
    listener, snapshot = Listener(), ram.snapshots().begin()
    listener.feed.begin(snapshot, False)
    while snapshot.left > 3 * AHEAD * PAGES_AT_ONCE:
        assert listener.news.wait(PATIENCE_S)
    listener.feed.close()
    assert listener.feed._thread is not None
    listener.feed._thread.join(PATIENCE_S)
    assert not listener.feed._thread.is_alive()
    assert snapshot.left >= 2 * AHEAD * PAGES_AT_ONCE


class BrokenSnapshot(ToySnapshot):
    """One that cannot be read."""

    def take(self, pages_max: int) -> Pages:
        """See RamSnapshot."""
        raise MemoryError("none is left")


def test_a_reader_that_fails_is_told() -> None:
    listener = Listener()
    listener.feed.begin(BrokenSnapshot(ram_of(8), [1], True), False)
    with pytest.raises(ChannelError, match="none is left"):
        listener.poll()


def test_a_joiner_that_cannot_be_fed_is_lost_and_the_live_side_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    leader = Leader()

    def broken(feed: Feed) -> bytes | None:
        raise ChannelError("this side's RAM cannot be read for it")

    monkeypatch.setattr(Feed, "poll", broken)
    leader.tell(FrameKind.HELLO, JOINER.hello(0, 0, 0).encode())
    leader.tell(FrameKind.STATE_CREDIT, StateCredit(1000).encode())
    leader.link.tick(leader.now)
    assert leader.link.state is LinkState.ABSENT and "cannot be read" in leader.link.lost_because
    leader.link.boundary()
    assert leader.link.delay(leader.now) == 0.0


def test_a_snapshot_without_memory_costs_the_joiner(monkeypatch: pytest.MonkeyPatch) -> None:
    leader = Leader()

    def none() -> None:
        raise MemoryError("no address space for a snapshot's copies")

    monkeypatch.setattr(leader.machine, "snapshots", none)
    leader.tell(FrameKind.HELLO, JOINER.hello(0, 0, 0).encode())
    leader.link.tick(leader.now)
    leader.link.boundary()
    assert leader.link.state is LinkState.ABSENT and "no address space" in leader.link.lost_because
