# SPDX-License-Identifier: GPL-2.0-or-later
"""ZeroMQ over real TCP, with real processes that are killed, stopped and restarted, and with hostile peers."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from logging_channel import transport
from logging_channel.endpoint import LISTENER, Endpoint, Link, Sent
from logging_channel.errors import ChannelError
from logging_channel.transport import Dialer, Listener, is_loopback, new_keys, parse_address

PEER = Path(__file__).with_name("echo_peer.py")
UP, DOWN = Link.CONNECTED, Link.DISCONNECTED
ANY = "127.0.0.1:0"


class Bench:
    """Makes ends and processes, and cleans up."""

    def __init__(self) -> None:
        self.ends: list[Endpoint] = []
        self.processes: list[subprocess.Popen[str]] = []

    def listener(self, address: str = ANY, **options: Any) -> Listener:
        self.ends.append(end := Listener(address, **options))
        return end

    def successor(self, address: str) -> Listener:
        """Listen where a killed process listened: its port is free a moment after its connections ended."""
        deadline = time.monotonic() + 2
        while True:
            try:
                return self.listener(address)
            except ChannelError:
                assert time.monotonic() < deadline
                time.sleep(0.001)

    def dialer(self, address: str, **options: Any) -> Dialer:
        self.ends.append(end := Dialer(address, **options))
        return end

    def process(self, mode: str, address: str) -> tuple[subprocess.Popen[str], str]:
        """Start an echoing process; return it and its address."""
        process = subprocess.Popen([sys.executable, str(PEER), mode, address], stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        for end in self.ends:
            end.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Ends and processes of one test."""
    made = Bench()
    yield made
    made.close()


def arrival(end: Endpoint, timeout: float = 5.0) -> tuple[bytes, bytes | Link]:
    """Wait for the next arrival by polling the descriptor, exactly as a caller does."""
    poller = select.poll()
    poller.register(end.fileno(), select.POLLIN)
    deadline = time.monotonic() + timeout
    while (found := end.receive()) is None:
        left = deadline - time.monotonic()
        assert left > 0, "nothing has arrived"
        poller.poll(left * 1e3)
    return found


def quiet(end: Endpoint, seconds: float = 0.05) -> None:
    """Assert that nothing arrives for a while."""
    time.sleep(seconds)
    assert end.receive() is None


def until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    """Wait for something that no descriptor tells."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.002)


def met(bench: Bench, **options: Any) -> tuple[Listener, Dialer, bytes]:
    """A listener and a dialer of this process that have exchanged a hello; the dialer's id."""
    listener = bench.listener(**options)
    dialer = bench.dialer(listener.address, **options)
    assert arrival(dialer) == (LISTENER, UP)
    assert dialer.send(LISTENER, b"hello") is Sent.TAKEN
    peer, what = arrival(listener)
    assert what is UP
    assert arrival(listener) == (peer, b"hello")
    return listener, dialer, peer


def test_both_directions_carry_any_bytes_in_order(bench: Bench) -> None:
    """Empty, small and large messages."""
    listener, dialer, peer = met(bench)
    messages = [b"", b"\0", os.urandom(100), os.urandom(3 << 20)] + [b"%d" % number for number in range(200)]
    for message in messages:
        assert listener.send(peer, message) is Sent.TAKEN
        assert dialer.send(LISTENER, message) is Sent.TAKEN
    assert [arrival(dialer)[1] for _ in messages] == messages
    assert [arrival(listener)[1] for _ in messages] == messages


