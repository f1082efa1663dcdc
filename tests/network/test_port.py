# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports on a simulated switch: what is taken for which guest, who is told what, and what going live means."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from devices.event import LINK_DOWN, LINK_MOVED, LINK_UP, Event, EventKind, Output, OutputKind
from devices.virtio.offload import plain
from ftvm.world.network.announce import REPEAT_S, announcements
from ftvm.world.network.network import TAKE_MAX
from ftvm.world.network.port import HELD_MAX, Port, Ports
from ftvm.world.network.simulated import QUEUE_MAX, SimulatedNetwork, Switch
from tests.machine.frames import OUR_MAC

MAC = bytes.fromhex("525400123456")
MOVED = Event(EventKind.LINK, 0, LINK_MOVED)


@dataclass
class FakeCard:
    """A card whose guest has room as the test says."""

    mac: bytes = MAC
    link: bool = True
    room: int | None = 256


class Bench:
    """A port and another station on one switch."""

    def __init__(self, room: int | None = 256) -> None:
        self.switch = Switch()
        self.cable = self.switch.plug()
        self.station = self.switch.plug()
        self.station.attach(0)
        self.card = FakeCard(room=room)
        self.notices: list[str] = []
        self.port = Port(0, "tap:t0", self.card, self.cable, self.notices.append)

    def heard(self) -> list[bytes]:
        """Frames that reached the other station."""
        return [packet[10:] for packet in self.station.take(QUEUE_MAX)]

    def offer(self, count: int, to: bytes = MAC) -> list[Event]:
        """Frames for the guest, and the events that they should become."""
        sent = [plain(to + OUR_MAC + n.to_bytes(2) + bytes(46)) for n in range(count)]
        for packet in sent:
            self.station.send(packet)
        return [Event(EventKind.PACKET, 0, packet) for packet in sent]


def frame(number: int = 0) -> bytes:
    """From the guest to the other station."""
    return OUR_MAC + MAC + number.to_bytes(2) + bytes(46)


def arp(address: bytes, sender: bytes = MAC) -> bytes:
    """The guest claims an address."""
    return plain(b"\xff" * 6 + MAC + b"\x08\x06\0\1\x08\0\6\4\0\1" + sender + address + bytes(6) + bytes(4))


def test_packets_become_events_as_many_at_once_as_there_is_room_for() -> None:
    bench = Bench()
    bench.port.open(0)
    assert bench.port.turn(0) == [MOVED] and bench.port.turn(0) == []
    expected = bench.offer(100)
    assert bench.port.turn(1) == expected[:TAKE_MAX]
    bench.card.room = 10
    assert bench.port.turn(1) == expected[TAKE_MAX : TAKE_MAX + 10]
    assert bench.cable.watched and bench.port.received == TAKE_MAX + 10


def test_a_full_guest_leaves_packets_in_the_network_and_does_not_wake_us() -> None:
    bench = Bench(room=0)
    bench.port.open(0)
    expected = bench.offer(3)
    assert bench.port.turn(1) == [MOVED] and not bench.cable.watched
    bench.card.room = 5
    assert bench.port.turn(1) == expected and bench.cable.watched


def test_a_guest_without_a_driver_gets_nothing_later_either() -> None:
    """It is not logged, and not announced."""
    bench = Bench(room=None)
    bench.port.open(0)
    bench.offer(3)
    assert bench.port.turn(1) == [] and bench.port.dropped == 3
    bench.card.room = 5
    assert bench.port.turn(2) == [] and bench.heard() == []


def test_nothing_is_attached_before_the_side_is_live_and_nothing_stale_comes_in() -> None:
    bench = Bench()
    bench.offer(3)
    assert bench.port.turn(0) == [] and not bench.cable.attached
    bench.port.open(1)
    assert bench.cable.attached and bench.port.turn(1) == [MOVED]
    assert bench.port.received == 0
    bench.port.close()
    assert not bench.cable.attached and bench.port.turn(2) == []


def test_going_live_announces_the_guest_by_its_addresses_or_without() -> None:
    """Again and again for a moment; only addresses that it has claimed itself in ARP."""
    bench = Bench()
    bench.port.open(0)
    (request,) = bench.heard()
    assert len(request) == 60 and request[:22] == b"\xff" * 6 + MAC + b"\x80\x35\0\1\x08\0\6\4\0\3"
    known = Bench()
    one, two = b"\x0a\0\2\x0f", b"\x0a\0\2\x10"
    for packet in (arp(one), arp(two), arp(one), arp(bytes(4)), arp(b"1234", OUR_MAC)):
        known.port.observe(packet)
    known.port.observe(plain(OUR_MAC + MAC + b"\x08\x00\x45" + bytes(30)))
    known.port.open(0)
    told = known.heard()
    assert told == announcements(MAC, [two, one]) and len(told) == 2
    assert told[1][:42] == b"\xff" * 6 + MAC + b"\x08\x06\0\1\x08\0\6\4\0\1" + MAC + one + bytes(6) + one
    for number, delay in enumerate(REPEAT_S[1:]):
        known.port.turn(delay - 0.001)
        assert known.heard() == [], f"repeat {number} came early"
        known.port.turn(delay)
        assert len(known.heard()) == 2
    known.port.turn(100)
    assert known.heard() == []


