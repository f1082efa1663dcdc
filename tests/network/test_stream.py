# SPDX-License-Identifier: GPL-2.0-or-later
"""The stream backend against peers that behave, vanish, fall asleep, or speak something else."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.virtio.offload import frames, plain
from ftvm.config_values import Address, TcpAddress, UnixAddress
from ftvm.world.network.framing import encode
from ftvm.world.network.stream import SEND_MAX, StreamNetwork
from ftvm.world.poller import Poller
from tests.devices.test_offload import tcp_packet

FRAME = bytes(range(60))


class Peer:
    """The listening end."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.path = directory / ("d" * 90) / "peer.sock"
        self.path.parent.mkdir()
        self.kind = kind
        self.connection: socket.socket | None = None
        self.address: Address
        self.listen()

    def listen(self, port: int = 0) -> None:
        """Begin, or begin again at the same address."""
        if self.kind == "tcp":
            self.listener = socket.create_server(("127.0.0.1", port))
            self.address = TcpAddress("127.0.0.1", self.listener.getsockname()[1])
        else:
            short = self.path.parent.parent / "s"  # longer ones cannot be bound to, only connected to
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(short))
            self.listener.listen()
            short.rename(self.path)
            self.address = UnixAddress(str(self.path))

    def accept(self) -> socket.socket:
        """The next connection."""
        self.listener.settimeout(5)
        self.connection = self.listener.accept()[0]
        self.connection.settimeout(5)
        return self.connection

    def close(self) -> None:
        """Everything."""
        self.listener.close()
        if self.connection is not None:
            self.connection.close()


class Bench:
    """A backend, and time that passes."""

    def __init__(self, address: Address) -> None:
        self.poller = Poller()
        self.network = StreamNetwork(address, self.poller)
        self.network.watch(True)

    def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Let the backend work until something is so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"it did not come to that: {self.network.problem!r}"
            self.network.attach(time.monotonic())
            self.poller.wait(0.002)

    def received(self, count: int) -> list[bytes]:
        """That many packets."""
        found: list[bytes] = []

        def enough() -> bool:
            found.extend(self.network.take(1))
            return len(found) >= count

        self.until(enough)
        return found


@pytest.fixture(params=["unix", "tcp"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(request.param, tmp_path)
    yield peer
    peer.close()


@pytest.fixture
def bench(peer: Peer) -> Iterator[Bench]:
    """Connected to the peer."""
    bench = Bench(peer.address)
    bench.until(lambda: bench.network.attached)
    peer.accept()
    yield bench
    bench.network.close()
    bench.poller.close()


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data)) or pytest.fail("the connection has ended")
    return data


def test_frames_pass_both_ways(bench: Bench, peer: Peer) -> None:
    """Behind their lengths, as QEMU and passt send them; what is shorter than an Ethernet header is left out."""
    assert peer.connection is not None
    assert bench.network.send(plain(FRAME))
    assert read_exactly(peer.connection, 64) == encode(FRAME)
    peer.connection.sendall(encode(bytes(13)) + encode(FRAME) + encode(FRAME[::-1]))
    assert bench.received(2) == [plain(FRAME), plain(FRAME[::-1])]


def test_the_peer_gets_finished_frames(bench: Bench, peer: Peer) -> None:
    """It knows nothing of checksums and segments that were left to somebody else."""
    assert peer.connection is not None
    packet = tcp_packet(b"x" * 4000, 1448)
    assert bench.network.send(packet)
    expected = b"".join(map(encode, frames(packet)))
    assert read_exactly(peer.connection, len(expected)) == expected
    assert not bench.network.send(bytes([1, 3]) + packet[2:])


def test_a_lost_connection_is_made_again(bench: Bench, peer: Peer) -> None:
    """At the same address, as soon as somebody listens; half a frame of the old one is forgotten."""
    assert peer.connection is not None
    peer.connection.sendall(encode(FRAME)[:30])
    port = peer.listener.getsockname()[1] if peer.kind == "tcp" else 0
    peer.close()
    bench.until(lambda: bench.network.take(1) or not bench.network.attached)
    assert not bench.network.send(plain(FRAME))
    assert str(peer.address) in bench.network.problem
    bench.until(lambda: "refused" in bench.network.problem)
    peer.listen(port)
    bench.until(lambda: bench.network.attached)
    peer.accept().sendall(encode(FRAME))
    assert bench.received(1) == [plain(FRAME)]


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n", b"\0\0\0\0", b"\xff" * 100, b"\0\1\x10\1" + bytes(70_000)])
def test_a_peer_that_sends_no_frames_is_left_in_words(bench: Bench, peer: Peer, garbage: bytes) -> None:
    """And called again, since it may be restarted as something better."""
    assert peer.connection is not None
    peer.connection.sendall(garbage)
    bench.until(lambda: bench.network.take(1) or bench.network.problem)
    assert "it does not send Ethernet frames" in bench.network.problem
    bench.until(lambda: bench.network.attached)
    peer.accept().sendall(encode(FRAME))
    assert bench.received(1) == [plain(FRAME)]


def test_what_a_sleeping_peer_does_not_take_is_bounded_and_whole(bench: Bench, peer: Peer) -> None:
    """New frames are dropped when a mebibyte waits; when it wakes it gets whole frames in order."""
    assert peer.connection is not None
    sent = [bytes([n >> 8, n & 255]) * 7 + bytes(30_000) for n in range(600)]
    accepted = [frame for frame in sent if bench.network.send(plain(frame))]
    assert len(accepted) < len(sent) and len(bench.network._waiting) <= SEND_MAX + 40_000
    for frame in accepted:
        bench.poller.wait(0)
        assert read_exactly(peer.connection, 4 + len(frame)) == encode(frame)
        bench.poller.wait(0)
    assert bench.network.send(plain(FRAME))
    bench.until(lambda: not bench.network._waiting)
    assert read_exactly(peer.connection, 64) == encode(FRAME)


def test_a_backend_that_is_not_watched_leaves_everything_with_the_peer(bench: Bench, peer: Peer) -> None:
    """A guest that takes nothing makes the peer wait, not us read."""
    assert peer.connection is not None
    bench.network.watch(False)
    peer.connection.sendall(encode(FRAME))
    assert bench.poller.wait(0.05) == 0 and bench.network.take(10) == []
    bench.network.watch(True)
    assert bench.received(1) == [plain(FRAME)]


def test_nobody_there_is_told(tmp_path: Path) -> None:
    bench = Bench(UnixAddress(str(tmp_path / "missing.sock")))
    bench.until(lambda: bench.network.problem)
    assert bench.network.problem == f"unix:{tmp_path}/missing.sock: No such file or directory"
    assert not bench.network.attached and bench.network.take(4) == []
    bench.network.close()
    bench.poller.close()