def test_a_killed_peer_is_told_at_once_behind_its_last_message(bench: Bench) -> None:
    """Five SIGKILLs: the notice comes within 10 ms, from the right peer, and a send says so."""
    listener = bench.listener()
    bystander = bench.dialer(listener.address)
    assert arrival(bystander)[1] is UP
    bystander.send(LISTENER, b"I stay")
    other = arrival(listener)[0]
    assert arrival(listener) == (other, b"I stay")
    delays = []
    for _ in range(5):
        process, _ = bench.process("dial", listener.address)
        peer = arrival(listener)[0]
        assert arrival(listener) == (peer, b"hello")
        listener.send(peer, b"echo")
        assert arrival(listener) == (peer, b"echo")
        killed = time.monotonic()
        process.kill()
        assert arrival(listener) == (peer, DOWN)
        delays.append((time.monotonic() - killed) * 1e3)
        assert listener.send(peer, b"too late") is Sent.GONE
    print(f"kill to notice: {', '.join(f'{delay:.2f}' for delay in delays)} ms")
    assert sorted(delays)[2] < 10, delays
    assert listener.peers == (other,)


def test_a_killed_listener_is_told_at_once_and_its_successor_found_on_the_same_port(bench: Bench) -> None:
    """The port is free again at once, the dialer connects by itself, and nothing old is resent to the new one."""
    process, address = bench.process("listen", ANY)
    dialer = bench.dialer(address)
    assert arrival(dialer) == (LISTENER, UP)
    dialer.send(LISTENER, b"first")
    assert arrival(dialer) == (LISTENER, b"first")
    killed = time.monotonic()
    process.kill()
    assert arrival(dialer) == (LISTENER, DOWN)
    assert (time.monotonic() - killed) < 0.1
    assert dialer.send(LISTENER, b"lost") is Sent.GONE
    successor = bench.successor(address)
    assert arrival(dialer) == (LISTENER, UP)
    dialer.send(LISTENER, b"second")
    assert arrival(successor)[1] is UP
    assert arrival(successor)[1] == b"second"


def test_what_a_stopped_listener_did_not_take_does_not_reach_its_successor(bench: Bench) -> None:
    """Messages queued for a connection end with it."""
    process, address = bench.process("listen", ANY)
    dialer = bench.dialer(address)
    assert arrival(dialer)[1] is UP
    os.kill(process.pid, signal.SIGSTOP)
    for _ in range(200):
        if dialer.send(LISTENER, bytes(100_000)) is not Sent.TAKEN:
            break
    process.kill()
    assert arrival(dialer)[1] is DOWN
    successor = bench.successor(address)
    assert arrival(dialer)[1] is UP
    dialer.send(LISTENER, b"fresh")
    assert arrival(successor)[1] is UP
    assert arrival(successor)[1] == b"fresh"


def test_a_stopped_peer_is_reported_full_and_loses_nothing(bench: Bench) -> None:
    """SIGSTOP tells nobody anything: sends are taken up to the high-water mark, and arrive after SIGCONT."""
    listener = bench.listener(high_water=10)
    process, _ = bench.process("dial", listener.address)
    peer = arrival(listener)[0]
    arrival(listener)
    os.kill(process.pid, signal.SIGSTOP)
    taken = 0
    for _ in range(1000):
        sent = listener.send(peer, taken.to_bytes(4, "big") + bytes(200_000))
        if sent is Sent.FULL:
            time.sleep(0.02)
            if listener.send(peer, taken.to_bytes(4, "big") + bytes(200_000)) is Sent.FULL:
                break
        taken += 1
    else:
        pytest.fail("the high-water mark has no effect")
    quiet(listener)
    os.kill(process.pid, signal.SIGCONT)
    for number in range(taken):
        what = arrival(listener)[1]
        assert isinstance(what, bytes) and int.from_bytes(what[:4], "big") == number
    quiet(listener)


