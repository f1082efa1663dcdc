# SPDX-License-Identifier: GPL-2.0-or-later
"""netecho answers what is meant for it, with right checksums, and nothing else. Frames go over a datagram netdev."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import StartGuest

MAC = bytes.fromhex("525400abcdef")
OUR_MAC = bytes.fromhex("020000000001")
BROADCAST = b"\xff" * 6
IP, OUR_IP = bytes((10, 0, 2, 15)), bytes((10, 0, 2, 2))
SILENCE_S = 0.15

Exchange = Callable[[bytes], bytes | None]


class Link:
    """The other end of the guest's network device."""

    def __init__(self, directory: Path) -> None:
        self.near, self.far = directory / "near", directory / "far"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.near))

    def devices(self) -> tuple[str, ...]:
        """QEMU's side."""
        address = f"local.type=unix,local.path={self.far},remote.type=unix,remote.path={self.near}"
        mac = MAC.hex(":")
        return ("-netdev", f"dgram,id=net,{address}", "-device", f"virtio-net-device,netdev=net,mac={mac}")

    def exchange(self, frame: bytes, wait: float = 5.0) -> bytes | None:
        """Send a frame; the answer, or None when there is none in time."""
        self.socket.sendto(frame, str(self.far))
        return self.receive(wait)

    def receive(self, wait: float = 5.0) -> bytes | None:
        """The next frame."""
        self.socket.settimeout(wait)
        try:
            return self.socket.recv(4096)
        except TimeoutError:
            return None


@pytest.fixture
def link(tmp_path: Path, start_guest: StartGuest) -> Iterator[Link]:
    """A running netecho."""
    link = Link(tmp_path)
    guest = start_guest("netecho", "", link.devices())
    guest.wait_for("netecho: ready, 10.0.2.15 at 52:54:00:ab:cd:ef")
    yield link
    link.socket.close()


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


def arp(target: bytes, operation: int = 1) -> bytes:
    """Who has `target`?"""
    payload = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + OUR_MAC + OUR_IP + bytes(6) + target
    return ethernet(0x0806, payload, BROADCAST)


def ipv4(protocol: int, payload: bytes, target: bytes = IP, fragment: int = 0) -> bytes:
    """A packet to the guest, in a frame."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 33, protocol, 0) + OUR_IP + target
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return ethernet(0x0800, head + payload)


def ping(payload: bytes, kind: int = 8) -> bytes:
    """An echo request."""
    head = struct.pack(">BBHHH", kind, 0, 0, 0x1234, 7)
    return struct.pack(">BBHHH", kind, 0, checksum(head + payload), 0x1234, 7) + payload


def datagram(source: int, target: int, payload: bytes) -> bytes:
    """UDP with its checksum over the pseudo-header."""
    length = 8 + len(payload)
    pseudo = OUR_IP + IP + struct.pack(">HH", 17, length)
    value = checksum(pseudo + struct.pack(">HHHH", source, target, length, 0) + payload)
    return struct.pack(">HHHH", source, target, length, value) + payload


def test_arp_tells_the_device_address(link: Link) -> None:
    """The reply goes to the asker alone."""
    answer = link.exchange(arp(IP))
    assert answer is not None
    assert answer[:14] == OUR_MAC + MAC + b"\x08\x06"
    assert answer[14:42] == struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + MAC + IP + OUR_MAC + OUR_IP


@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_a_ping_comes_back(link: Link, size: int) -> None:
    """With the same payload, swapped addresses and right checksums."""
    payload = bytes(n & 0xFF for n in range(size))
    answer = link.exchange(ipv4(1, ping(payload)))
    assert answer is not None
    assert answer[:14] == OUR_MAC + MAC + b"\x08\x00"
    assert answer[26:34] == IP + OUR_IP
    assert checksum(answer[14:34]) == 0
    assert answer[34 : 42 + size] == ping(payload, kind=0)


def test_udp_port_7_echoes(link: Link) -> None:
    """Ports and addresses swapped; the checksum still holds."""
    answer = link.exchange(ipv4(17, datagram(40000, 7, b"hello")))
    assert answer is not None
    assert checksum(answer[14:34]) == 0
    length = 8 + len(b"hello")
    body = answer[34 : 34 + length]
    assert body[:4] == struct.pack(">HH", 7, 40000)
    assert body[8:] == b"hello"
    assert checksum(IP + OUR_IP + struct.pack(">HH", 17, length) + body) == 0


def test_a_raw_frame_comes_back(link: Link) -> None:
    """Of the local experimental type, whatever is in it."""
    payload = bytes(range(200))
    assert link.exchange(ethernet(0x88B5, payload)) == OUR_MAC + MAC + b"\x88\xb5" + payload


def test_what_is_not_for_us_is_dropped(link: Link) -> None:
    """And what is broken; a frame that is for us still comes back afterwards."""
    good = ipv4(1, ping(b"payload"))
    strange = [
        arp(bytes((10, 0, 2, 16))),
        arp(IP, operation=2),
        arp(IP)[:30],
        ipv4(1, ping(b"payload"), target=bytes((10, 0, 2, 16))),
        ipv4(1, ping(b"payload"), fragment=0x2000),
        ipv4(1, ping(b"payload", kind=0)),
        good[:-1] + b"!",
        good[:24] + b"\0\0" + good[26:],
        good[:16] + b"\xff\xff" + good[18:],
        good[:36],
        ipv4(17, datagram(40000, 8, b"other port")),
        ipv4(17, datagram(7, 7, b"echo to echo")),
        ethernet(0x88B5, b"x" * 50, BROADCAST),
        ethernet(0x86DD, b"x" * 50),
        b"short",
    ]
    for frame in strange:
        link.socket.sendto(frame, str(link.far))
    marker = ethernet(0x88B5, b"the only one" * 5)
    assert link.exchange(marker) == OUR_MAC + MAC + marker[12:]
    assert link.receive(SILENCE_S) is None


def test_many_frames_in_flight_all_come_back(link: Link) -> None:
    """More than the rings hold, in windows of 16."""
    for first in range(0, 320, 16):
        for n in range(first, first + 16):
            link.socket.sendto(ethernet(0x88B5, struct.pack(">I", n) + bytes(60)), str(link.far))
        for n in range(first, first + 16):
            answer = link.receive()
            assert answer is not None
            assert answer[14:18] == struct.pack(">I", n)


def test_the_address_is_a_boot_argument(start_guest: StartGuest, tmp_path: Path) -> None:
    """ip=A.B.C.D"""
    link = Link(tmp_path)
    guest = start_guest("netecho", "root=/dev/null ip=192.168.7.9 quiet", link.devices())
    guest.wait_for("netecho: ready, 192.168.7.9 at")
    assert link.exchange(arp(bytes((192, 168, 7, 9)))) is not None
    link.socket.close()
