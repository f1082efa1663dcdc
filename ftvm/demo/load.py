# SPDX-License-Identifier: GPL-2.0-or-later
"""The load: clients that each keep a number of mixed requests in flight, with every byte accounted for in the tally.

Each client owns a contiguous range of blocks, which it alone writes (data, zeroes, trim, with or without FUA), one
write per block at a time, since NBD gives overlapping requests no order. It reads everybody's blocks, also while they
are being written. A request's callback submits the next one, so there is no task per request.

The one idea: chance alone rarely hits the spot where a late twin of a resent write does harm. So a block whose write
had to be sent again is written once more right after, and then read back: if the twin comes, it comes over that.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from ftvm.demo.content import BLOCK
from ftvm.demo.meter import Meter
from ftvm.demo.nbd_client import NO_CONNECTION, NbdClient, Outcome, command_name
from ftvm.demo.nbd_wire import FUA, Command, ExportFlag, NbdError, Request, error_text
from ftvm.demo.tally import Change, Expectation, Tally

SPAN_BLOCKS_MAX: Final = 4
VERIFY_BLOCKS: Final = 16  # per read of the final verification
SETUP_BYTES: Final = 256 << 10  # per write of the preparation
FUA_SHARE: Final = 0.06
TRIES: Final = 8  # at finding blocks without a write in flight

_COMMANDS: Final = {Change.DATA: Command.WRITE, Change.ZERO: Command.WRITE_ZEROES, Change.TRIM: Command.TRIM}


@dataclass(frozen=True, slots=True)
class Mix:
    """How many of a hundred requests are what; writes of all kinds together are 70 by default."""

    data: int = 62
    zero: int = 4
    trim: int = 4
    read: int = 27
    flush: int = 3

    def limited_to(self, can: Callable[[ExportFlag], bool]) -> Mix:
        """Without what the export cannot do."""
        return Mix(
            data=self.data,
            zero=self.zero if can(ExportFlag.WRITE_ZEROES) else 0,
            trim=self.trim if can(ExportFlag.TRIM) else 0,
            read=self.read,
            flush=self.flush if can(ExportFlag.FLUSH) else 0,
        )


class Worker:
    """One client's part of the load, on its own blocks first_block to first_block + blocks - 1."""

    def __init__(
        self, index: int, client: NbdClient, tally: Tally, meter: Meter, rng: random.Random, blocks: range
    ) -> None:
        self.index = index
        self.client = client
        self._tally = tally
        self._meter = meter
        self._rng = rng
        self._own = blocks
        self._all_blocks = tally.size
        mix = Mix().limited_to(client.export.can)
        self._can_fua = client.export.can(ExportFlag.FUA)
        self._choices = (Change.DATA, Change.ZERO, Change.TRIM, "read", "flush")
        self._weights = (mix.data, mix.zero, mix.trim, mix.read, mix.flush)
        self._write_again: deque[int] = deque()
        self._read_back: deque[int] = deque()
        self._owed: set[int] = set()  # blocks that were written again and are to be read back
        self._stopping = False
        self._drained = asyncio.Event()

    def start(self, depth: int) -> None:
        """Put `depth` requests in flight and keep them there."""
        for _ in range(depth):
            self._next()

    def stop(self) -> None:
        """Submit nothing new."""
        self._stopping = True
        if not self.client.unanswered:
            self._drained.set()

    async def drained(self) -> None:
        """Wait until, after `stop`, everything in flight was answered."""
        await self._drained.wait()

    def _next(self) -> None:
        if self._stopping or self.client.gave_up:
            if not self.client.unanswered:
                self._drained.set()
            return
        if self._read_back:
            self._read(self._read_back.popleft(), 1)
        elif not (self._write_again and self._rewrite(self._write_again.popleft())):
            self._choose()

    def _choose(self) -> None:
        choice = self._rng.choices(self._choices, self._weights)[0]
        if isinstance(choice, Change) and (blocks := self._free_blocks()):
            self._write(choice, blocks)
        elif choice == "flush":
            self.client.submit(Request(Command.FLUSH), self._flushed)
        else:
            first = self._rng.randrange(self._all_blocks)
            self._read(first, min(self._span(), self._all_blocks - first))

    def _span(self) -> int:
        return self._rng.choice((1, 1, 1, 2, SPAN_BLOCKS_MAX))

    def _free_blocks(self) -> range:
        """Own blocks without a write in flight; empty when chance finds none."""
        for _ in range(TRIES):
            first = self._rng.choice(self._own)
            blocks = range(first, min(first + self._span(), self._own.stop))
            if not any(self._tally.writing(block) for block in blocks):
                return blocks
        return range(0)

    def _rewrite(self, block: int) -> bool:
        if self._tally.writing(block):
            return False
        self._owed.add(block)
        self._write(Change.DATA, range(block, block + 1))
        return True

    def _write(self, change: Change, blocks: range) -> None:
        for block in blocks:
            self._tally.begin(block, self.index, change)
        data = b"".join(map(self._tally.content, blocks)) if change is Change.DATA else b""
        flags = FUA if self._can_fua and self._rng.random() < FUA_SHARE else 0
        request = Request(_COMMANDS[change], blocks.start * BLOCK, len(blocks) * BLOCK, data, flags)
        self.client.submit(request, partial(self._wrote, request.command, blocks))

    def _wrote(self, command: int, blocks: range, outcome: Outcome) -> None:
        for block in blocks:
            if outcome.error:
                self._tally.fail(block)
                continue
            self._tally.acknowledge(block)
            if outcome.attempts > 1:
                self._write_again.append(block)
            elif block in self._owed:
                self._owed.discard(block)
                self._read_back.append(block)
        self._ended(command, outcome)

    def _read(self, first: int, count: int) -> None:
        expectations = [self._tally.expect(block) for block in range(first, first + count)]
        request = Request(Command.READ, first * BLOCK, count * BLOCK)
        self.client.submit(request, partial(self._was_read, first, expectations))

    def _was_read(self, first: int, expectations: list[Expectation], outcome: Outcome) -> None:
        if not outcome.error:
            check_blocks(self._tally, first, expectations, outcome.data)
        self._ended(Command.READ, outcome)

    def _flushed(self, outcome: Outcome) -> None:
        self._ended(Command.FLUSH, outcome)

    def _ended(self, command: int, outcome: Outcome) -> None:
        now, name = time.monotonic(), command_name(command)
        if not outcome.error:
            self._meter.answered(now, self.index, outcome.connection, name, outcome.seconds)
        elif outcome.error == NO_CONNECTION:
            self._meter.errors.append(f"client {self.index}: {name} was never answered: {self.client.trouble}")
        else:
            text = f"client {self.index}: {name} was answered with {error_text(outcome.error)}"
            self._meter.failed(now, self.index, outcome.connection, text, outcome.seconds)
        self._next()