def test_a_dialer_waits_for_its_listener(bench: Bench) -> None:
    """It may start first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dialer = bench.dialer(address)
    quiet(dialer)
    assert not dialer.connected and dialer.send(LISTENER, b"") is Sent.GONE
    bench.listener(address)
    assert arrival(dialer) == (LISTENER, UP)
    assert dialer.connected


def test_each_connection_is_a_peer_of_its_own(bench: Bench) -> None:
    """Many come and go, descriptors are used again, and every end is told once, for the right one."""
    listener = bench.listener()
    seen: set[bytes] = set()
    for number in range(21):
        dialer = bench.dialer(listener.address)
        assert arrival(dialer)[1] is UP
        dialer.send(LISTENER, b"%d" % number)
        if number < 20:
            dialer.close(linger_ms=1000)
    told: dict[bytes, list[bytes | Link]] = {}
    while sum(what is DOWN for whats in told.values() for what in whats) < 20:
        peer, what = arrival(listener)
        told.setdefault(peer, []).append(what)
        seen.add(peer)
    while len(told) < 21 or len(told[peer]) < 2:
        peer, what = arrival(listener)
        told.setdefault(peer, []).append(what)
    assert len(seen | told.keys()) == 21
    assert sorted(int(whats[1]) for whats in told.values() if isinstance(whats[1], bytes)) == list(range(21))
    (last,) = listener.peers
    assert told.pop(last) == [UP, b"20"]
    assert all([whats[0], *whats[2:]] == [UP, DOWN] for whats in told.values())
    quiet(listener)
    assert listener.send(last, b"still there") is Sent.TAKEN
    assert arrival(dialer) == (LISTENER, b"still there")


def test_the_notice_waits_for_the_last_message(bench: Bench) -> None:
    """Even when the monitor is read before the message was looked for."""
    listener, dialer, peer = met(bench)
    assert listener.receive() is None
    dialer.send(LISTENER, b"last words")
    dialer.close(linger_ms=1000)
    until(lambda: listener._watch() or bool(listener._ended))  # type: ignore[func-returns-value]
    assert [arrival(listener), arrival(listener)] == [(peer, b"last words"), (peer, DOWN)]

    listener, dialer, peer = met(bench)
    assert dialer.receive() is None
    listener.send(peer, b"last words")
    listener.close(linger_ms=1000)
    until(lambda: dialer._watch() or bool(dialer._changes))  # type: ignore[func-returns-value]
    assert [arrival(dialer)[1], arrival(dialer)[1]] == [b"last words", DOWN]


def test_a_poller_never_sleeps_on_a_message(bench: Bench) -> None:
    """A send may consume the edge of an arrival; the descriptor must be readable all the same."""
    listener, dialer, peer = met(bench)
    poller = select.poll()
    poller.register(dialer.fileno(), select.POLLIN)
    for number in range(100):
        assert dialer.receive() is None
        listener.send(peer, b"%d" % number)
        until(lambda: bool(poller.poll(0)))
        assert dialer.send(LISTENER, b"this looks at the socket's mailbox") is Sent.TAKEN
        assert poller.poll(0), "the message would be slept upon"
        assert arrival(dialer) == (LISTENER, b"%d" % number)
    while listener.receive() is not None:
        pass
    quiet(dialer)
    assert not poller.poll(0), "nothing is there, and the descriptor says so"


def test_another_thread_may_wake_the_poller(bench: Bench) -> None:
    """That is how a main thread tells its I/O thread that there is something to send."""
    _, dialer, _ = met(bench)
    assert dialer.receive() is None
    threading.Timer(0.02, dialer.wake).start()
    poller = select.poll()
    poller.register(dialer.fileno(), select.POLLIN)
    assert poller.poll(5000)
    assert dialer.receive() is None
    assert not poller.poll(0)


@pytest.mark.parametrize("linger_ms", [0, 200])
def test_closing_never_hangs(bench: Bench, linger_ms: int) -> None:
    """With a full connection to a stopped process, and twice."""
    listener = bench.listener(high_water=10)
    process, _ = bench.process("dial", listener.address)
    peer = arrival(listener)[0]
    os.kill(process.pid, signal.SIGSTOP)
    while listener.send(peer, bytes(500_000)) is Sent.TAKEN:
        pass
    begun = time.monotonic()
    listener.close(linger_ms)
    listener.close()
    assert time.monotonic() - begun < linger_ms / 1e3 + 0.5
    assert listener.receive() is None and listener.send(peer, b"") is Sent.GONE


def test_a_goodbye_leaves_within_its_linger(bench: Bench) -> None:
    """And the notice comes behind it."""
    listener, dialer, peer = met(bench)
    listener.send(peer, b"goodbye")
    listener.close(linger_ms=1000)
    assert arrival(dialer) == (LISTENER, b"goodbye")
    assert arrival(dialer) == (LISTENER, DOWN)


def test_a_port_in_use_is_refused_in_words(bench: Bench) -> None:
    """Another side still listens."""
    listener = bench.listener()
    with pytest.raises(ChannelError, match="is in use: another side"):
        Listener(listener.address)


# Hostile peers


def greeting(mechanism: bytes = b"NULL") -> bytes:
    """A ZMTP 3.0 greeting (RFC 23)."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32)


