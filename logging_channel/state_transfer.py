# SPDX-License-Identifier: GPL-2.0-or-later
"""A checkpoint as chunks under credit: the whole machine goes to a joiner without flooding it.

    primary                                   joiner
    STATE_BEGIN (total, manifest)       ->
                                        <-    STATE_CREDIT (bytes)      again and again, as chunks are consumed
    STATE_CHUNK (index, name, ...)      ->                              each spends its bytes of credit
    STATE_END (chunks, digest)          ->

Chunks come from an iterator, so that nothing but the next one is in memory; what they mean (and whether they are
compressed) is the caller's business. The digest runs over index, name, offset and data of every chunk in order.
A chunk may overdraw the credit once (it is sent while any credit is left), so a chunk larger than the window passes.
A new connection means a new transfer: nothing is resent.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import xxhash

from logging_channel.errors import ChannelError
from logging_channel.messages import StateBegin, StateChunk, StateCredit, StateEnd

CREDIT = 4 << 20
_PLACE = struct.Struct("<QQI")


class _RunningDigest:
    """xxh3 over all chunks so far."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_64()

    def add(self, chunk: StateChunk) -> None:
        name = chunk.name.encode()
        self._hash.update(_PLACE.pack(chunk.index, chunk.offset, len(name)) + name)
        self._hash.update(chunk.data)

    def value(self) -> int:
        return self._hash.intdigest()


class StateSender:
    """The primary's half. `pieces` yields (name, offset, data)."""

    def __init__(self, pieces: Iterable[tuple[str, int, bytes]]) -> None:
        self.sent_bytes = 0
        self.finished = False  # the end was handed out
        self._pieces: Iterator[tuple[str, int, bytes]] = iter(pieces)
        self._credit = 0
        self._index = 0
        self._digest = _RunningDigest()

    def grant(self, credit: StateCredit) -> None:
        """The joiner can take more."""
        self._credit += credit.bytes_more

    def next(self) -> StateChunk | StateEnd | None:
        """Return what to send next; None: wait for credit, or all was sent. What it returns must be sent."""
        if self.finished or self._credit <= 0:
            return None
        piece = next(self._pieces, None)
        if piece is None:
            self.finished = True
            return StateEnd(self._index, self._digest.value())
        chunk = StateChunk(self._index, *piece)
        self._digest.add(chunk)
        self._index += 1
        self._credit -= len(chunk.data)
        self.sent_bytes += len(chunk.data)
        return chunk


class StateReceiver:
    """The joiner's half. Send `first_credit` after the begin, and whatever credit `consumed` returns."""

    def __init__(self, begin: StateBegin, credit: int = CREDIT) -> None:
        self.begin = begin
        self.received_bytes = 0
        self.finished = False
        self._window = credit
        self._open = credit  # credit given and not used
        self._owed = 0  # consumed and not given back yet
        self._index = 0
        self._digest = _RunningDigest()

    def first_credit(self) -> StateCredit:
        """Return the credit that opens the transfer."""
        return StateCredit(self._window)

    def accept(self, chunk: StateChunk) -> None:
        """Check a chunk's place and the credit it uses; raise ChannelError."""
        if self.finished or chunk.index != self._index:
            raise ChannelError(f"chunk {chunk.index} of the state came where {self._index} was due: start over")
        if self._open <= 0:
            raise ChannelError(f"chunk {chunk.index} of the state came without credit: the primary must wait for it")
        self._index += 1
        self._open -= len(chunk.data)
        self.received_bytes += len(chunk.data)
        self._digest.add(chunk)

    def consumed(self, size: int) -> StateCredit | None:
        """So many bytes were put in place; return credit to be sent when half a window has gathered."""
        self._owed += size
        if self._owed * 2 < self._window:
            return None
        credit, self._owed = self._owed, 0
        self._open += credit
        return StateCredit(credit)

    def end(self, end: StateEnd) -> None:
        """Check that all chunks have come as they were sent; raise ChannelError."""
        if end.chunks != self._index:
            raise ChannelError(f"the state ends after {end.chunks} chunks, {self._index} have come: start over")
        if end.digest != self._digest.value():
            raise ChannelError(f"the state's digest is {self._digest.value():#x}, not {end.digest:#x}: start over")
        self.finished = True
