# SPDX-License-Identifier: GPL-2.0-or-later
"""The TAP backend on this kernel's devices: existing ones, missing ones, wrong ones, and those that go away."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from devices.virtio.offload import NEEDS_CSUM, PACKET_HEADER, frames, plain
from ftvm.world.network.tap import TapNetwork, exists, open_tap
from ftvm.world.poller import Poller
from tests.commands.namespaces import _ip
from tests.machine.frames import checksum

from .lab import Lab

MAC = bytes.fromhex("525400123456")
GUEST_IP = bytes((10, 0, 2, 15))


class Bench:
    """A backend on host a."""

    def __init__(self, lab: Lab, name: str = "vm0") -> None:
        self.lab = lab
        self.poller = Poller()
        self.network = TapNetwork(name, self.poller)

    def attach(self, now: float = 0.0) -> None:
        """Try to."""
        self.lab.within("a", lambda: self.network.attach(now))

    def frames(self, wanted: Callable[[bytes], bool], seconds: float = 5.0) -> bytes:
        """The next packet that is wanted."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.network.watch(True)
            self.poller.wait(0.05)
            for packet in self.network.take(64):
                if wanted(packet):
                    return packet
        raise AssertionError("it did not come")

    def close(self) -> None:
        self.network.close()
        self.poller.close()


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    bench = Bench(lab)
    yield bench
    bench.close()


def is_arp(packet: bytes) -> bool:
    return packet[22:24] == b"\x08\x06"


def is_long(packet: bytes) -> bool:
    """A TCP segment that is longer than the MTU; the first one may be a short one."""
    return packet[22:24] == b"\x08\x00" and packet[33] == 6 and len(packet) > 10 + 1514


def test_the_carrier_is_there_only_while_somebody_is_attached(lab: Lab, bench: Bench) -> None:
    assert lab.until_carrier(False)
    bench.attach()
    assert bench.network.attached and lab.until_carrier(True)
    bench.network.close()
    assert lab.until_carrier(False) and lab.within("a", lambda: exists("vm0"))