def test_only_so_many_addresses_are_remembered() -> None:
    bench = Bench()
    for n in range(40):
        bench.port.observe(arp(bytes((10, 0, 0, n))))
    bench.port.open(0)
    assert [frame[31] for frame in bench.heard()] == list(range(24, 40))


def test_what_is_sent_before_the_network_is_there_waits_for_a_moment() -> None:
    """In order, bounded, and not when it is old."""
    bench = Bench()
    bench.cable.reachable = False
    bench.port.send(plain(frame(1)), 0)
    bench.port.open(0)
    for n in range(HELD_MAX):
        bench.port.send(plain(frame(n + 2)), 0.9)
    assert bench.port.dropped == 1
    bench.cable.reachable = True
    bench.port.turn(1.5)
    assert [int.from_bytes(data[12:14]) for data in bench.heard()[1:]] == list(range(2, HELD_MAX + 1))
    assert bench.port.dropped == 2 and bench.port.sent == HELD_MAX - 1


def test_the_link_goes_down_with_the_network_and_comes_back_but_not_for_a_failover() -> None:
    """Short gaps are not told to anybody; each change once."""
    bench = Bench()
    bench.port.open(0)
    bench.port.turn(0)
    bench.cable.reachable = False
    assert bench.port.turn(1) == [] == bench.port.turn(1.4) and bench.notices == []
    assert bench.port.turn(1.7) == [] and bench.notices == ["network 0 (tap:t0): the cable is pulled"]
    assert bench.port.turn(2.1) == [Event(EventKind.LINK, 0, LINK_DOWN)]
    assert bench.port.turn(2.2) == []
    bench.card.link = False
    assert bench.port.turn(2.3) == []
    bench.cable.reachable = True
    assert bench.port.turn(3) == [MOVED, Event(EventKind.LINK, 0, LINK_UP)]
    assert bench.notices[1:] == ["network 0 (tap:t0): attached"]
    bench.card.link = True
    assert bench.port.turn(3.1) == []


def test_ports_are_found_by_the_cards_unit_and_missing_ones_are_connected_to_nothing() -> None:
    bench = Bench()
    ports = Ports({0: bench.port}, clock=lambda: 5.0)
    ports.open()
    bench.heard()
    for unit in (0, 1):
        ports.observe(Output(OutputKind.PACKET, unit, arp(b"abcd")))
        ports.deliver(Output(OutputKind.PACKET, unit, plain(frame(7))))
    assert bench.heard() == [frame(7)]
    (report,) = ports.report()
    counts = {"sent": 1, "received": 0, "dropped": 0}
    assert report == {"unit": 0, "backend": "tap:t0", "attached": True, "problem": ""} | counts
    ports.close()
    assert Ports({}).take_events() == []


def test_the_switch_learns_where_addresses_are() -> None:
    """Unknown and group addresses go everywhere, known ones to one end, also after it has moved."""
    switch = Switch()
    ends = [switch.plug() for _ in range(3)]
    for end in ends:
        end.attach(0)

    def arrivals() -> list[int]:
        return [len(end.take(QUEUE_MAX)) for end in ends]

    ends[0].send(plain(frame()))
    assert arrivals() == [0, 1, 1]
    ends[1].send(plain(MAC + OUR_MAC + bytes(48)))
    assert arrivals() == [1, 0, 0]
    ends[2].send(plain(b"\xff" * 6 + MAC + bytes(48)))
    assert arrivals() == [1, 1, 0]
    ends[1].send(plain(MAC + OUR_MAC + bytes(48)))
    assert arrivals() == [0, 0, 1]
    ends[2].close()
    ends[1].send(plain(MAC + OUR_MAC + bytes(48)))
    assert arrivals() == [1, 0, 0]


@pytest.mark.parametrize("count", [QUEUE_MAX + 7])
def test_a_slow_end_of_the_switch_drops_what_is_new(count: int) -> None:
    bench = Bench()
    end: SimulatedNetwork = bench.cable
    end.attach(0)
    bench.offer(count)
    assert end.dropped == 7 and len(end.arrived) == QUEUE_MAX
