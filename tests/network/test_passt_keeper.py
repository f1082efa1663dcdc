# SPDX-License-Identifier: GPL-2.0-or-later
"""`PasstKeeper` with real passt processes: started, found again, replaced, ended."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.config import parse
from ftvm.config_error import ConfigError
from ftvm.process import Process
from ftvm.state_dir import read_json
from ftvm.world.network.passt import AGAIN_S, PasstKeeper, socket_path

from .lab import Lab
from .test_passt import route

CONFIG = parse({"name": "x", "network": [{"backend": "none"}, {"backend": "passt", "forward": ["tcp:8080:80"]}]}, "x")


class Kept:
    """Keepers of one state directory, on the lab's client."""

    def __init__(self, lab: Lab, state: Path) -> None:
        self.lab, self.state = lab, state
        self.said: list[str] = []
        self._keepers: list[PasstKeeper] = []

    def keeper(self, one_off: bool = False) -> PasstKeeper:
        """A keeper that has started."""
        keeper = PasstKeeper(CONFIG, self.state, self.said.append, one_off)
        self._keepers.append(keeper)
        self.lab.within("client", keeper.start)
        return keeper

    @property
    def process(self) -> Process | None:
        """The passt of network 1, while it lives."""
        process = Process.load(read_json(self.state / "passt1.json"))
        return process if process is not None and process.alive else None

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.stop()


@pytest.fixture
def kept(lab: Lab, tmp_path: Path) -> Iterator[Kept]:
    route(lab)
    kept = Kept(lab, tmp_path)
    yield kept
    kept.close()


def test_one_is_started_for_each_network_that_wants_it(kept: Kept) -> None:
    """Its socket takes connections, the forwarded port listens, and the note names its process."""
    kept.keeper()
    assert kept.process is not None and not (kept.state / "passt0.json").exists()
    with socket.socket(socket.AF_UNIX) as side:
        side.connect(str(socket_path(kept.state, 1)))
    command = Path(f"/proc/{kept.process.pid}/cmdline").read_bytes().split(b"\0")
    assert b"127.0.0.1/8080:80" in command and b"--one-off" not in command


def test_another_keeper_takes_over_what_runs(kept: Kept) -> None:
    kept.keeper()
    first = kept.process
    kept.keeper()
    assert kept.process == first and first is not None


def test_one_that_has_died_is_replaced_and_it_is_said_once(kept: Kept) -> None:
    keeper = kept.keeper()
    first = kept.process
    assert first is not None
    first.signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while kept.process in (None, first) and time.monotonic() < end:
        kept.lab.within("client", keeper.tick)
        time.sleep(0.02)
    assert kept.process not in (None, first)
    time.sleep(AGAIN_S)
    kept.lab.within("client", keeper.tick)
    assert kept.said == ["network 1: passt has died; starting another, connections through it are lost"]


def test_stopping_ends_it_and_leaves_nothing(kept: Kept) -> None:
    keeper = kept.keeper()
    process = kept.process
    assert process is not None
    keeper.stop()
    assert not process.alive
    assert [path.name for path in kept.state.iterdir()] == ["passt1.log"]
    keeper.stop()


def test_a_keeper_ends_what_another_one_has_started(kept: Kept) -> None:
    """The side that is last, when the launcher is gone."""
    kept.keeper()
    process = kept.process
    assert process is not None
    PasstKeeper(CONFIG, kept.state, kept.said.append).stop()
    end = time.monotonic() + 10
    while process.alive and not process_is_zombie(process) and time.monotonic() < end:
        time.sleep(0.01)
    assert kept.process is None or process_is_zombie(process)


def process_is_zombie(process: Process) -> bool:
    """It has ended, and its parent, which is this test, has not looked yet."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_one_off_ends_with_its_connection(kept: Kept) -> None:
    keeper = kept.keeper(one_off=True)
    process = kept.process
    assert process is not None
    with socket.socket(socket.AF_UNIX) as side:
        side.connect(str(socket_path(kept.state, 1)))
        time.sleep(0.1)
        assert not process_is_zombie(process)
    end = time.monotonic() + 10
    while not process_is_zombie(process) and time.monotonic() < end:
        time.sleep(0.01)
    assert process_is_zombie(process)
    keeper.stop()


def test_one_that_does_not_start_is_told_in_its_own_last_words(kept: Kept) -> None:
    def bind() -> socket.socket:
        taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        taken.bind(("127.0.0.1", 8080))
        taken.listen()
        return taken

    words = r"network\[1\]: passt did not start: .*8080"
    with kept.lab.within("client", bind), pytest.raises(ConfigError, match=words):
        kept.keeper()
    assert kept.process is None


def test_without_the_program_it_says_what_to_install(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the program passt \(apt install passt\)"):
        kept.keeper()
