# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU at the other end of the stream socket: a hub of its own with a guest of its own, and a station of the test's.

ftvm's guest --stream--> [hub in QEMU] --dgram-- the test
                              |
                          QEMU's guest
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.guests import catalog
from ftvm.status import read_status
from tests.commands.workshop import Workshop
from tests.machine import frames

from .test_pairs import primary_of

OTHER_IP, OTHER_MAC = bytes((10, 0, 2, 16)), bytes.fromhex("525400654321")
MACHINE = """\
name = "echo"
[machine]
kernel = "netecho"
memory = "16 MiB"
[[network]]
backend = "stream:unix:{path}"
mac = "52:54:00:ab:cd:ef"
"""


class Hub:
    """QEMU with a hub, and the test's socket on it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "hub.sock"
        self._near, self._far = directory / "near", directory / "far"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._near))
        self._qemu = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        stream = f"stream,id=s,server=on,addr.type=unix,addr.path={self.path}"
        dgram = f"dgram,id=d,local.type=unix,local.path={self._far},remote.type=unix,remote.path={self._near}"
        command = ["qemu-system-riscv64", "-M", "virt", "-m", "32", "-bios", "default", "-display", "none"]
        command += ["-monitor", "none", "-serial", "none", "-kernel", str(catalog.find("netecho").path)]
        command += ["-global", "virtio-mmio.force-legacy=false"]
        command += ["-append", "ip=10.0.2.16", "-netdev", stream, "-netdev", dgram]
        command += ["-netdev", "hubport,id=h1,hubid=0,netdev=s", "-netdev", "hubport,id=h2,hubid=0,netdev=d"]
        command += ["-netdev", "hubport,id=h3,hubid=0"]
        command += ["-device", f"virtio-net-device,netdev=h3,mac={OTHER_MAC.hex(':')}"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def restart(self) -> None:
        """Another QEMU in its place."""
        self.kill()
        for path in (self.path, self._far):
            path.unlink(missing_ok=True)
        self._qemu = self._start()

    def ask(self, frame: bytes, tries: int = 40) -> set[bytes]:
        """Who answers a frame; asked again while nobody does."""
        for _ in range(tries):
            try:
                self._socket.sendto(frame, str(self._far))
            except OSError:  # QEMU is not up yet
                self._socket.settimeout(0.1)
            answers = self._answers()
            if answers:
                return answers
        return set()

    def _answers(self) -> set[bytes]:
        found = set()
        self._socket.settimeout(0.25)
        try:
            while True:
                answer = self._socket.recv(65536)
                if answer[:6] == frames.OUR_MAC:  # no announcement
                    found.add(answer)
        except TimeoutError:
            return found

    def kill(self) -> None:
        """SIGKILL."""
        self._qemu.kill()
        self._qemu.wait()

    def close(self) -> None:
        """All of it."""
        self.kill()
        self._socket.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    if shutil.which("qemu-system-riscv64") is None:
        warnings.warn("NOT TESTED, for want of qemu-system-riscv64", stacklevel=1)
        pytest.skip("qemu-system-riscv64 is not installed")
    hub = Hub(tmp_path)
    yield hub
    hub.close()


def ours(answers: set[bytes]) -> list[bytes]:
    """Answers of the guest on ftvm."""
    return [answer for answer in answers if answer[6:12] == frames.MAC]


def test_a_guest_is_on_qemus_network_across_its_failover_and_qemus_restart(hub: Hub, work: Workshop) -> None:
    """Both guests answer on one network; ours also after its primary was killed, and after QEMU was."""
    machine = work.machine(MACHINE.format(path=hub.path))
    state = work.state("pair")
    pair = work.start("pair", machine, "--state-dir", state.path)
    work.until(lambda: read_status(state)["protected"], "the pair to be protected")
    question = frames.ipv4(1, frames.ping(bytes(1400)))
    (answer,) = ours(hub.ask(question))
    assert answer[34:] == frames.ping(bytes(1400), kind=0)
    assert {answer[6:12] for answer in hub.ask(frames.arp(OTHER_IP))} == {OTHER_MAC}
    side, pid = primary_of(state)
    os.kill(pid, signal.SIGKILL)
    work.until(lambda: primary_of(state)[0] not in ("", side), "the other side to be live", 8)
    assert len(ours(hub.ask(question))) == 1
    hub.restart()
    assert len(ours(hub.ask(question))) == 1
    pair.process.send_signal(signal.SIGTERM)
    assert pair.wait() == 0, work.story()
