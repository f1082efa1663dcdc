# SPDX-License-Identifier: GPL-2.0-or-later
"""`LOG.ckpt`: what it saves, and that nothing it holds can make a recording look other than it is."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ftvm.debugger import Debugger
from replay.checkpoint_file import path_of
from replay.errors import LogError
from replay.position import Position
from tests.travel.recorded import record_driver, record_timer


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return record_driver(tmp_path / "driver.log")


def checkpointed(log: Path) -> int:
    """By the command; how many there are."""
    command = [sys.executable, "-m", "ftvm.cli", "checkpoint", str(log), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bytes"] == path_of(log).stat().st_size and Path(found["path"]) == path_of(log)
    return int(found["checkpoints"])


def look(debugger: Debugger, place: Position) -> tuple[object, ...]:
    """Registers, RAM and disks at a place."""
    debugger.timeline.seek(place)
    disks = [[(index, disk.read_chunk(index)) for index in disk.data_chunks()] for disk in debugger.disks]
    full = [[(index, chunk) for index, chunk in disk if any(chunk)] for disk in disks]
    return debugger.timeline.position, tuple(debugger.hart.registers().items()), hash(bytes(debugger.hart.ram)), full


def test_places_are_the_same_with_checkpoints_and_without(log: Path) -> None:
    chance = random.Random(4)
    with Debugger.open(log) as debugger:
        places = [debugger.timeline.place_of(chance.randrange(debugger.timeline.end.clock)) for _ in range(12)]
        places.append(debugger.timeline.end)
        seen = [look(debugger, place) for place in places]
    assert checkpointed(log) >= 1
    with Debugger.open(log) as debugger:
        assert [look(debugger, place) for place in reversed(places)] == seen[::-1]


def test_the_end_is_there_without_running_what_is_before_it(log: Path) -> None:
    checkpointed(log)
    with Debugger.open(log) as debugger:
        ran = 0
        advance = debugger.machine.advance

        def counting() -> bool:
            nonlocal ran
            ran += 1
            return advance()

        debugger.machine.advance = counting  # type: ignore[method-assign]
        debugger.timeline.seek(debugger.timeline.end)
        assert ran == 0 and debugger.timeline.position == debugger.timeline.end


def test_a_damaged_or_torn_file_serves_as_far_as_it_is_whole(log: Path) -> None:
    """Wherever a byte is wrong, places are right; nothing but the checkpoints behind it is lost."""
    checkpointed(log)
    whole = path_of(log).read_bytes()
    with Debugger.open(log) as debugger:
        end = look(debugger, debugger.timeline.end)
    chance = random.Random(2)
    for number in range(6):
        damaged = bytearray(whole)
        if number % 2:
            del damaged[chance.randrange(len(whole) // 2, len(whole)) :]
        else:
            damaged[chance.randrange(1000, len(whole))] ^= 1 << chance.randrange(8)
        path_of(log).write_bytes(damaged)
        with Debugger.open(log) as debugger:
            assert look(debugger, debugger.timeline.end) == end, f"seed 2, number {number}"


def test_checkpoints_of_another_recording_are_refused(log: Path, tmp_path: Path) -> None:
    checkpointed(log)
    other = record_timer(tmp_path / "timer.log")
    path_of(log).rename(path_of(other))
    with pytest.raises(LogError, match="not checkpoints of this recording"):
        Debugger.open(other)
    same_machine = record_driver(tmp_path / "other.log", seed=2)
    path_of(other).rename(path_of(same_machine))
    with pytest.raises(LogError, match="not of this recording"):
        Debugger.open(same_machine)
