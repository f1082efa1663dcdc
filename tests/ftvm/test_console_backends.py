# SPDX-License-Identifier: GPL-2.0-or-later
"""The poller, and the console's backends: every byte shown once, gaps told, nobody waited for."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.event import EventKind
from ftvm.config_values import Backend
from ftvm.world import console_unix
from ftvm.world.console import BUFFER_MAX, FileConsole, StdioConsole, Stream, gap_notice, open_console
from ftvm.world.console_unix import UnixConsole
from ftvm.world.entropy import entropy_events, host_entropy
from ftvm.world.poller import Poller
from ftvm.world.unix_listener import connect_unix, listen_unix


@pytest.fixture
def poller() -> Iterator[Poller]:
    """A poller, closed afterwards."""
    made = Poller()
    yield made
    made.close()


def until(poller: Poller, done: Callable[[], object], seconds: float = 5.0) -> None:
    """Poll until something is the case."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        poller.wait(0.05)


# -- poller -------------------------------------------------------------------------------------------------------


def test_a_wait_is_as_short_as_asked_for(poller: Poller) -> None:
    taken = []
    for _ in range(40):
        begin = time.perf_counter()
        assert poller.wait(0.0002) == 0
        taken.append(time.perf_counter() - begin)
    assert min(taken) >= 0.0002
    assert min(taken) < 0.0009, "a millisecond is what epoll alone would round up to"


def test_readiness_is_told_for_what_was_asked(poller: Poller) -> None:
    one, two = socket.socketpair()
    seen: list[tuple[bool, bool]] = []
    poller.watch(one.fileno(), True, False, lambda readable, writable: seen.append((readable, writable)))
    assert poller.wait(0) == 0
    poller.watch(one.fileno(), True, True, lambda readable, writable: seen.append((readable, writable)))
    assert poller.wait(0) == 1
    two.send(b"x")
    assert poller.wait(1) == 1
    poller.watch(one.fileno(), False, False, lambda *_: None)
    assert poller.wait(0) == 0
    assert seen == [(False, True), (True, True)]
    one.close()
    two.close()


def test_a_hang_up_reaches_a_reader_and_a_writer(poller: Poller) -> None:
    for read in (True, False):
        one, two = socket.socketpair()
        seen: list[tuple[bool, bool]] = []
        two.close()
        poller.watch(one.fileno(), read, not read, lambda *flags, seen=seen: seen.append(flags))
        poller.wait(1)
        assert seen == [(read, not read)]
        poller.unwatch(one.fileno())
        one.close()


