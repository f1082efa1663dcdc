# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames taken apart: what they say of themselves, and that no bytes can upset whoever takes them apart."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.records.frame import Arp, Frame, Icmp, Ip, Tcp, Udp, decode_frame
from tests.machine import frames

HOST, GUEST = bytes.fromhex("fe80" + "00" * 13 + "02"), bytes.fromhex("fe80" + "00" * 13 + "15")


def tcp(flags: int, payload: bytes = b"", options: bytes = b"") -> bytes:
    head = struct.pack(">HHIIBBHHH", 40000, 80, 1000, 77, (20 + len(options)) // 4 << 4, flags, 64240, 0, 0)
    return head + options + payload


def ip6(kind: int, payload: bytes) -> bytes:
    return frames.ethernet(0x86DD, struct.pack(">IHBB", 6 << 28, len(payload), kind, 64) + HOST + GUEST + payload)


def fragment(offset: int, payload: bytes) -> bytes:
    word = offset // 8 | 0x2000
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, word, 33, 17, 0) + frames.OUR_IP + frames.IP
    return frames.ethernet(0x0800, head + payload)


SAMPLES = {
    "arp": (frames.arp(), "ARP who has 10.0.2.15? tell 10.0.2.2"),
    "ping": (frames.ipv4(1, frames.ping(b"12345")), "10.0.2.2 > 10.0.2.15 ICMP echo request id 4660 seq 7, 5 bytes"),
    "unreachable": (frames.ipv4(1, b"\3\3" + bytes(6)), "10.0.2.2 > 10.0.2.15 ICMP destination unreachable: port"),
    "udp": (frames.ipv4(17, frames.datagram(68, 67, b"dhcp")), "10.0.2.2:68 > 10.0.2.15:67 UDP, 4 bytes"),
    "syn": (
        frames.ipv4(6, tcp(2, options=b"\2\4\5\xb4")),
        "10.0.2.2:40000 > 10.0.2.15:80 TCP SYN seq 1000 win 64240, 0 bytes",
    ),
    "data": (
        frames.ipv4(6, tcp(0x18, b"GET /")),
        "10.0.2.2:40000 > 10.0.2.15:80 TCP PSH ACK seq 1000 ack 77 win 64240, 5 bytes",
    ),
    "sctp": (frames.ipv4(132, b"1234"), "10.0.2.2 > 10.0.2.15 SCTP"),
    "fragment": (fragment(1480, b"x" * 16), "10.0.2.2 > 10.0.2.15 protocol 17 (fragment at 1480)"),
    "udp6": (ip6(17, frames.datagram(546, 547, b"x")), "[fe80::2]:546 > [fe80::15]:547 UDP, 1 bytes"),
    "neighbour": (
        ip6(58, b"\x87\0" + bytes(6) + GUEST),
        "fe80::2 > fe80::15 ICMPv6 neighbour solicitation for fe80::15",
    ),
    "hop by hop": (
        ip6(0, b"\x3a\0\5\2\0\0\1\0" + b"\x8f\0" + bytes(6)),
        "fe80::2 > fe80::15 ICMPv6 multicast listener report",
    ),
    "vlan": (
        frames.arp()[:12] + b"\x81\0\x20\x05" + frames.arp()[12:],
        "vlan 5 ARP who has 10.0.2.15? tell 10.0.2.2",
    ),
    "lldp": (frames.ethernet(0x88CC, b"\0" * 20), "02:00:00:00:00:01 > 52:54:00:ab:cd:ef LLDP"),
    "length": (frames.ethernet(0x20, b"\0" * 32), "02:00:00:00:00:01 > 52:54:00:ab:cd:ef IEEE 802.3"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_frame_says_what_it_is(name: str) -> None:
    data, words = SAMPLES[name]
    frame = decode_frame(data)
    assert str(frame) == words
    assert frame.length == len(data)


def test_the_layers_are_there_as_numbers() -> None:
    found = decode_frame(SAMPLES["data"][0])
    assert (found.source, found.destination, found.ethertype) == ("02:00:00:00:00:01", "52:54:00:ab:cd:ef", 0x0800)
    packet = found.network
    assert isinstance(packet, Ip) and isinstance(packet.transport, Tcp)
    assert packet.transport == Tcp(40000, 80, 1000, 77, ("PSH", "ACK"), 64240, b"GET /")
    question = decode_frame(frames.arp()).network
    assert isinstance(question, Arp) and (question.operation, question.target) == (1, "10.0.2.15")
    datagram = decode_frame(SAMPLES["udp6"][0]).network
    assert isinstance(datagram, Ip) and datagram.transport == Udp(546, 547, b"x")
    echo = decode_frame(SAMPLES["ping"][0]).network
    assert isinstance(echo, Ip) and isinstance(echo.transport, Icmp)
    assert (echo.transport.identifier, echo.transport.number, echo.transport.payload) == (0x1234, 7, b"12345")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_frame_that_was_cut_off_says_so_or_is_shorter(name: str) -> None:
    """Cut anywhere: no exception, and never more payload than there are bytes."""
    data, _ = SAMPLES[name]
    for length in range(len(data)):
        frame = decode_frame(data[:length])
        assert frame.length == length and str(frame)
        inner = frame.network.transport if isinstance(frame.network, Ip) else None
        assert inner is None or len(inner.payload) <= length
        if isinstance(frame.network, Ip):
            assert frame.network.problem, f"cut at {length}: {frame}"


@given(st.binary(max_size=120))
def test_no_bytes_upset_it(data: bytes) -> None:
    assert str(decode_frame(data)).isprintable()


@pytest.mark.parametrize("name", SAMPLES)
def test_no_flipped_bits_upset_it(name: str) -> None:
    chance = random.Random(name)
    for _ in range(300):
        data = bytearray(SAMPLES[name][0])
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        frame = decode_frame(bytes(data))
        assert isinstance(frame, Frame) and str(frame).isprintable(), data.hex()
