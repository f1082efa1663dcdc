# SPDX-License-Identifier: GPL-2.0-or-later
"""Sender and receiver over a bad network: every entry is executed once and in order, across any loss of connection."""

from __future__ import annotations

from random import Random

import pytest

from logging_channel.endpoint import LISTENER, Link
from logging_channel.frame import FrameKind
from logging_channel.memory import Conditions, Network
from logging_channel.messages import Ack, entry_body, split_entry_body
from logging_channel.receiver import Receiver
from logging_channel.sender import Sender, SenderState
from logging_channel.session import Admission, Session
from logging_channel.window import Limits

ENTRIES = 120
BAD = Conditions(delay=(0.0, 0.004), notice=(0.0, 0.01), retry=(0.001, 0.02), late_chance=0.6, late=(0.0, 0.03))


class Primary:
    """Puts one entry after another as the window allows; takes any hello of its pair."""

    def __init__(self, network: Network) -> None:
        self.end = network.listen("wire", "a")
        self.sender = Sender(limits=Limits(max_entries=8))
        self.gate = Admission(Session(1, 1, 0))
        self.peer: bytes | None = None
        self.acks: list[Ack] = []

    def run(self, now: float) -> None:
        """One round of the main loop."""
        while (arrival := self.end.receive()) is not None:
            self.take(*arrival)
        if self.sender.last < ENTRIES and self.sender.delay(now) == 0.0:
            self.sender.put(self.sender.last + 1, b"entry %d" % (self.sender.last + 1), now)
        while self.peer is not None and (unsent := self.sender.next_unsent()) is not None:
            sequence, entry = unsent
            frame = self.gate.session.encode(FrameKind.ENTRY, sequence, entry_body(self.sender.executed, entry))
            self.end.send(self.peer, frame)
            self.sender.advance()

    def take(self, peer: bytes, what: bytes | Link) -> None:
        """A message or a notice."""
        if isinstance(what, Link):
            if what is Link.DISCONNECTED and peer == self.peer:
                self.sender.detach()
                self.peer = None
            return
        frame = self.gate.admit(what)
        if frame is None:
            return
        if frame.kind is FrameKind.HELLO:
            if frame.session > self.gate.session.number:  # a late hello of an earlier connection is older
                self.sender.detach()
                self.sender.attach(frame.sequence)
                self.peer = peer
                self.gate.session = Session(1, 1, frame.session)
        elif self.sender.state is SenderState.ATTACHED:
            self.acks.append(Ack.decode(frame.body))
            self.sender.acknowledge(self.acks[-1])


class Backup:
    """Acknowledges at once, executes at most one entry a round."""

    def __init__(self, network: Network) -> None:
        self.end = network.dial("wire", "b")
        self.receiver = Receiver()
        self.gate = Admission(Session(1, 1, 0))
        self.executed: list[bytes] = []

    def run(self) -> None:
        """One round of the I/O thread and the main thread."""
        while (arrival := self.end.receive()) is not None:
            self.take(arrival[1])
        self.tell()
        if (taken := self.receiver.take()) is not None:
            self.executed.append(taken[1])
            self.receiver.done(taken[0], taken[0] * 7)
            self.tell()

    def take(self, what: bytes | Link) -> None:
        """A message or a notice."""
        if what is Link.CONNECTED:
            self.gate.session = Session(1, 1, self.gate.session.number + 1)
            self.end.send(LISTENER, self.gate.session.encode(FrameKind.HELLO, self.receiver.received))
            self.receiver.resume()
        elif isinstance(what, bytes) and (frame := self.gate.admit(what)) is not None:
            self.receiver.accept(frame.sequence, *split_entry_body(frame.body))

    def tell(self) -> None:
        """Send the ack that is due."""
        if (ack := self.receiver.ack()) is not None:
            self.end.send(LISTENER, self.gate.session.encode(FrameKind.ACK, 0, ack.encode()))


@pytest.mark.parametrize("seed", range(30))
def test_every_entry_is_executed_once_and_in_order_whatever_the_network_does(seed: int) -> None:
    """Cuts, partitions, pauses and late frames of earlier connections; `seed` repeats it."""
    random = Random(seed)
    network = Network(random, BAD)
    primary, backup = Primary(network), Backup(network)
    paused_until = {"primary": 0.0, "backup": 0.0}
    now = 0.0
    while primary.sender.executed < ENTRIES:
        now += random.uniform(0.0001, 0.003)
        assert now < 60.0, "the two do not get anywhere"
        network.step(now)
        if random.random() < 0.02:
            network.cut("a", "b")
        if random.random() < 0.005:
            network.partition("a", "b")
        if random.random() < 0.05:
            network.heal("a", "b")
        if random.random() < 0.01:
            paused_until[random.choice(["primary", "backup"])] = now + 0.05
        if now >= paused_until["primary"]:
            primary.run(now)
        if now >= paused_until["backup"]:
            backup.run()
        assert primary.sender.window.entries <= 8
    assert backup.executed == [b"entry %d" % number for number in range(1, ENTRIES + 1)]
    assert all(ack.digest == ack.executed * 7 for ack in primary.acks if ack.executed)


def test_the_bad_network_is_bad_enough() -> None:
    """Over all seeds there are resends, duplicates and frames of earlier sessions: else the test above shows little."""
    resends = dropped = 0
    for seed in range(30):
        random = Random(seed)
        network = Network(random, BAD)
        primary, backup = Primary(network), Backup(network)
        now = 0.0
        while primary.sender.executed < ENTRIES:
            now += random.uniform(0.0001, 0.003)
            network.step(now)
            if random.random() < 0.02:
                network.cut("a", "b")
            primary.run(now)
            backup.run()
        resends += primary.sender.resends
        dropped += primary.gate.dropped["session"] + backup.gate.dropped["session"]
    assert resends > 20 and dropped > 20, (resends, dropped)
