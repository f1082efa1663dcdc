# SPDX-License-Identifier: GPL-2.0-or-later
"""A spare process: it becomes the side that its launcher names, and nothing else; without a launcher it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.pair.spare import Spare
from ftvm.pair_process import PairProcess
from ftvm.process import Process, children

PATIENCE_S = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)


def command(pid: int) -> list[bytes]:
    """A process's arguments; empty when it is gone."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes().split(b"\0") if path.exists() else []


def spares(parent: int) -> list[Process]:
    """The spare processes of a launcher, or of this test."""
    return [child for child in children(parent) if b"--spare" in command(child.pid)]


@pytest.fixture
def spare(tmp_path: Path) -> Iterator[Spare]:
    """A spare of this test, started."""
    spare = Spare(tmp_path)
    spare.start()
    yield spare
    spare.close()


def taken(spare: Spare, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The spare, told what to do as soon as it is ready."""
    found: list[subprocess.Popen[bytes]] = []

    def take() -> bool:
        with log.open("ab") as file:
            child = spare.take(arguments, [], file)
        found.extend([] if child is None else [child])
        return bool(found)

    until(take, "the spare to be ready")
    return found[0]


def test_a_spare_becomes_what_it_is_told_and_writes_where_it_is_told(spare: Spare, tmp_path: Path) -> None:
    """Here a side of a state directory without a pair, which says so in its log."""
    log = tmp_path / "side.log"
    child = taken(spare, ["--state-dir", str(tmp_path / "none"), "--member", "a"], log)
    assert child.wait(PATIENCE_S) != 0
    assert str(tmp_path / "none") in log.read_text()
    with log.open("ab") as file:
        assert spare.take([], [], file) is None, "it is used up"


def test_a_spare_ends_with_its_launcher(spare: Spare) -> None:
    """Whatever it is doing when the connection ends."""
    (process,) = spares(os.getpid())
    assert spare._end is not None
    spare._end.close()
    until(lambda: not process.alive, "the spare to end")


def test_a_dead_spare_is_none_and_makes_room_for_the_next(spare: Spare, tmp_path: Path) -> None:
    """The launcher starts a fresh process then."""
    (process,) = spares(os.getpid())
    process.signal(signal.SIGKILL)
    until(lambda: not process.alive, "the spare to die")
    with (tmp_path / "log").open("ab") as file:
        assert spare.take(["--member", "a"], [], file) is None
    spare.start()
    assert [other for other in spares(os.getpid()) if other.alive and other != process]


def unused(pair: PairProcess) -> list[Process]:
    """The launcher's spare processes that are no side."""
    sides = {side["pid"] for side in pair.status()["sides"].values()}
    return [process for process in spares(int(pair.status()["launcher"])) if process.pid not in sides]


def test_a_pair_keeps_one_spare_which_takes_a_dead_sides_place(pair: PairProcess) -> None:
    """Killed again and again until it was quick enough to be used; never more than one, and none without a launcher."""
    end = time.monotonic() + PATIENCE_S
    while b"--spare" not in command(pair.backup_pid()):
        assert time.monotonic() < end, "no spare has become a side"
        until(lambda: unused(pair), "a spare")
        assert len(unused(pair)) == 1
        time.sleep(1)
        pair.kill_primary()
        pair.wait_protected(PATIENCE_S)
    until(lambda: unused(pair), "a spare")
    (last,) = unused(pair)
    pair.kill_launcher()
    until(lambda: not last.alive, "the spare to end with its launcher")
