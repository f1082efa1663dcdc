# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated network: what it promises, what it breaks, and that a seed repeats it."""

from __future__ import annotations

from random import Random

import pytest

from logging_channel.endpoint import LISTENER, Endpoint, Link, Sent
from logging_channel.errors import ChannelError
from logging_channel.memory import Conditions, Dialer, Listener, Network

UP, DOWN = Link.CONNECTED, Link.DISCONNECTED


class Pair:
    """A listener on host a, a dialer on host b that says hello whenever it is connected, and time."""

    def __init__(self, seed: int = 1, conditions: Conditions | None = None) -> None:
        self.network = Network(Random(seed), conditions)
        self.listener: Listener = self.network.listen("wire", "a")
        self.dialer: Dialer = self.network.dial("wire", "b")
        self.at_listener: list[tuple[bytes, bytes | Link]] = []
        self.at_dialer: list[bytes | Link] = []

    def run(self, seconds: float) -> None:
        """Let time pass in steps of a millisecond and take what arrives."""
        for _ in range(round(seconds * 1000)):
            self.network.step(self.network.now + 0.001)
            while (arrival := self.dialer.receive()) is not None:
                self.at_dialer.append(arrival[1])
                if arrival[1] is UP:
                    self.dialer.send(LISTENER, b"hello")
            while (arrival := self.listener.receive()) is not None:
                self.at_listener.append(arrival)

    def connected(self) -> bytes:
        """Run until the listener knows its peer; return the peer's id."""
        self.run(0.2)
        return self.listener.peers[-1]


def test_both_ends_are_endpoints() -> None:
    """The pair is written against one interface."""
    pair = Pair()
    ends: list[Endpoint] = [pair.listener, pair.dialer]
    assert [end.fileno() for end in ends] == [-1, -1]


def test_a_listener_hears_of_a_peer_with_its_first_message() -> None:
    """As the real one."""
    pair = Pair()
    peer = pair.connected()
    assert pair.at_dialer == [UP]
    assert pair.at_listener == [(peer, UP), (peer, b"hello")]


def test_messages_keep_their_order_whatever_the_delays() -> None:
    """In both directions."""
    pair = Pair(conditions=Conditions(delay=(0.0, 0.05)))
    peer = pair.connected()
    for number in range(50):
        assert pair.listener.send(peer, b"%d" % number) is Sent.TAKEN
        assert pair.dialer.send(LISTENER, b"%d" % number) is Sent.TAKEN
    pair.run(0.2)
    expected = [b"%d" % number for number in range(50)]
    assert pair.at_dialer[1:] == expected
    assert [what for _, what in pair.at_listener[2:]] == expected


@pytest.mark.parametrize("survive", [0, 1, 3, 5])
def test_of_a_cut_connection_a_prefix_arrives_and_both_ends_are_told_behind_it(survive: int) -> None:
    """Then the dialer is back under a new id."""
    pair = Pair()
    peer = pair.connected()
    for number in range(5):
        pair.listener.send(peer, b"%d" % number)
        pair.dialer.send(LISTENER, b"%d" % number)
    assert pair.network.cut("a", "b", survive) == 1
    pair.run(0.3)
    expected = [b"%d" % number for number in range(survive)]
    assert pair.at_dialer == [UP, *expected, DOWN, UP]
    assert [what for who, what in pair.at_listener if who == peer] == [UP, b"hello", *expected, DOWN]
    assert len(pair.listener.peers) == 1 and pair.listener.peers[0] != peer
    assert pair.listener.send(peer, b"") is Sent.GONE


def test_a_connection_that_breaks_before_it_is_known_to_stand_is_never_told() -> None:
    """No end without a beginning."""
    pair = Pair(conditions=Conditions(delay=(0.005, 0.005)))
    pair.run(0.007)
    assert pair.network.cut("a", "b", survive=0) == 1
    pair.run(0.3)
    assert pair.at_dialer == [UP]


def test_what_is_sent_before_the_notice_is_lost() -> None:
    """An end that has not been told yet may still send."""
    pair = Pair(conditions=Conditions(notice=(0.05, 0.05)))
    peer = pair.connected()
    pair.network.cut("a", "b")
    assert pair.listener.send(peer, b"lost") is Sent.TAKEN
    assert pair.dialer.send(LISTENER, b"lost") is Sent.TAKEN
    pair.run(0.5)
    assert b"lost" not in pair.at_dialer and b"lost" not in [what for _, what in pair.at_listener]