def test_a_callback_may_unwatch_what_is_ready_in_the_same_round(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    called: list[int] = []

    def callback(index: int) -> None:
        called.append(index)
        for one, _ in pairs:
            poller.unwatch(one.fileno())

    for index, (one, two) in enumerate(pairs):
        two.send(b"x")
        poller.watch(one.fileno(), True, False, lambda *_, index=index: callback(index))
    assert poller.wait(1) == 1 and len(called) == 1
    for one, two in pairs:
        one.close()
        two.close()


def test_another_thread_can_wake_it(poller: Poller) -> None:
    timer = threading.Timer(0.05, poller.wake)
    begin = time.monotonic()
    timer.start()
    assert poller.wait(5) == 0
    assert time.monotonic() - begin < 2
    poller.wake()
    poller.wait(5)
    assert time.monotonic() - begin < 3


def test_entropy_is_random_and_bounded() -> None:
    assert entropy_events(0) == []
    (event,) = entropy_events(16)
    assert event.kind == EventKind.ENTROPY and len(event.data) == 16 and event.data != host_entropy(16)
    assert len(host_entropy(1 << 30)) == 4096


# -- streams and files --------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12))
def test_a_stream_shows_every_byte_once_and_counts_what_is_missing(writes: list[tuple[int, int]]) -> None:
    whole = bytes(range(60))
    stream, shown, missing = Stream(0), b"", 0
    for offset, length in writes:
        gap, new = stream.take(whole[offset : offset + length], offset)
        missing += gap
        shown += new
    assert len(shown) + missing == stream.position
    assert list(shown) == sorted(set(shown))


def test_a_file_holds_the_stream_whoever_writes_it(tmp_path: Path, poller: Poller) -> None:
    first = open_console(Backend("file", "console.log"), tmp_path, poller, fresh=True)
    first.write(b"hello wo", 0)
    second = open_console(Backend("file", "console.log"), tmp_path, poller, fresh=False)
    second.write(b"o world", 4)
    first.write(b"hello", 0)
    assert (tmp_path / "console.log").read_bytes() == b"hello world"
    assert first.take_input() == b""
    first.close()
    second.close()


def test_a_fresh_stream_keeps_the_last_one_beside_it(tmp_path: Path) -> None:
    for text in (b"a long first stream", b"second"):
        console = FileConsole(tmp_path / "log", fresh=True)
        console.write(text, 0)
        console.close()
    assert (tmp_path / "log").read_bytes() == b"second"
    assert (tmp_path / "log.old").read_bytes() == b"a long first stream"


def test_a_full_disk_stops_the_file_not_the_guest() -> None:
    console = FileConsole(Path("/dev/full"), fresh=False)
    console.write(b"x", 0)
    assert "console output stopped at byte 0: No space left on device" in console.problem
    console.write(b"y", 1)
    console.close()


def test_a_fifo_is_never_waited_for_and_told_of_gaps(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    console = FileConsole(tmp_path / "fifo", fresh=True)
    console.write(b"abc", 0)
    console.write(b"bcd", 1)
    console.write(b"z", 10)
    assert os.read(reader, 1000) == b"abcd" + gap_notice(6) + b"z"
    for number in range(64):
        console.write(bytes(4096), 11 + number * 4096)
    assert not console.problem
    console.close()
    os.close(reader)


def test_no_console_takes_everything(tmp_path: Path, poller: Poller) -> None:
    console = open_console(Backend("none"), tmp_path, poller, fresh=True)
    console.write(b"x", 5)
    assert console.take_input() == b""
    console.close()
    assert list(tmp_path.iterdir()) == []


# -- unix socket --------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path, poller: Poller) -> Iterator[tuple[UnixConsole, Path]]:
    """A console on a Unix socket, in a directory too deep for sockaddr_un."""
    path = tmp_path / ("d" * 120) / "c.sock"
    console = UnixConsole(listen_unix(path), poller)
    yield console, path
    console.close()


def drain(client: socket.socket, poller: Poller, end: bytes) -> bytes:
    """What a client gets, up to and with `end`."""
    client.setblocking(False)
    got = b""
    deadline = time.monotonic() + 5
    while not got.endswith(end):
        assert time.monotonic() < deadline, got[-200:]
        poller.wait(0.01)
        try:
            data = client.recv(1 << 20)
            assert data, "closed"
            got += data
        except BlockingIOError:
            pass
    return got


def test_clients_attach_and_detach_at_will(served: tuple[UnixConsole, Path], poller: Poller) -> None:
    console, path = served
    console.write(b"boot\r\n", 0)
    first, second = connect_unix(path), connect_unix(path)
    assert drain(first, poller, b"\n") == b"boot\r\n"
    assert drain(second, poller, b"\n") == b"boot\r\n"
    console.write(b"$ ", 6)
    assert drain(first, poller, b"$ ") == b"$ "
    first.close()
    poller.wait(1)
    console.write(b"ls\r\n", 8)
    assert drain(second, poller, b"\n") == b"$ ls\r\n"
    second.close()
    third = connect_unix(path)
    assert drain(third, poller, b"ls\r\n") == b"boot\r\n$ ls\r\n"
    third.close()


def test_what_clients_type_is_input(served: tuple[UnixConsole, Path], poller: Poller) -> None:
    console, path = served
    clients = [connect_unix(path) for _ in range(2)]
    for client in clients:
        client.send(b"ab")
    typed = bytearray()

    def take() -> bool:
        typed.extend(console.take_input())
        return len(typed) == 4

    until(poller, take)
    assert bytes(typed) == b"abab" and console.take_input() == b""
    for client in clients:
        client.close()


def test_too_much_typed_ahead_waits_with_the_client(served: tuple[UnixConsole, Path], poller: Poller) -> None:
    console, path = served
    client = connect_unix(path)
    client.setblocking(False)
    sent, quiet = 0, 0
    while quiet < 5:
        try:
            sent += client.send(bytes(65536))
            quiet = 0
        except BlockingIOError:
            quiet = quiet + 1 if poller.wait(0.01) == 0 else 0
    got = len(console.take_input())
    assert 64 << 10 <= got < 256 << 10

    def all_taken() -> bool:
        nonlocal got
        got += len(console.take_input())
        return got == sent

    until(poller, all_taken)
    client.close()


def test_repeats_after_going_live_are_shown_once_and_gaps_are_told(
    served: tuple[UnixConsole, Path], poller: Poller
) -> None:
    console, path = served
    client = connect_unix(path)
    until(poller, lambda: console._clients)
    console.write(b"0123", 0)
    console.write(b"2345", 2)
    console.write(b"x", 9)
    assert drain(client, poller, b"x") == b"012345" + gap_notice(3) + b"x"
    client.close()


def test_who_attaches_late_is_told_what_is_not_shown(served: tuple[UnixConsole, Path], poller: Poller) -> None:
    console, path = served
    console.write(b"a" * 100_000 + b"end", 500)
    client = connect_unix(path)
    history = console_unix.HISTORY
    expected = gap_notice(500 + 100_003 - history) + b"a" * (history - 3) + b"end"
    assert drain(client, poller, b"end") == expected
    client.close()


def test_a_slow_client_misses_whole_pieces_and_holds_up_nobody(
    served: tuple[UnixConsole, Path], poller: Poller
) -> None:
    console, path = served
    slow, quick = connect_unix(path), connect_unix(path)
    until(poller, lambda: len(console._clients) == 2)
    piece, pieces = b"p" * 8192, 400
    got = 0
    quick.setblocking(False)
    for number in range(pieces):
        console.write(piece, number * len(piece))
        poller.wait(0)
        got += len(quick.recv(1 << 20))
    console.write(b"E", pieces * len(piece))
    assert drain(quick, poller, b"E").count(b"p") + got == pieces * len(piece)
    received = bytearray()
    slow.setblocking(False)
    while poller.wait(0.05) or not received:
        with suppress(BlockingIOError):
            received += slow.recv(1 << 20)
    assert b"E" not in received, "it was to be too slow for this"
    console.write(b"Z", pieces * len(piece) + 1)
    received += drain(slow, poller, b"Z")
    shown = received.count(b"p" * 1024) * 1024
    assert 0 < shown < pieces * len(piece)
    assert received.endswith(gap_notice(pieces * len(piece) + 1 - shown) + b"Z")
    slow.close()
    quick.close()


def test_a_new_listener_takes_the_name_over_and_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = listen_unix(path)
    new = listen_unix(path)
    client = connect_unix(path)
    assert new.accept()[0]
    with pytest.raises(BlockingIOError):
        old.accept()
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in tmp_path.iterdir()] == ["s"]
    for each in (old, new, client):
        each.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"):
        listen_unix(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


# -- stdio --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """(console's input, its writer, output's reader, console's output)."""
    descriptors = (*os.pipe(), *os.pipe())
    yield descriptors
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def test_stdio_carries_both_ways(pipes: tuple[int, int, int, int], poller: Poller) -> None:
    keys_in, keys, screen, screen_out = pipes
    console = StdioConsole(poller, keys_in, screen_out)
    console.write(b"login: ", 0)
    assert os.read(screen, 100) == b"login: "
    os.write(keys, b"root\r")
    poller.wait(1)
    assert console.take_input() == b"root\r"
    os.close(keys)
    poller.wait(0.1)
    assert console.take_input() == b"" and poller.wait(0) == 0
    console.close()


def test_a_reader_that_stands_still_is_not_waited_for_and_loses_nothing_up_to_16_mib(
    pipes: tuple[int, int, int, int], poller: Poller
) -> None:
    keys_in, _, screen, screen_out = pipes
    console = StdioConsole(poller, keys_in, screen_out)
    piece = b"p" * 65536
    total = 0
    while total < BUFFER_MAX + (4 << 20):
        console.write(piece, total)
        total += len(piece)
    got = bytearray()
    os.set_blocking(screen, False)

    def read() -> bool:
        with suppress(BlockingIOError):
            got.extend(os.read(screen, 1 << 20))
        return True

    until(poller, lambda: read() and len(got) > (1 << 20), 20)
    console.write(b"E", total)
    until(poller, lambda: read() and got.endswith(b"E"), 20)
    missing = total - got.count(b"p" * 1024) * 1024
    assert 0 < missing < (5 << 20)
    assert got.endswith(gap_notice(missing) + b"E")
    console.close()


def test_a_file_as_standard_input_is_read_to_its_end(tmp_path: Path, poller: Poller) -> None:
    (tmp_path / "in").write_bytes(b"x" * 10_000)
    descriptor = os.open(tmp_path / "in", os.O_RDONLY)
    sink = os.open(os.devnull, os.O_WRONLY)
    console = StdioConsole(poller, descriptor, sink)
    got = b""
    for _ in range(5):
        got += console.take_input()
    assert got == b"x" * 10_000
    console.close()
    os.close(descriptor)
    os.close(sink)


TERMINAL = """
import os, sys
from ftvm.world.console import StdioConsole
from ftvm.world.poller import Poller
poller = Poller()
console = StdioConsole(poller)
console.write(b"ready\\n", 0)
typed = b""
while not typed.endswith(b"q"):
    poller.wait(5)
    typed += console.take_input()
console.close()
print(typed, flush=True)
"""


def test_a_terminal_gives_single_keys_and_gets_its_settings_back() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    child = subprocess.Popen([sys.executable, "-c", TERMINAL], stdin=slave, stdout=slave, preexec_fn=own_terminal)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(master, 100)
    assert not termios.tcgetattr(slave)[3] & termios.ECHO
    os.write(master, b"ls\rq")
    assert child.wait(10) == 0
    while b"q'" not in seen:
        seen += os.read(master, 1000)
    assert b"b'ls\\rq'" in seen
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_ctrl_c_at_the_console_still_ends_the_process() -> None:
    master, slave = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    child = subprocess.Popen(
        [sys.executable, "-c", TERMINAL], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, preexec_fn=own_terminal
    )
    seen = b""
    while b"ready" not in seen:
        seen += os.read(master, 100)
    os.write(master, b"\x03")
    assert child.wait(10) in (-signal.SIGINT, 1, 130)
    os.close(master)
    os.close(slave)
