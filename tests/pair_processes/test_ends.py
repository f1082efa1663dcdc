# SPDX-License-Identifier: GPL-2.0-or-later
"""How a pair ends: the guest switches itself off, an operator stops it, or the guest fails. Never by a failover."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress

from ftvm.pair_process import PairProcess
from ftvm.testing import MakePair
from tests.pair_processes.load import Load
from tests.pair_processes.test_host_kills import await_end, both_pids

CONSOLE = """\
name = "console"

[machine]
memory = "16 MiB"
kernel = "console"

[console]
backend = "unix:console.sock"
"""


class Terminal:
    """Somebody at the console who attaches again when the connection ends."""

    def __init__(self, pair: PairProcess) -> None:
        self._path = str(pair.state.path / "console.sock")
        self.seen = b""
        self._attach()

    def _attach(self) -> None:
        end = time.monotonic() + 10
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(self._path)
                break
            except OSError:
                self._socket.close()
                assert time.monotonic() < end, "nobody serves the console"
                time.sleep(0.02)
        self._socket.settimeout(0.1)

    def type(self, text: bytes) -> None:
        """Input for the guest."""
        self._socket.sendall(text)

    def expect(self, text: bytes, timeout_s: float = 10.0) -> None:
        """Wait until the guest has printed this, and forget what came before."""
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come; seen was {self.seen[-200:]!r}"
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if data:
                self.seen += data
            else:
                self._socket.close()
                self._attach()
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        """Detach."""
        with suppress(OSError):
            self._socket.close()


def test_a_guest_that_powers_off_ends_both_sides(ftvm_pair: MakePair) -> None:
    """Typed at the console, also after a failover; both end in order, and the launcher's exit code is 0."""
    pair = ftvm_pair(CONSOLE)
    terminal = Terminal(pair)
    terminal.expect(b"console: ready")
    terminal.type(b"hello\r")
    terminal.expect(b"hello\r\n")
    pair.kill_primary()
    pair.wait_protected()
    terminal.close()
    terminal = Terminal(pair)
    terminal.type(b"again\r")
    terminal.expect(b"again\r\n")
    term = pair.status()["term"]
    terminal.type(b"quit\r")
    assert await_end(pair) == 0
    status = pair.status()
    assert status["term"] == term == 2, "the power-off was taken for a failure"
    assert [side["role"] for side in status["sides"].values()] == ["stopped", "stopped"]
    assert all("poweroff" in side["why"] for side in status["sides"].values())
    terminal.close()


def test_a_guest_that_panics_and_is_not_to_be_restarted_fails_the_pair(ftvm_pair: MakePair) -> None:
    """Both sides see it at the same entry: no failover, exit code 1, and the reason in words."""
    pair = ftvm_pair(CONSOLE)
    terminal = Terminal(pair)
    terminal.expect(b"console: ready")
    terminal.type(b"panic\r")
    assert await_end(pair) == 1
    assert pair.status()["term"] == 1, "a guest's failure was taken for a host's"
    assert "the guest has failed: the guest asked for" in pair.log()
    assert "both sides are gone" not in pair.log()
    terminal.close()


def test_sigterm_ends_a_pair_under_load(pair: PairProcess) -> None:
    """SIGTERM to the launcher stops both sides in order, clients or not; SIGINT does the same."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with Load(pair.addresses) as load:
            pids = both_pids(pair)
            term = pair.status()["term"]
            launcher = pair.status()["launcher"]
            start = time.monotonic()
            os.kill(launcher, number)
            assert await_end(pair) == 0
            assert time.monotonic() - start < 5
            status = pair.status()
            assert status["term"] == term
            assert all("stopped" in side["why"] for side in status["sides"].values()), pids
            pair.start()
            load.answered(50)
            load.finish()


def test_sigterm_while_a_backup_joins_or_is_stopped(pair: PairProcess) -> None:
    """Without a backup, with one that is only joining, and with one that does not move: it ends all the same."""
    pair.kill_backup()
    assert pair.stop() == 0
    pair.start()
    pair.signal("backup", signal.SIGSTOP)
    assert pair.stop() == 0
    assert not any(side["pid"] for side in pair.status()["sides"].values())
