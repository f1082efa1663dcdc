# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of a snapshot as compressed pieces for a joiner, made ahead of their sending.

    one piece    counts of pages with content and of zero pages (little-endian, 32 bits each), then one LZ4 block of
                 numbers, numbers of zero pages, and content

`Feed` makes a piece when it is asked for one: for tests and the simulation, where everything happens in one thread.
`FeedThread` does so in a thread of its own: compressing takes longer than anything else that a joiner costs, and the
guest's thread is to run the guest. Reading the snapshot and LZ4 both release the interpreter lock.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import lz4.block

from ftvm.ram_snapshot import PAGE, Pages
from logging_channel.errors import ChannelError

PAGES_AT_ONCE: Final = 64  # 256 KiB
AHEAD: Final = 32  # pieces
NICE: Final = 5  # where cores are few, the guest gets three times as much of one as its reader
_COUNTS: Final = struct.Struct("<II")
_ZEROS_MAX: Final = 1 << 16


class Snapshot(Protocol):
    """What a feed needs of `ftvm.ram_snapshot.RamSnapshot`."""

    @property
    def kept(self) -> int: ...

    @property
    def left(self) -> int: ...

    def take(self, pages_max: int) -> Pages: ...


def encode_pages(pages: Pages) -> bytes:
    """One piece."""
    counts = _COUNTS.pack(len(pages.numbers) // 4, len(pages.zeros) // 4)
    content = b"".join((pages.numbers, pages.zeros, pages.content))
    return counts + bytes(lz4.block.compress(content, store_size=False))


def decode_pages(piece: bytes) -> Pages:
    """Inverse of `encode_pages`; ChannelError."""
    if len(piece) < _COUNTS.size:
        raise ChannelError(f"a piece of RAM has {len(piece)} bytes")
    count, zeros = _COUNTS.unpack_from(piece)
    if count > PAGES_AT_ONCE or zeros > _ZEROS_MAX:
        raise ChannelError(f"a piece of RAM holds {count} pages and {zeros} zero pages")
    size, head = 4 * (count + zeros) + PAGE * count, 4 * count
    try:
        content = lz4.block.decompress(piece[_COUNTS.size :], uncompressed_size=size)
    except Exception as error:
        raise ChannelError(f"a piece of RAM cannot be decompressed: {error}") from None
    if len(content) != size:
        raise ChannelError(f"a piece of RAM has {len(content)} bytes where {size} were announced")
    rest = head + 4 * zeros
    return Pages(content[:head], content[rest:], content[head:rest])


class Feed:
    """Pieces when they are asked for. `zeros`: zero pages are told too, since the joiner may hold something there."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._zeros = False

    @property
    def exhausted(self) -> bool:
        """The snapshot was handed out."""
        return self._snapshot is None or self._snapshot.left == 0

    def begin(self, snapshot: Snapshot, zeros: bool) -> None:
        """Pieces of this one come next; the one before must be exhausted."""
        self._snapshot, self._zeros = snapshot, zeros

    def poll(self) -> bytes | None:
        """The next piece; None when there is none (yet)."""
        return None if self._snapshot is None else _piece(self._snapshot, self._zeros)

    def close(self) -> None:
        """Nothing more is wanted."""
        self._snapshot = None


class FeedThread:
    """The same, a few pieces ahead. `news` is called from the thread whenever there is something to `poll`."""

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news
        self._change = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._snapshot: Snapshot | None = None
        self._zeros = False
        self._closed = False
        self._trouble = ""
        self._thread: threading.Thread | None = None

    @property
    def exhausted(self) -> bool:
        """See Feed."""
        with self._change:
            return self._snapshot is None and not self._pieces and not self._trouble

    def begin(self, snapshot: Snapshot, zeros: bool) -> None:
        """See Feed."""
        with self._change:
            assert self._snapshot is None and not self._closed
            self._snapshot, self._zeros = snapshot, zeros
            self._change.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="feed", daemon=True)
            self._thread.start()

    def poll(self) -> bytes | None:
        """See Feed; ChannelError when the thread has failed."""
        with self._change:
            if self._trouble:
                raise ChannelError(self._trouble)
            if not self._pieces:
                return None
            self._change.notify()
            return self._pieces.popleft()

    def close(self) -> None:
        """See Feed; the thread ends soon, whatever it is doing."""
        with self._change:
            self._closed = True
            self._pieces.clear()
            self._change.notify()

    def _work(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            while (snapshot := self._wanted()) is not None:
                piece = _piece(snapshot, self._zeros)
                with self._change:
                    if self._closed:
                        return
                    if piece is None:
                        self._snapshot = None
                    else:
                        self._pieces.append(piece)
                self._news()
        except Exception as error:  # it must not take the live side down
            with self._change:
                self._trouble = f"this side's RAM cannot be read for it: {type(error).__name__}: {error}"
            self._news()

    def _wanted(self) -> Snapshot | None:
        """The snapshot to read from, once there is room for a piece; None: end."""
        with self._change:
            self._change.wait_for(lambda: self._closed or (self._snapshot is not None and len(self._pieces) < AHEAD))
            return None if self._closed else self._snapshot


def _piece(snapshot: Snapshot, zeros: bool) -> bytes | None:
    """The next pages that are to be sent; None when the snapshot is exhausted."""
    while len(pages := snapshot.take(PAGES_AT_ONCE)):
        if not zeros:
            pages = Pages(pages.numbers, pages.content)
        if len(pages):
            return encode_pages(pages)
    return None