READY = b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
HOSTILE = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
    "random bytes": bytes(range(256)) * 40,
    "zeros": bytes(10_000),
    "a greeting and garbage": greeting() + bytes(range(256)) * 10,
    "an unknown mechanism": greeting(b"MAGIC") + READY,
    "a wrong socket type": greeting() + READY.replace(b"DEALER", b"PUBPUB"),
    "a message of 2**60 bytes": greeting() + READY + b"\x02" + (1 << 60).to_bytes(8, "big") + bytes(1000),
    "a message of 65 MiB": greeting() + READY + b"\x02" + (65 << 20).to_bytes(8, "big") + bytes(1000),
    "a command where a message is due": greeting() + READY + b"\x04\xff" + bytes(255),
}


def raw(listener: Listener, data: bytes) -> socket.socket:
    """Connect and send bytes, a greeting by itself as the handshake demands, whatever the other end thinks of them."""
    connection = socket.create_connection(parse_address(listener.address), timeout=5)
    with contextlib.suppress(ConnectionError):
        if data.startswith(b"\xff"):
            connection.sendall(data[:64])
            connection.recv(64, socket.MSG_WAITALL)
        connection.sendall(data[64:] if data.startswith(b"\xff") else data)
    return connection


def peak_kib() -> int:
    """The most memory that this process has had in use since its peak was cleared."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_peer_does_not_disturb_the_others(bench: Bench, name: str) -> None:
    """Its bytes never arrive as messages, and the member's go on."""
    listener, dialer, peer = met(bench)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here on
    before = peak_kib()
    with raw(listener, HOSTILE[name]):
        time.sleep(0.05)
        for number in range(20):
            dialer.send(LISTENER, b"%d" % number)
            assert arrival(listener) == (peer, b"%d" % number)
            listener.send(peer, b"%d" % number)
            assert arrival(dialer) == (LISTENER, b"%d" % number)
    quiet(listener)
    assert listener.peers == (peer,)
    assert peak_kib() - before < 50 << 10, "memory was given to an announced size"


def test_the_hostile_bytes_get_past_the_handshake(bench: Bench) -> None:
    """A control: with a well-formed message behind them, the same greeting and READY make a peer."""
    listener = bench.listener()
    with raw(listener, greeting() + READY + b"\x00\x05hello"):
        peer, what = arrival(listener)
        assert (what, arrival(listener)) == (UP, (peer, b"hello"))
    assert arrival(listener) == (peer, DOWN)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.startswith("a message of")])
def test_a_giant_message_closes_its_connection(bench: Bench, name: str) -> None:
    """The announced size is enough."""
    listener = bench.listener()
    with raw(listener, HOSTILE[name]) as connection, contextlib.suppress(ConnectionResetError):
        while connection.recv(1000):
            pass


