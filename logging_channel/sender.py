# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary's half of the channel: entries are kept until the backup acknowledges receipt, and resent by sequence.

    state      attach     put        next_unsent  acknowledge  detach     end
    DETACHED   ATTACHED   kept       None         illegal      DETACHED   ENDED
    ATTACHED   illegal    kept       an entry     ATTACHED     DETACHED   ENDED
    ENDED      illegal    illegal    None         illegal      ENDED      ENDED

Entries go into one queue; a cursor says what the current connection was given. `attach` sets the cursor behind what the
peer already holds, so a resend is nothing but the same loop again:

    sender.put(sequence, entry, now)
    while (unsent := sender.next_unsent()) is not None and <the transport takes its frame>:
        sender.advance()

Illegal calls are our own bugs (assertions). What the peer claims wrongly is a ChannelError and changes nothing.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from logging_channel.errors import ChannelError
from logging_channel.messages import Ack, AckFlag
from logging_channel.window import Limits, Window


class SenderState(Enum):
    """Whether a backup is listening."""

    DETACHED = "detached"
    ATTACHED = "attached"
    ENDED = "ended"


class Sender:
    """Takes (sequence, bytes) in order without gaps; sequences begin behind `last`, which the peer's state includes."""

    def __init__(self, last: int = 0, limits: Limits | None = None) -> None:
        self.state = SenderState.DETACHED
        self.last = last  # last sequence put
        self.received = last  # what the backup has acknowledged, each for its own
        self.executed = last
        self.durable = 0
        self.digest = 0  # the backup's, after `executed`
        self.window = Window(limits)
        self.stale_acks = 0
        self.resends = 0  # entries given to the transport more than once
        self._unacked: deque[tuple[int, bytes]] = deque()
        self._cursor = last + 1  # next sequence for the current connection
        self._highest = last  # highest sequence ever given to a connection

    @property
    def unacked(self) -> int:
        """Entries kept because the backup has not acknowledged their receipt."""
        return len(self._unacked)

    def can_attach(self, received: int) -> bool:
        """Whether a peer that holds everything up to `received` can go on from there without a state transfer."""
        return self.received <= received <= self._highest

    def attach(self, received: int) -> None:
        """A peer that holds everything up to `received` listens from now on; raise ChannelError if it cannot go on."""
        assert self.state is SenderState.DETACHED, self.state
        if not self.can_attach(received):
            raise ChannelError(
                f"the joiner holds entries up to {received}, this side can continue from {self.received} to "
                f"{self._highest}: it must take the state over"
            )
        self._forget(received)
        self._cursor = received + 1
        self.state = SenderState.ATTACHED

    def put(self, sequence: int, data: bytes, now: float) -> None:
        """Take the next entry; ask `delay` first."""
        assert self.state is not SenderState.ENDED, self.state
        assert sequence == self.last + 1, f"entry {sequence} does not follow {self.last}"
        self.window.sent(sequence, len(data), now)
        self._unacked.append((sequence, data))
        self.last = sequence

    def next_unsent(self) -> tuple[int, bytes] | None:
        """Return the next (sequence, entry) for the current connection, None when it was given all or there is none."""
        if self._cursor > self.last or self.state is not SenderState.ATTACHED:
            return None
        return self._unacked[self._cursor - self.last - 1]

    def advance(self) -> None:
        """The transport has taken what `next_unsent` returned."""
        assert self.state is SenderState.ATTACHED and self._cursor <= self.last
        if self._cursor > self._highest:
            self._highest = self._cursor
        else:
            self.resends += 1
        self._cursor += 1

    def acknowledge(self, ack: Ack) -> bool:
        """Take an ack; return whether any of its sequences is news. Raise ChannelError if it claims the impossible."""
        assert self.state is SenderState.ATTACHED, self.state
        if ack.received > self._highest:
            raise ChannelError(f"the backup acknowledges entry {ack.received}, the last one sent is {self._highest}")
        if ack.received < self.received or ack.executed < self.executed or ack.durable < self.durable:
            self.stale_acks += 1
            return False
        news = (ack.received, ack.executed, ack.durable) != (self.received, self.executed, self.durable)
        self._forget(ack.received)
        if ack.executed > self.executed:
            self.executed, self.digest = ack.executed, ack.digest
            self.window.executed(ack.executed)
        self.durable = ack.durable
        if ack.flags & AckFlag.RESEND:
            self._cursor = self.received + 1
        return news

    def delay(self, now: float) -> float:
        """Return how many seconds to wait before the next entry; infinity: until an ack comes (see `window`)."""
        return self.window.delay(now)

    def detach(self) -> None:
        """The connection is lost; entries are kept for the next one."""
        if self.state is not SenderState.ENDED:
            self.state = SenderState.DETACHED

    def end(self) -> None:
        """This backup is given up for good; nothing is kept."""
        self.state = SenderState.ENDED
        self._unacked.clear()

    def _forget(self, received: int) -> None:
        while self._unacked and self._unacked[0][0] <= received:
            self._unacked.popleft()
        self.received = received
        self._cursor = max(self._cursor, received + 1)