def check_blocks(tally: Tally, first: int, expectations: list[Expectation], data: bytes) -> None:
    """Hand the blocks of one read to the tally."""
    for number, expectation in enumerate(expectations):
        tally.check(first + number, expectation, data[number * BLOCK : (number + 1) * BLOCK])


async def prepare(client: NbdClient, blocks: int) -> None:
    """Make the blocks read as zeros: version 0. Raises NbdError."""
    size, can_zero = blocks * BLOCK, client.export.can(ExportFlag.WRITE_ZEROES)
    if client.export.size < size:
        raise NbdError(f"the export has {client.export.size} bytes, but the demo needs {size}: choose a larger disk")
    if client.export.can(ExportFlag.READ_ONLY):
        raise NbdError("the export is read-only, but the demo writes")
    for offset in range(0, size, SETUP_BYTES):
        length = min(SETUP_BYTES, size - offset)
        command = Command.WRITE_ZEROES if can_zero else Command.WRITE
        await client.request(Request(command, offset, length, b"" if can_zero else bytes(length)))


async def verify(client: NbdClient, tally: Tally, blocks: range) -> None:
    """Read these blocks back and check them: nothing may be in flight. Raises NbdError."""
    for first in range(blocks.start, blocks.stop, VERIFY_BLOCKS):
        count = min(VERIFY_BLOCKS, blocks.stop - first)
        expectations = [tally.expect(block) for block in range(first, first + count)]
        data = await client.request(Request(Command.READ, first * BLOCK, count * BLOCK))
        check_blocks(tally, first, expectations, data)