def test_a_silent_connection_is_closed_and_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not shake hands in time has to go."""
    monkeypatch.setattr(transport, "HANDSHAKE_MS", 100)
    listener = bench.listener()
    with raw(listener, b"") as connection:
        connection.settimeout(5)
        while connection.recv(1000):
            pass
    until(lambda: listener.receive() is None and listener.counts["handshake failed"] >= 1)
    assert listener.counts["accepted"] == 1


def test_messages_of_several_parts_are_dropped_and_counted(bench: Bench) -> None:
    """No member sends such, in either direction, and they must not shift what follows."""
    listener, dialer, peer = met(bench)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    rogue = context.socket(zmq.DEALER)
    rogue.linger = 1000
    rogue.connect(listener.address)
    rogue.send_multipart([b"one", b"two", b"three"])
    rogue.send_multipart([b"", b"empty first"])
    rogue.send(b"single")
    who, what = arrival(listener)
    assert (what, arrival(listener)) == (UP, (who, b"single"))
    assert listener.counts["multipart"] == 2
    rogue.close()
    context.term()
    assert arrival(listener) == (who, DOWN)
    listener._socket.send_multipart([peer, b"one", b"two"])
    listener.send(peer, b"single")
    assert arrival(dialer) == (LISTENER, b"single")
    assert dialer.counts["multipart"] == 1


# Keys


def test_members_with_keys_talk(bench: Bench) -> None:
    """CURVE on both sides."""
    public = new_keys()
    member = new_keys((public.public,))
    keys = transport.Keys(public.public, public.secret, (member.public,))
    listener = bench.listener(keys=keys)
    dialer = bench.dialer(listener.address, keys=member)
    deadline = time.monotonic() + 5
    while dialer.receive() is None:
        assert listener.receive() is None, "a listener serves the handshake while it receives"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    dialer.send(LISTENER, b"secret")
    assert [arrival(listener)[1], arrival(listener)[1]] == [UP, b"secret"]
    listener.send(listener.peers[0], b"answer")
    assert arrival(dialer)[1] == b"answer"


def test_an_unknown_key_and_no_key_are_kept_out(bench: Bench) -> None:
    """Even when they know the listener's public key."""
    own = new_keys()
    keys = transport.Keys(own.public, own.secret, (new_keys().public,))
    listener = bench.listener(keys=keys)
    strangers = [
        bench.dialer(listener.address, keys=new_keys((own.public,))),
        bench.dialer(listener.address, keys=new_keys((new_keys().public,))),
        bench.dialer(listener.address),
    ]
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert listener.receive() is None
        for stranger in strangers:
            assert stranger.receive() is None
            assert stranger.send(LISTENER, b"let me in") is Sent.GONE
        time.sleep(0.002)
    assert listener.counts["unknown key"] >= 1
    assert listener.peers == ()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:7700", "[::]:0", "example.org:1", "*:7700"])
def test_beyond_loopback_keys_are_demanded(address: str) -> None:
    """To listen and to dial."""
    for end in (Listener, Dialer):
        with pytest.raises(ChannelError, match="set CURVE keys"):
            end(address)


def test_with_keys_a_listener_may_be_reached_by_others(bench: Bench) -> None:
    """The address tells the real port."""
    assert not bench.listener("0.0.0.0:0", keys=new_keys()).address.endswith(":0")


def test_malformed_keys_and_addresses_are_refused_in_words() -> None:
    """Before anything is opened."""
    with pytest.raises(ChannelError, match="40 characters of Z85"):
        transport.Keys(b"short", b"x" * 40, ())
    for address in ("", "127.0.0.1", "127.0.0.1:", ":7700", "127.0.0.1:x", "127.0.0.1:70000"):
        with pytest.raises(ChannelError, match="is not an address"):
            Listener(address)
    assert "secret" not in repr(new_keys()).replace("secret=", "")


def test_what_loopback_means() -> None:
    """Addresses and the one name."""
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "::", "localhost.example.org", ""))


def test_an_ack_round_trip_over_loopback_is_short(bench: Bench) -> None:
    """Two processes, polled descriptors; the bound is generous, the figures are printed (pytest -s)."""
    listener = bench.listener()
    bench.process("dial", listener.address)
    peer = arrival(listener)[0]
    arrival(listener)
    trips = []
    for _ in range(2000):
        begun = time.perf_counter()
        listener.send(peer, bytes(100))
        arrival(listener)
        trips.append((time.perf_counter() - begun) * 1e6)
    trips.sort()
    print(f"round trip of 100 bytes: p50 {trips[1000]:.0f} us, p99 {trips[1980]:.0f} us")
    assert trips[1000] < 5000
