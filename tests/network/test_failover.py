# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections into stock Linux on two hosts, whose live host's process is killed in the middle of each of them.

One pair for all tests: each kills the live side, after which a new backup joins on that host, so that guests move back
and forth. FTVM_NETWORK_MB sets the size of the transfers (200 takes some minutes); what the client noticed is printed
(`pytest -s`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.commands.workshop import Workshop

from .lab import GUEST, Lab, Ping
from .linux_guest import BLOCK_BYTES, IPERF_PORT, SUM_PORT
from .test_linux import Transfer
from .two_hosts import Gaps, TwoHosts

MEGABYTES = int(os.environ.get("FTVM_NETWORK_MB", "16"))
PATIENCE_S = 60 + MEGABYTES
PINGS_LOST_MAX = 5  # at ten a second, on a machine that has other things to do

pytestmark = pytest.mark.timeout(420 + 4 * MEGABYTES)


@pytest.fixture(scope="module")
def pair(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    """Protected."""
    work = Workshop(tmp_path_factory.mktemp("two-hosts"))
    try:
        pair = TwoHosts(lab, work)
        pair.start()
        yield pair
    finally:
        work.close()


@pytest.fixture(autouse=True)
def _protected(pair: TwoHosts) -> Iterator[None]:
    """Each test begins with a protected pair."""
    if not pair.protected:
        pair.rejoin()
    yield


def told(what: str, pair: TwoHosts, timeouts: int, silence_ms: float) -> None:
    """For whoever wants to know the figures."""
    print(
        f"{what}: silence {silence_ms:.0f} ms, {pair.timeouts() - timeouts} retransmission timeouts at the client, "
        f"the other host known to be live after {pair.live_after_s * 1e3:.0f} ms"
    )


class Curl:
    """curl on the client; what it prints is summed up and timed."""

    def __init__(self, pair: TwoHosts, url: str) -> None:
        command = [*pair.lab.on("client"), "curl", "-sS", "--no-buffer", "--max-time", str(PATIENCE_S), url]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.digest, self.size, self.gaps = hashlib.sha256(), 0, Gaps()
        self.output = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 1 << 16):
            self.gaps.hear()
            self.size += len(data)
            self.digest.update(data)
            self.output = (self.output + data)[: 2 * BLOCK_BYTES]

    def finish(self) -> int:
        """curl's exit code."""
        self._thread.join()
        return self._process.wait()


def test_a_download_goes_on_when_the_live_host_dies(pair: TwoHosts) -> None:
    """HTTP: every byte comes, once and in order."""
    whole = Curl(pair, f"http://{GUEST}/block")
    assert whole.finish() == 0 and len(whole.output) == BLOCK_BYTES
    expected = hashlib.sha256()
    for number in range(MEGABYTES):
        expected.update(b"%08d" % number + whole.output)
    timeouts = pair.timeouts()
    download = Curl(pair, f"http://{GUEST}/cgi-bin/stream?{MEGABYTES}")
    pair.work.until(lambda: download.size > MEGABYTES * BLOCK_BYTES // 4, "a quarter of the download", PATIENCE_S)
    killed = pair.kill()
    assert download.finish() == 0, pair.work.story()
    told(f"HTTP download of {MEGABYTES} MB", pair, timeouts, download.gaps.longest_ms(killed))
    assert download.gaps.heard[-1] > killed, "it was over before the kill"
    assert download.digest.digest() == expected.digest()


def test_an_upload_goes_on_when_the_live_host_dies(pair: TwoHosts) -> None:
    """The guest receives every byte, once and in order."""
    block = os.urandom(1 << 16)
    timeouts, sent, gaps, killed = pair.timeouts(), hashlib.sha256(), Gaps(), 0.0
    with pair.lab.within("client", lambda: socket.create_connection((GUEST, SUM_PORT), 20)) as upload:
        upload.settimeout(PATIENCE_S)
        for number in range(MEGABYTES * BLOCK_BYTES // len(block)):
            if killed == 0.0 and number * len(block) > MEGABYTES * BLOCK_BYTES // 4:
                killed = pair.kill()
            data = b"%08d" % number + block
            upload.sendall(data)
            gaps.hear()
            sent.update(data)
        upload.shutdown(socket.SHUT_WR)
        answer = upload.makefile().readline()
    told(f"upload of {MEGABYTES} MB", pair, timeouts, gaps.longest_ms(killed))
    assert answer.split()[0] == sent.hexdigest()


def test_a_transfer_in_both_directions_goes_on_when_the_live_host_dies(pair: TwoHosts) -> None:
    """nc in the guest sends back what it gets."""
    timeouts = pair.timeouts()
    transfer = Transfer(pair.lab, MEGABYTES * BLOCK_BYTES)
    pair.work.until(lambda: transfer.got > transfer.size // 4, "a quarter of the transfer", PATIENCE_S)
    transfer.silence_s = 0.0
    pair.kill()
    assert transfer.finish(), transfer.failure
    told(f"echo of {MEGABYTES} MB", pair, timeouts, transfer.silence_s * 1e3)


class Telnet:
    """A terminal on the guest's shell: one character after the other, each after its echo."""

    def __init__(self, lab: Lab) -> None:
        self._connection = lab.within("client", lambda: socket.create_connection((GUEST, 23), 20))
        self.gaps = Gaps()
        self.screen = b""

    def see(self, wanted: bytes, seconds: float = 30.0) -> bool:
        """Whether the screen comes to end with something."""
        end = time.monotonic() + seconds
        while not self.screen.endswith(wanted):
            if not select.select([self._connection], [], [], max(0.0, end - time.monotonic()))[0]:
                return False
            data = self._connection.recv(4096)
            if not data:
                raise ConnectionError(f"the session has ended: {self.screen[-200:]!r}")
            self.screen += self._without_commands(data)
            self.gaps.hear()
        return True

    def type(self, text: bytes) -> None:
        """Each character must be echoed before the next one is typed."""
        for character in text:
            self.gaps.hear()
            self._connection.sendall(bytes([character]))
            assert self.see(b"\r\n" if character == 10 else bytes([character])), self.screen[-200:]
            time.sleep(0.02)

    def run(self, command: bytes, answer: bytes) -> None:
        """A command and its answer."""
        self._connection.sendall(command + b"\n")
        self.gaps.hear()
        assert self.see(answer + b"\r\n# "), self.screen[-300:]

    def _without_commands(self, data: bytes) -> bytes:
        """Neither negotiation (RFC 854) nor escape sequences are for the screen; the guest needs no answer to them."""
        return re.sub(rb"\xff[\xfb-\xfe].|\xff\xfa.*?\xff\xf0|\x1b\[[0-9;]*[A-Za-z]", b"", data, flags=re.DOTALL)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@pytest.mark.timeout(600)
def test_a_session_outlives_two_hosts(pair: TwoHosts) -> None:
    """Typed characters are echoed and commands answered, with the shell's own state, by one host after the other."""
    session = Telnet(pair.lab)
    assert session.see(b"# "), session.screen
    timeouts = pair.timeouts()
    session.run(b"PS1='# '; secret=$((41 + 1))", b"")
    for kill in range(2):
        if not pair.protected:
            pair.rejoin()
        session.gaps.heard.clear()
        killer = threading.Timer(0.3, pair.kill)
        killer.start()
        session.type(b": the quick brown fox jumps over the lazy dog")
        killer.join()
        session.run(b" again", b"")
        session.run(b"echo answer $secret", b"answer 42")
        told(f"session, kill {kill + 1}", pair, timeouts, session.gaps.longest_ms())
    session.close()


def test_pings_are_lost_only_for_a_moment(pair: TwoHosts) -> None:
    """Ten a second."""
    with Ping(pair.lab) as ping:
        pair.work.until(lambda: len(ping.answered) > 10, "answers")
        killed = pair.kill()
        pair.work.until(lambda: max(ping.answered.values()) > killed + 1, "answers from the other host", 30)
        time.sleep(0.6)
    print(f"ping: lost {len(ping.lost)} of {len(ping.sent)}, silence {ping.silence_s * 1e3:.0f} ms")
    assert len(ping.lost) <= PINGS_LOST_MAX, pair.work.story()


@pytest.mark.parametrize("reverse", [False, True], ids=["to the guest", "from the guest"])
def test_iperf3_goes_on_when_the_live_host_dies(pair: TwoHosts, reverse: bool) -> None:
    """One stream, to its end."""
    timeouts = pair.timeouts()
    command = ["iperf3", "-c", GUEST, "-p", str(IPERF_PORT), "-t", "3", "-i", "0.1", "-J"]
    command += ["-R"] if reverse else []
    with subprocess.Popen([*pair.lab.on("client"), *command], stdout=subprocess.PIPE, text=True) as iperf:
        time.sleep(1)
        pair.kill()
        output, _ = iperf.communicate(timeout=PATIENCE_S)
    report = json.loads(output)
    assert "error" not in report, report["error"] + pair.work.story()
    rates = [interval["sum"]["bytes"] for interval in report["intervals"]]
    quiet = max((len(run) for run in re.findall("0+", "".join("1" if rate else "0" for rate in rates))), default=0)
    told(f"iperf3 {'from' if reverse else 'to'} the guest", pair, timeouts, quiet * 100)
    assert report["end"]["sum_received"]["bytes"] > 0 and any(rates[-5:])
