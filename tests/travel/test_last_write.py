# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm last-write`: the write that it names is one, is the last, and did what it says."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devices.virtio.blk import VirtioBlk
from devices.virtio.queue import Virtqueue
from ftvm.debugger import Debugger
from replay.position import Position
from replay.timeline import Why
from tests.travel.recorded import record_driver


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_driver(tmp_path_factory.mktemp("last") / "driver.log")


def ask(log: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, answer, and what was said."""
    command = [sys.executable, "-m", "ftvm.cli", "last-write", str(log), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def virtqueue(debugger: Debugger) -> Virtqueue:
    """The disk's."""
    (disk,) = (
        each for each in gc.get_objects() if isinstance(each, VirtioBlk) and each.memory is debugger.machine.memory
    )
    return disk.queues[0]


def test_a_variable_by_its_name(log: Path) -> None:
    """`done` counts what the driver has answered."""
    code, found, said = ask(log, "done", "--length", "4")
    assert code == 0, said
    assert not found["device"] and found["old"] != found["new"] and found["symbol"]
    with Debugger.open(log) as debugger:
        timeline = debugger.timeline
        timeline.seek(Position(found["sequence"], found["clock"]))
        assert debugger.registers()["pc"] == found["pc"]
        assert debugger.read(found["address"], 4).hex() == found["old"]
        timeline.step()
        assert debugger.read(found["address"], 4).hex() == found["new"]
        timeline.set_watched([(found["address"], 4, 2)])
        assert timeline.run().why == Why.EDGE


def test_earlier_ones_are_found_before_a_clock(log: Path) -> None:
    clocks = []
    before: tuple[str, ...] = ()
    for _ in range(3):
        code, found, said = ask(log, "done", "--length", "4", *before)
        assert code == 0, said
        clocks.append(found["clock"])
        before = ("--before", f"{found['sequence']}:{found['clock']}")
    assert clocks == sorted(clocks, reverse=True) and len(set(clocks)) == 3


def test_a_device_that_wrote_is_named_with_who_asked_it(log: Path) -> None:
    """The ring that tells the driver of completed requests is written by the device."""
    with Debugger.open(log) as debugger:
        debugger.timeline.seek(debugger.timeline.end)
        ring = virtqueue(debugger).used
    code, found, said = ask(log, hex(ring), "--length", "4", "--physical")
    assert code == 0, said
    assert found["device"] and found["instruction"].split()[0] in ("sw", "c.sw")
    assert found["old"] != found["new"], "the instruction is the very one that made the device write"


def test_what_cannot_be_answered_is_told(log: Path) -> None:
    code, _, said = ask(log, "0x10")
    assert code == 1 and "not mapped" in said
    code, _, said = ask(log, "0x80ffff00", "--physical")
    assert code == 1 and "nothing has written" in said
    code, _, said = ask(log, "nowhere")
    assert code == 1
