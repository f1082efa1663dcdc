# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets: an Ethernet frame behind a `virtio_net_hdr` that says what is left to be done to it (virtio 1.2, 5.1.6).

| offset | field       | meaning                                                                       |
|--------|-------------|-------------------------------------------------------------------------------|
| 0      | flags       | NEEDS_CSUM: a checksum from csum_start on is to be put at csum_offset behind it |
| 1      | gso_type    | TCPV4 or TCPV6: the frame is one long TCP segment, to be cut                  |
| 2      | hdr_len     | a hint                                                                        |
| 4      | gso_size    | payload of each piece                                                         |
| 6, 8   | csum_start, csum_offset | see NEEDS_CSUM; the field holds the pseudo header's sum           |
| 10     | the frame   |                                                                               |

This is the form in which packets cross the machine's edge (events, outputs) and in which a TAP device with
IFF_VNET_HDR takes and gives them. Whoever has to hand a packet to somebody who cannot do that work does it here: a
network card for a driver without the features, a socket's backend for a peer that wants plain frames. Pure functions of
their bytes, so that a card may use them.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from devices.guest_error import GuestError

PACKET_HEADER: Final = Struct("<BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
HEAD: Final = PACKET_HEADER.size
PLAIN: Final = bytes(HEAD)  # nothing is left to be done

NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2
GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4

FRAME_MIN: Final = 14  # an Ethernet header
FRAME_MAX: Final = 18 + 65535  # Ethernet with a VLAN tag, and the longest IP packet
PIECES_MAX: Final = 512  # of one long segment: 64 KiB in pieces of 128 bytes

_VLAN: Final = b"\x81\x00"
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TCP_MIN: Final = 20
_FIN_PSH: Final = 0x09  # only in the last piece
_CWR: Final = 0x80  # only in the first piece


class PacketError(GuestError):
    """A header that does not fit its frame."""


def checksum(data: bytes, initial: int = 0) -> int:
    """The Internet checksum (RFC 1071) of `data`; 0xFFFF where it could as well be 0."""
    total = int.from_bytes(data if len(data) % 2 == 0 else data + b"\0") + initial
    return 0xFFFF - total % 0xFFFF


def plain(frame: bytes) -> bytes:
    """A complete frame as a packet."""
    return PLAIN + frame


def check(packet: bytes) -> None:
    """PacketError unless every function here can do its work on `packet`."""
    length = len(packet) - HEAD
    if not FRAME_MIN <= length <= FRAME_MAX:
        raise PacketError(f"a frame of {length} bytes")
    if packet[0] | packet[1] == 0:
        return
    flags, gso, _, size, start, offset = PACKET_HEADER.unpack_from(packet)
    if flags & ~(NEEDS_CSUM | DATA_VALID):
        raise PacketError(f"flags {flags:#x}")
    if flags & NEEDS_CSUM and not (start >= FRAME_MIN and start + offset + 2 <= length):
        raise PacketError(f"a checksum at {start} + {offset} in a frame of {length} bytes")
    if gso != GSO_NONE:
        if gso not in (GSO_TCPV4, GSO_TCPV6) or not flags & NEEDS_CSUM or size == 0:
            raise PacketError(f"a segment of type {gso} in pieces of {size} bytes, with flags {flags:#x}")
        payload = length - _long_segment(packet[HEAD:], gso)[1]
        if payload > PIECES_MAX * size:
            raise PacketError(f"{payload} bytes in pieces of {size}")


def without(packet: bytes, segmentation: bool) -> list[bytes]:
    """`packet` as plain ones, complete with all checksums, and in pieces where `segmentation` has to be done.

    A long segment that need not be cut stays one. PacketError as for `check`.
    """
    check(packet)
    flags, gso, _, size, start, offset = PACKET_HEADER.unpack_from(packet)
    if gso != GSO_NONE and segmentation:
        return [PLAIN + frame for frame in _cut(packet[HEAD:], gso, size)]
    if flags & NEEDS_CSUM:
        return [PLAIN + _completed(packet[HEAD:], start, offset)]
    return [PLAIN + packet[HEAD:]]


def frames(packet: bytes) -> list[bytes]:
    """What goes over a wire that knows only frames."""
    if packet.startswith(PLAIN):
        return [packet[HEAD:]]
    return [piece[HEAD:] for piece in without(packet, segmentation=True)]


def _completed(frame: bytes, start: int, offset: int) -> bytes:
    """`frame` with the checksum filled in; the field holds the sum of the pseudo header."""
    at = start + offset
    return frame[:at] + checksum(frame[start:]).to_bytes(2) + frame[at + 2 :]


def _long_segment(frame: bytes, gso: int) -> tuple[int, int]:
    """(offset of the IP header, offset of the TCP payload) of a long segment; PacketError when it is none."""
    at = 18 if frame[12:14] == _VLAN else 14
    kind = frame[at - 2 : at]
    if gso == GSO_TCPV4 and kind == _IPV4 and len(frame) >= at + 20:
        tcp = at + (frame[at] & 15) * 4
        fits = tcp >= at + 20 and frame[at + 9] == 6
    elif gso == GSO_TCPV6 and kind == _IPV6 and len(frame) >= at + 40:
        tcp = at + 40
        fits = frame[at + 6] == 6
    else:
        raise PacketError(f"a long segment of type {gso} that is no such packet")
    if not fits or len(frame) < tcp + _TCP_MIN:
        raise PacketError("a long segment without a TCP header")
    payload = tcp + (frame[tcp + 12] >> 4) * 4
    if not tcp + _TCP_MIN <= payload <= len(frame):
        raise PacketError("a long segment whose TCP header is longer than it")
    return at, payload


def _cut(frame: bytes, gso: int, size: int) -> list[bytes]:
    """One long TCP segment as many: lengths, identification, sequence numbers, flags and checksums of their own."""
    ip, payload = _long_segment(frame, gso)
    tcp = ip + (frame[ip] & 15) * 4 if gso == GSO_TCPV4 else ip + 40
    sequence = int.from_bytes(frame[tcp + 4 : tcp + 8])
    flags = frame[tcp + 13]
    pieces = []
    for number, begin in enumerate(range(payload, max(len(frame), payload + 1), size)):
        data = frame[begin : begin + size]
        head = bytearray(frame[:payload])
        _number_ip(head, ip, tcp, gso, number, len(data))
        head[tcp + 4 : tcp + 8] = (sequence + begin - payload & 0xFFFF_FFFF).to_bytes(4)
        last = begin + size >= len(frame)
        head[tcp + 13] = flags & ~(0 if last else _FIN_PSH) & ~(_CWR if number else 0)
        head[tcp + 16 : tcp + 18] = b"\0\0"
        pseudo = _pseudo(head, ip, tcp, gso, len(data))
        head[tcp + 16 : tcp + 18] = checksum(bytes(head[tcp:]) + data, pseudo).to_bytes(2)
        pieces.append(bytes(head) + data)
    return pieces


def _number_ip(head: bytearray, ip: int, tcp: int, gso: int, number: int, data: int) -> None:
    """The IP header of piece `number`, which carries `data` bytes."""
    if gso == GSO_TCPV6:
        head[ip + 4 : ip + 6] = (len(head) - tcp + data).to_bytes(2)
        return
    head[ip + 2 : ip + 4] = (len(head) - ip + data).to_bytes(2)
    head[ip + 4 : ip + 6] = (int.from_bytes(head[ip + 4 : ip + 6]) + number & 0xFFFF).to_bytes(2)
    head[ip + 10 : ip + 12] = b"\0\0"
    head[ip + 10 : ip + 12] = checksum(bytes(head[ip:tcp])).to_bytes(2)


def _pseudo(head: bytearray, ip: int, tcp: int, gso: int, data: int) -> int:
    """The pseudo header (RFC 9293, 3.1) as a number to add to the sum: addresses, protocol, length."""
    first, last = (ip + 12, ip + 20) if gso == GSO_TCPV4 else (ip + 8, ip + 40)
    return int.from_bytes(head[first:last]) + 6 + len(head) - tcp + data
