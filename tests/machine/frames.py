# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames to netecho, with right checksums (RFC 826, 791, 792, 768, 1071)."""

from __future__ import annotations

import struct

MAC = bytes.fromhex("525400abcdef")
OUR_MAC = bytes.fromhex("020000000001")
IP, OUR_IP = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def ethernet(kind: int, payload: bytes, to: bytes = MAC) -> bytes:
    """A frame to the guest."""
    return to + OUR_MAC + struct.pack(">H", kind) + payload


def arp(target: bytes = IP) -> bytes:
    """Who has `target`?"""
    question = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + OUR_MAC + OUR_IP + bytes(6) + target
    return ethernet(0x0806, question, b"\xff" * 6)


def ipv4(protocol: int, payload: bytes) -> bytes:
    """A packet to the guest, in a frame."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 33, protocol, 0) + OUR_IP + IP
    return ethernet(0x0800, head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload)


def ping(payload: bytes, kind: int = 8) -> bytes:
    """An echo request (8) or reply (0)."""
    head = struct.pack(">BBHHH", kind, 0, 0, 0x1234, 7)
    return struct.pack(">BBHHH", kind, 0, checksum(head + payload), 0x1234, 7) + payload


def datagram(source: int, target: int, payload: bytes) -> bytes:
    """UDP without a checksum, which it need not have."""
    return struct.pack(">HHHH", source, target, 8 + len(payload), 0) + payload