def test_a_partition_delays_everything_and_tells_nobody() -> None:
    """After it heals, the connection goes on where it was."""
    pair = Pair()
    peer = pair.connected()
    pair.network.partition("a", "b")
    pair.listener.send(peer, b"held back")
    pair.run(2.0)
    assert pair.at_dialer == [UP]
    pair.network.heal("b", "a")
    pair.run(0.01)
    assert pair.at_dialer == [UP, b"held back"]


def test_nobody_connects_through_a_partition() -> None:
    """The dialer goes on trying."""
    pair = Pair()
    pair.network.partition("a", "b")
    pair.run(1.0)
    assert pair.at_dialer == []
    pair.network.heal("a", "b")
    pair.run(0.2)
    assert pair.at_dialer == [UP]


def test_a_crashed_listener_frees_its_address_and_the_dialer_finds_the_next_one() -> None:
    """Of what the killed process had sent, a prefix arrives."""
    pair = Pair()
    peer = pair.connected()
    with pytest.raises(ChannelError, match="in use"):
        pair.network.listen("wire", "c")
    for number in range(3):
        pair.listener.send(peer, b"%d" % number)
    pair.network.crash("a", survive=2)
    assert pair.listener.closed and pair.listener.receive() is None
    assert pair.listener.send(peer, b"") is Sent.GONE
    pair.run(0.2)
    assert pair.at_dialer == [UP, b"0", b"1", DOWN]
    pair.listener = pair.network.listen("wire", "c")
    pair.run(0.2)
    assert pair.at_dialer[4:] == [UP]


def test_a_crashed_dialer_is_told_to_the_listener() -> None:
    """Behind its last message."""
    pair = Pair()
    peer = pair.connected()
    pair.dialer.send(LISTENER, b"last words")
    pair.network.crash("b", survive=9)
    pair.run(0.1)
    assert pair.at_listener[2:] == [(peer, b"last words"), (peer, DOWN)]
    assert pair.listener.peers == ()


def test_closing_with_a_linger_lets_a_goodbye_through() -> None:
    """And closing twice does nothing."""
    pair = Pair()
    peer = pair.connected()
    pair.listener.send(peer, b"goodbye")
    pair.listener.close(linger_ms=100)
    pair.listener.close()
    pair.run(0.1)
    assert pair.at_dialer == [UP, b"goodbye", DOWN]


def test_a_receiver_that_does_not_read_fills_the_connection() -> None:
    """The sender is told; nothing is dropped."""
    pair = Pair(conditions=Conditions(high_water=10))
    peer = pair.connected()
    taken = 0
    while pair.listener.send(peer, b"%d" % taken) is Sent.TAKEN:
        taken += 1
    assert taken == 10 and pair.listener.send(peer, b"") is Sent.FULL
    pair.run(0.1)
    assert pair.at_dialer[1:] == [b"%d" % number for number in range(10)]
    assert pair.listener.send(peer, b"") is Sent.TAKEN


def test_lost_messages_may_turn_up_on_the_next_connection() -> None:
    """Under the new peer's id: only a session number tells them apart."""
    pair = Pair(conditions=Conditions(late_chance=1.0))
    peer = pair.connected()
    pair.listener.send(peer, b"old entry")
    pair.dialer.send(LISTENER, b"old ack")
    pair.network.cut("a", "b", survive=0)
    pair.run(0.5)
    assert pair.at_dialer == [UP, DOWN, UP, b"old entry"]
    assert (pair.listener.peers[0], b"old ack") in pair.at_listener


def test_a_seed_repeats_everything() -> None:
    """Same seed, same history; another seed, another one."""

    def history(seed: int) -> list[object]:
        pair = Pair(seed, Conditions(delay=(0.0, 0.01), late_chance=0.5))
        for step in range(40):
            if pair.listener.peers:
                pair.listener.send(pair.listener.peers[-1], b"%d" % step)
            if step % 7 == 3:
                pair.network.cut("a", "b")
            pair.run(0.02)
        return [*pair.at_dialer, *pair.at_listener]

    assert history(5) == history(5) != history(6)


def test_time_does_not_step_back() -> None:
    """That would be our own bug."""
    network = Network(Random(1))
    network.step(1.0)
    with pytest.raises(AssertionError):
        network.step(0.5)
