# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP into a stock Linux guest: both directions at once, alone and while the primary is killed in the middle."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
import time

import pytest

from ftvm.state_dir import StateDir
from ftvm.status import read_status
from tests.commands.workshop import Workshop

from .lab import GUEST, Lab
from .linux_guest import ECHO_PORT, READY, SUM_PORT, machine
from .test_pairs import networks, primary_of

BOOT_S = 300
BLOCK = os.urandom(1 << 16)


class Transfer:
    """Data to a guest that sends it back, over one connection."""

    def __init__(self, lab: Lab, size: int, host: str = "client", address: str = GUEST) -> None:
        self.size, self.got, self.silence_s = size, 0, 0.0
        self.failure = ""
        self._sent, self._received = hashlib.sha256(), hashlib.sha256()
        self._connection = lab.within(host, lambda: socket.create_connection((address, ECHO_PORT), 20))
        self._connection.settimeout(30)
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _guarded(self, work: object) -> None:
        try:
            assert callable(work)
            work()
        except OSError as error:
            self.failure = f"{error} after {self.got} bytes"

    def _send(self) -> None:
        for _ in range(self.size // len(BLOCK)):
            self._connection.sendall(BLOCK)
            self._sent.update(BLOCK)

    def _receive(self) -> None:
        last = time.monotonic()
        while self.got < self.size:
            data = self._connection.recv(1 << 17)
            if not data:
                raise ConnectionError("the connection has ended")
            now = time.monotonic()
            self.silence_s, last = max(self.silence_s, now - last), now
            self.got += len(data)
            self._received.update(data)

    def finish(self) -> bool:
        """Wait for the end; whether what came back is what was sent."""
        for thread in self._threads:
            thread.join()
        self._connection.close()
        return not self.failure and self._sent.digest() == self._received.digest()


def boot(work: Workshop, state: StateDir) -> None:
    """Until the guest serves."""
    console = state.path / "console.log"
    work.until(lambda: console.exists() and READY in console.read_text(errors="replace"), "Linux to serve", BOOT_S)


@pytest.mark.timeout(420)
def test_tcp_in_both_directions_through_a_linux_guest(lab: Lab, work: Workshop) -> None:
    """Echoed, and summed up by the guest; long segments are left to the host, so packets are fewer than frames were."""
    state = work.state("alone")
    run = work.start("run", work.machine(machine(work.directory, "tap:vm0")), "--state-dir", state.path,
                     prefix=lab.on("a"))  # fmt: skip
    boot(work, state)
    transfer = Transfer(lab, 4 << 20)
    assert transfer.finish(), transfer.failure
    with lab.within("client", lambda: socket.create_connection((GUEST, SUM_PORT), 20)) as connection:
        connection.settimeout(30)
        for _ in range(16):
            connection.sendall(BLOCK)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile().readline()
    assert answer.split()[0] == hashlib.sha256(BLOCK * 16).hexdigest()
    counts = networks(state, "a")
    assert isinstance(counts["sent"], int) and counts["sent"] < 2 * (4 << 20) // 1448, counts
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 0


@pytest.mark.timeout(600)
def test_a_tcp_connection_survives_the_primarys_death(lab: Lab, work: Workshop) -> None:
    """In the middle of a transfer in both directions; the client notices a silence, nothing else."""
    state = work.state("pair")
    pair = work.start("pair", work.machine(machine(work.directory, "tap:vm0")), "--state-dir", state.path,
                      prefix=lab.on("a"))  # fmt: skip
    boot(work, state)
    work.until(lambda: read_status(state)["protected"], "the pair to be protected", 60)
    transfer = Transfer(lab, 6 << 20)
    work.until(lambda: transfer.got > transfer.size // 6, "a part of the transfer", 60)
    before = transfer.silence_s
    side, pid = primary_of(state)
    os.kill(pid, signal.SIGKILL)
    transfer.silence_s = 0.0
    work.until(lambda: primary_of(state)[0] not in ("", side), "the other side to be live", 10)
    killed_at = transfer.got
    work.until(lambda: transfer.got > killed_at + (1 << 18) or transfer.failure, "data after the failover", 60)
    silence = transfer.silence_s
    assert transfer.finish(), transfer.failure
    print(f"silence {silence * 1e3:.0f} ms around the failover, {before * 1e3:.0f} ms before")
    assert silence < 5.0
    pair.process.send_signal(signal.SIGTERM)
    assert pair.wait(30) == 0, work.story()
