# SPDX-License-Identifier: GPL-2.0-or-later
"""Unfinished packets: checksums and cutting, against what the RFCs say a finished one looks like."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.offload import (
    FRAME_MAX,
    GSO_TCPV4,
    GSO_TCPV6,
    HEAD,
    NEEDS_CSUM,
    PACKET_HEADER,
    PacketError,
    check,
    checksum,
    frames,
    plain,
    without,
)

ETHERNET = bytes(range(12))
FIN, SYN, PSH, ACK, CWR = 1, 2, 8, 16, 128


def reference(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def tcp_packet(payload: bytes, size: int, six: bool = False, flags: int = ACK, options: bytes = b"", vlan: bool = False
               ) -> bytes:  # fmt: skip
    """A segment as a driver leaves it: only the pseudo header is summed up (without the length, as for TSO)."""
    tcp = struct.pack(">HHIIBBHHH", 1234, 80, 0xFFFF_FF00, 7, (5 + len(options) // 4) << 4, flags, 512, 0, 0) + options
    if six:
        ip = struct.pack(">IHBB", 6 << 28, len(tcp) + len(payload) & 0xFFFF, 6, 64) + bytes(range(32))
    else:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp) + len(payload) & 0xFFFF, 0xFFFE, 0x4000, 64, 6, 0)
        ip += bytes((10, 0, 0, 1, 10, 0, 0, 2))
    kind = (b"\x81\x00\x00\x05" if vlan else b"") + (b"\x86\xdd" if six else b"\x08\x00")
    frame = ETHERNET + kind + ip + tcp + payload
    start = len(ETHERNET + kind + ip)
    gso = (GSO_TCPV6 if six else GSO_TCPV4) if size else 0
    return PACKET_HEADER.pack(NEEDS_CSUM, gso, start + len(tcp), size, start, 16) + frame


def take_apart(frame: bytes) -> tuple[int, int, int, bytes]:
    """(identification, sequence number, flags, payload) of a finished segment, with everything in it checked."""
    at = 18 if frame[12:14] == b"\x81\x00" else 14
    if frame[at - 2 : at] == b"\x08\x00":
        tcp, length = at + 20, int.from_bytes(frame[at + 2 : at + 4])
        assert reference(frame[at:tcp]) == 0 and length == len(frame) - at
        addresses, number = frame[at + 12 : tcp], int.from_bytes(frame[at + 4 : at + 6])
    else:
        tcp, length = at + 40, int.from_bytes(frame[at + 4 : at + 6])
        assert length == len(frame) - tcp
        addresses, number = frame[at + 8 : tcp], 0
    assert reference(addresses + struct.pack(">HH", 6, len(frame) - tcp) + frame[tcp:]) == 0
    payload = tcp + (frame[tcp + 12] >> 4) * 4
    return number, int.from_bytes(frame[tcp + 4 : tcp + 8]), frame[tcp + 13], frame[payload:]


@given(st.binary(max_size=80))
def test_checksums_are_those_of_the_rfc(data: bytes) -> None:
    """Equal, or the two ways to write zero; what carries its own verifies."""
    assert checksum(data) % 0xFFFF == reference(data) % 0xFFFF
    even = data + b"\0" * (len(data) % 2)
    assert reference(even + checksum(even).to_bytes(2)) == 0


@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("length", [1, 1448, 1449, 30_001])
def test_a_long_segment_is_cut_into_whole_ones(length: int, six: bool, vlan: bool) -> None:
    """Numbered, flagged, summed up, and together what was sent; sequence numbers wrap."""
    payload = bytes(n * 7 & 0xFF for n in range(length))
    packet = tcp_packet(payload, 1448, six, ACK | PSH | FIN | CWR, options=b"\1" * 12, vlan=vlan)
    pieces = [take_apart(frame) for frame in frames(packet)]
    assert b"".join(data for _, _, _, data in pieces) == payload
    assert [len(data) for _, _, _, data in pieces[:-1]] == [1448] * (len(pieces) - 1)
    assert [at for _, at, _, _ in pieces] == [0xFFFF_FF00 + 1448 * n & 0xFFFF_FFFF for n in range(len(pieces))]
    assert all(flags & (PSH | FIN) == 0 for _, _, flags, _ in pieces[:-1]) and pieces[-1][2] & (PSH | FIN) == PSH | FIN
    assert pieces[0][2] & CWR and not any(flags & CWR for _, _, flags, _ in pieces[1:])
    if not six:
        assert [number for number, _, _, _ in pieces] == [0xFFFE + n & 0xFFFF for n in range(len(pieces))]


def test_a_checksum_that_was_left_is_put_in() -> None:
    """The field holds the pseudo header's sum, as Linux leaves it there; odd lengths too."""
    for payload in (b"", b"x", b"hello, world"):
        packet = bytearray(tcp_packet(payload, 0))
        at, tcp = HEAD + 14, HEAD + 34
        pseudo = bytes(packet[at + 12 : tcp]) + struct.pack(">HH", 6, len(packet) - tcp)
        packet[tcp + 16 : tcp + 18] = (0xFFFF - reference(pseudo)).to_bytes(2)
        (frame,) = frames(bytes(packet))
        assert reference(pseudo + frame[34:]) == 0 and frame[54:] == payload
        assert frame[:34] == packet[HEAD : HEAD + 34]


def test_a_finished_packet_stays_as_it_is() -> None:
    frame = bytes(range(60))
    assert frames(plain(frame)) == [frame] and without(plain(frame), True) == [plain(frame)]


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (plain(bytes(13)), "a frame of 13 bytes"),
        (plain(bytes(FRAME_MAX + 1)), "a frame of"),
        (b"", "a frame of"),
        (PACKET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 58, 1) + bytes(60), "a checksum at 58"),
        (PACKET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 2, 4) + bytes(60), "a checksum at 2"),
        (PACKET_HEADER.pack(8, 0, 0, 0, 14, 4) + bytes(60), "flags 0x8"),
        (PACKET_HEADER.pack(NEEDS_CSUM, 3, 0, 100, 34, 6) + bytes(60), "type 3"),
        (PACKET_HEADER.pack(0, GSO_TCPV4, 0, 100, 34, 16) + bytes(60), "with flags 0x0"),
        (PACKET_HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 0, 0, 34, 16) + bytes(60), "in pieces of 0 bytes"),
        (PACKET_HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 0, 9, 34, 16) + bytes(60), "no such packet"),
        (tcp_packet(bytes(600), 1), "600 bytes in pieces of 1"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_in_words(packet: bytes, words: str) -> None:
    with pytest.raises(PacketError, match=words):
        check(packet)
    with pytest.raises(PacketError, match=words):
        without(packet, True)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 3, 4, 0x81]), *[st.integers(0, 70)] * 4),
    st.sampled_from([b"\x08\x00\x45", b"\x08\x00\x4f", b"\x86\xdd\x60", b"\x81\x00\x45"]),
    st.binary(max_size=90),
)
def test_any_packet_is_finished_or_refused(head: tuple[int, ...], kind: bytes, rest: bytes) -> None:
    """Whatever the bytes, what passes the check can be finished, and what comes out is within bounds."""
    packet = PACKET_HEADER.pack(*head) + ETHERNET + kind + rest
    try:
        check(packet)
    except PacketError:
        return
    for segmentation in (False, True):
        done = without(packet, segmentation)
        assert done and all(piece.startswith(bytes(HEAD)) and len(piece) >= HEAD + 14 for piece in done)