def test_frames_pass_to_and_from_the_bridge(lab: Lab, bench: Bench) -> None:
    """The host asks for a guest's address; what was queued for an earlier holder is not there."""
    bench.attach()
    with lab.within("a", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as host:
        host.sendto(b"anybody?", ("10.0.2.15", 9))
        request = bench.frames(is_arp)
        assert request[10:16] == b"\xff" * 6 and request[10 + 38 : 10 + 42] == GUEST_IP
        asker = request[16:22]
        reply = asker + MAC + b"\x08\x06\0\1\x08\0\6\4\0\2" + MAC + GUEST_IP + asker + request[10 + 28 : 10 + 32]
        assert bench.network.send(plain(reply))
        packet = bench.frames(lambda packet: packet[22:24] == b"\x08\x00")
        assert packet[10:22] == MAC + asker and packet.endswith(b"anybody?")
        bench.network.close()
        host.sendto(b"stale", ("10.0.2.15", 9))
        bench.attach(1)
        assert not any(packet.endswith(b"stale") for packet in bench.network.take(64))


def test_long_segments_come_unfinished_and_go_finished(lab: Lab, bench: Bench) -> None:
    """A TCP stream of the host's arrives in segments longer than the MTU, with their checksums left to us."""
    bench.attach()
    with lab.within("a", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as host:
        host.setblocking(False)
        assert host.connect_ex(("10.0.2.16", 80)) == errno.EINPROGRESS
        request = bench.frames(is_arp)
        asker, asker_ip = request[16:22], request[10 + 28 : 10 + 32]
        reply = MAC + request[10 + 38 : 10 + 42] + asker + asker_ip
        bench.network.send(plain(asker + MAC + b"\x08\x06\0\1\x08\0\6\4\0\2" + reply))
        syn = bench.frames(lambda packet: packet[22:24] == b"\x08\x00" and packet[33] == 6)
        tcp = syn[10 + 34 :]
        assert tcp[13] == 2
        guest_ip = bytes((10, 0, 2, 16))
        answer = tcp[2:4] + tcp[:2] + bytes(4) + (int.from_bytes(tcp[4:8]) + 1 & 0xFFFF_FFFF).to_bytes(4)
        answer += b"\x60\x12\xff\xff\0\0\0\0\x02\x04\x05\xb4"  # SYN, ACK, a window of 65535, MSS 1460
        pseudo = guest_ip + asker_ip + b"\0\x06" + len(answer).to_bytes(2)
        partial = (0xFFFF - checksum(pseudo)).to_bytes(2)
        head = b"\x45\0\0\x2c\0\0\0\0\x40\x06\0\0" + guest_ip + asker_ip
        ip = head[:10] + checksum(head).to_bytes(2) + head[12:]
        frame = asker + MAC + b"\x08\x00" + ip + answer[:16] + partial + answer[18:]
        assert bench.network.send(PACKET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, 16) + frame), "the kernel finishes it"
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                host.send(bytes(40_000))
                break
            except BlockingIOError:
                time.sleep(0.01)
        packet = bench.frames(is_long)
        flags, gso, _, size, _, _ = PACKET_HEADER.unpack_from(packet)
        assert flags & NEEDS_CSUM and gso == 1 and size == 1460
        assert all(len(piece) <= 1514 for piece in frames(packet))


def test_a_missing_device_is_made_and_stays(lab: Lab) -> None:
    """Up, and still there when its holder is not."""
    bench = Bench(lab, "made0")
    bench.attach()
    assert bench.network.attached and lab.until_carrier(True, "a", "made0")
    bench.close()
    assert lab.within("a", lambda: exists("made0"))
    again = Bench(lab, "made0")
    again.attach()
    assert again.network.attached
    again.close()


def test_a_device_that_another_process_holds_is_had_once_it_lets_go(lab: Lab, bench: Bench) -> None:
    bench.attach()
    second = Bench(lab)
    second.attach(1.0)
    assert not second.network.attached
    assert second.network.problem == "the TAP device vm0: another process holds it"
    second.attach(1.001)
    assert not second.network.attached, "not asked again at once"
    bench.network.close()
    second.attach(1.1)
    assert second.network.attached and second.network.problem == ""
    second.close()


def test_a_device_that_is_deleted_is_told_and_made_again(lab: Lab) -> None:
    bench = Bench(lab, "gone0")
    bench.attach()
    _ip("-n", lab.names["a"], "link", "del", "gone0")
    bench.network.watch(True)
    bench.poller.wait(0.1)
    assert bench.network.take(1) == [] and not bench.network.send(plain(bytes(60)))
    assert not bench.network.attached and "the TAP device gone0 is gone" in bench.network.problem
    bench.attach(1)
    assert bench.network.attached
    bench.close()


def test_what_is_no_tap_device_is_refused_in_words(lab: Lab) -> None:
    bench = Bench(lab, "uplink")
    bench.attach()
    assert bench.network.problem.startswith("uplink is not a TAP device with one queue")
    bench.close()


def test_without_the_right_it_says_what_root_must_do(lab: Lab) -> None:
    """A user who may not."""
    script = (
        "import os\n"
        "from ftvm.world.network.tap import open_tap, why_not\n"
        "os.setgroups([]); os.setuid(65534)\n"
        "try: open_tap('vm9')\n"
        "except OSError as error: print(why_not('vm9', error))\n"
    )
    done = subprocess.run([*lab.on("a"), sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "no right to use the TAP device vm9: ip tuntap add dev vm9 mode tap user" in done.stdout, done.stderr


def test_garbage_does_not_upset_anybody(lab: Lab, bench: Bench) -> None:
    """Frames that the kernel refuses are dropped; so is everything while the device is down."""
    bench.attach()
    assert not bench.network.send(PACKET_HEADER.pack(NEEDS_CSUM, 1, 2000, 0, 3000, 5) + bytes(60))
    assert bench.network.send(plain(bytes(60)))
    _ip("-n", lab.names["a"], "link", "set", "vm0", "down")
    try:
        assert not bench.network.send(plain(bytes(60))) and bench.network.attached
    finally:
        _ip("-n", lab.names["a"], "link", "set", "vm0", "up")


def test_the_descriptor_is_not_inherited(lab: Lab) -> None:
    """A TAP device that a child held would keep its carrier."""
    fd = lab.within("a", lambda: open_tap("vm0"))
    assert not os.get_inheritable(fd)
    os.close(fd)
