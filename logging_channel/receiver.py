# SPDX-License-Identifier: GPL-2.0-or-later
"""The backup's half of the channel: entries in order, acknowledged on receipt, executed later.

    state     accept(next)   accept(old)   accept(ahead)     ack             take               stop
    OPEN      NEW, queued    DUPLICATE     GAP, not taken    an Ack or None  an acked entry     STOPPED
    STOPPED   STOPPED        STOPPED       STOPPED           None            an acked entry     STOPPED

The one rule, from the design: *execute every entry ever acknowledged, and no other*. So only what an `ack()` has
covered is handed out by `take()`, and `stop()` forgets the rest. Stopping is for good: whoever stopped acknowledging
returns through a new hello and a new Receiver. An ack counts as given when `ack()` returned it, whatever becomes of it.

There is no lock and no thread in here; a backup with an I/O thread calls everything under one lock of its own.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from logging_channel.errors import ChannelError
from logging_channel.messages import Ack, AckFlag

QUEUE_BYTES_MAX = 256 << 20


class ReceiverState(Enum):
    """Whether entries are still taken."""

    OPEN = "open"
    STOPPED = "stopped"


class Verdict(Enum):
    """What became of an entry that arrived."""

    NEW = "new"
    DUPLICATE = "duplicate"  # held already; it is acknowledged again
    GAP = "gap"  # an earlier one is missing; a resend is asked for
    STOPPED = "stopped"  # this side no longer takes entries


class Receiver:
    """Takes entries that follow `last`, the sequence that this side's state includes; `digest` is that state's."""

    def __init__(self, last: int = 0, digest: int = 0) -> None:
        self.state = ReceiverState.OPEN
        self.received = last
        self.acked = last  # covered by an ack that was given
        self.executed = last
        self.digest = digest
        self.durable = 0
        self.released = 0  # all of the primary's outputs up to here have left
        self.dropped = 0  # entries that came after stopping, and unacknowledged ones forgotten by it
        self._taken = last
        self._queue: deque[tuple[int, bytes]] = deque()
        self._queue_bytes = 0
        self._news = False
        self._ask_resend = False
        self._ahead = 0  # highest sequence that came too early since the last resend was asked for

    @property
    def waiting(self) -> int:
        """Entries held and not yet taken for execution."""
        return len(self._queue)

    @property
    def drained(self) -> bool:
        """Whether every entry ever acknowledged was executed."""
        return self.executed >= self.acked

    def resume(self) -> None:
        """A new connection of the same acquaintance begins: tell again where this side is."""
        self._news = self.state is ReceiverState.OPEN
        self._ask_resend = False
        self._ahead = 0

    def accept(self, sequence: int, released: int, entry: bytes) -> Verdict:
        """Take an entry if it is the next one. Raise ChannelError when the primary ignores its window."""
        if self.state is ReceiverState.STOPPED:
            self.dropped += 1
            return Verdict.STOPPED
        if sequence <= self.received:
            self._news = True
            return Verdict.DUPLICATE
        if sequence > self.received + 1:
            return self._gap(sequence)
        if self._queue_bytes + len(entry) > QUEUE_BYTES_MAX:
            raise ChannelError(f"the primary has sent over {QUEUE_BYTES_MAX} bytes ahead of execution: it must wait")
        self._queue.append((sequence, entry))
        self._queue_bytes += len(entry)
        self.received = sequence
        if released > self.released:
            self.released = released
        self._news = True
        return Verdict.NEW

    def _gap(self, sequence: int) -> Verdict:
        """Ask for a resend once per gap: what still follows it is in flight. A step back shows a resend that failed."""
        if self._ahead <= self.received or sequence <= self._ahead:
            self._ask_resend = self._news = True
        self._ahead = sequence
        return Verdict.GAP

    def ack(self) -> Ack | None:
        """Return the ack to be sent now, None when there is nothing to say. Everything it covers will be executed."""
        if not self._news or self.state is ReceiverState.STOPPED:
            return None
        self._news = False
        self.acked = self.received
        flags = AckFlag.RESEND if self._ask_resend else 0
        self._ask_resend = False
        return Ack(self.received, self.executed, self.digest, self.durable, flags)

    def take(self) -> tuple[int, bytes] | None:
        """Return the next (sequence, entry) to execute, None when no acknowledged one is waiting."""
        if not self._queue or self._queue[0][0] > self.acked:
            return None
        sequence, entry = self._queue.popleft()
        self._queue_bytes -= len(entry)
        self._taken = sequence
        return sequence, entry

    def done(self, sequence: int, digest: int) -> None:
        """The entry last taken was executed and left this digest."""
        assert sequence == self._taken == self.executed + 1, (sequence, self._taken, self.executed)
        self.executed = sequence
        self.digest = digest
        self._news = True

    def synced(self, sequence: int) -> None:
        """This side's disk is synced up to `sequence`."""
        assert sequence <= self.executed, (sequence, self.executed)
        if sequence > self.durable:
            self.durable = sequence
            self._news = True

    def stop(self) -> int:
        """Stop acknowledging for good; return the last sequence that must still be executed."""
        if self.state is ReceiverState.OPEN:
            self.state = ReceiverState.STOPPED
            while self._queue and self._queue[-1][0] > self.acked:
                self._queue_bytes -= len(self._queue.pop()[1])
                self.dropped += 1
            self.received = self.acked
        return self.acked
