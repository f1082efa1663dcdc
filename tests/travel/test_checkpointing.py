# SPDX-License-Identifier: GPL-2.0-or-later
"""Checkpoints while recording: they change nothing, survive killed recorders, cut logs and full disks, stay small."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ftvm.checkpointing import Changes, Keep
from ftvm.debugger import Debugger
from ftvm.machine import Machine
from ftvm.recording import Recording, keep_aside
from replay.checkpoint_file import CheckpointFile, path_of
from replay.position import Position
from replay.replayer import replay
from tests.machine.box import blockd_config, config_of
from tests.travel.recorded import RecordedBox, drive, record_driver, record_timer

OFTEN = Keep(spacing_max=4000, interval_s=0.0, share=1e9)
ALWAYS = replace(OFTEN, spacing_max=1)
SECONDS_MAX = 60


def states(log: Path, places: list[Position], *, checkpoints: bool) -> list[tuple[object, ...]]:
    """Registers, RAM and disks at places; with checkpoints the last one is gone to first."""
    found = []
    with Debugger.open(log, checkpoints=checkpoints) as debugger:
        for place in reversed(places) if checkpoints else places:
            debugger.timeline.seek(place)
            disks = [[(index, disk.read_chunk(index)) for index in disk.data_chunks()] for disk in debugger.disks]
            full = [[(index, chunk) for index, chunk in disk if any(chunk)] for disk in disks]
            registers = tuple(debugger.registers().items())
            found.append((debugger.timeline.position, registers, hash(bytes(debugger.hart.ram)), full))
    return found[::-1] if checkpoints else found


def marks(log: Path) -> list[Position]:
    """Where the checkpoints are."""
    file = CheckpointFile(path_of(log))
    file.close()
    return [Position(each.mark.sequence, each.mark.clock) for each in file.checkpoints]


def check(log: Path, count: int) -> list[Position]:
    """Each checkpoint is what replaying comes to; there are so many at least."""
    places = marks(log)
    assert len(places) >= count
    with Debugger.open(log) as debugger:
        kept = {Position(still.sequence, still.clock) for still in debugger.timeline.stills}
        assert kept - {debugger.timeline.start} == set(places), "all of them are used"
    assert states(log, places, checkpoints=True) == states(log, places, checkpoints=False)
    return places


@pytest.mark.parametrize("guest", ["driver", "timer"])
def test_a_guest_does_not_notice_them(guest: str, tmp_path: Path) -> None:
    """Equal results with them and without: every digest, RAM's too."""
    runs = []
    for keep in (None, OFTEN if guest == "driver" else ALWAYS):
        config = blockd_config() if guest == "driver" else config_of("timer", cmdline="ticks=100000 hz=1000")
        box = RecordedBox(config, tmp_path / f"{keep is None}.log", keep)
        if guest == "driver":
            box.until("blockd: ready")
            drive(box, 40, random.Random(1))
        for number in range(40):
            box.run(budget=200_000, later=2000, flags=number % 3 == 0)
        runs.append(box.trace())
        box.close()
    assert runs[0] == runs[1]
    check(tmp_path / "False.log", 10)
    assert not path_of(tmp_path / "True.log").exists()
    assert (tmp_path / "True.log").read_bytes() == (tmp_path / "False.log").read_bytes()


KILLED = """
import sys
from pathlib import Path
from ftvm.checkpointing import Keep
from tests.machine.box import config_of
from tests.travel.recorded import RecordedBox
keep = Keep(spacing_max=1, interval_s=0.0, share=1e9)
box = RecordedBox(config_of("compute", cmdline="insns=100000000000"), Path(sys.argv[1]), keep)
while True:
    box.run(budget=2_000_000)
    box.recording.flush()
    print(box.recording.checkpoints.count, flush=True)
"""


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_killed_recorder_leaves_all_that_were_whole(count: int, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(log)], stdout=subprocess.PIPE, text=True) as recorder:
        assert recorder.stdout is not None
        for line in recorder.stdout:
            if int(line) >= count:
                break
        recorder.send_signal(signal.SIGKILL)
        recorder.wait(SECONDS_MAX)
    places = check(log, count)
    with Debugger.open(log) as debugger:
        debugger.timeline.seek(debugger.timeline.end)
        latest = debugger.timeline.stills.before(debugger.timeline.end.sequence)
        assert latest is not None and latest.sequence >= places[-1].sequence


def test_wherever_such_a_file_is_torn_or_wrong_places_are_right(tmp_path: Path) -> None:
    """A blob is read when the machine goes there: what is damaged is found then, and an earlier one serves."""
    log = record_driver(tmp_path / "a.log", keep=OFTEN)
    places = check(log, 5)
    places = places[:: len(places) // 4]
    right = states(log, places, checkpoints=False)
    whole = path_of(log).read_bytes()
    chance = random.Random(5)
    for number in range(12):
        damaged = bytearray(whole)
        if number % 3:
            damaged[chance.randrange(600, len(whole))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(whole)) :]
        path_of(log).write_bytes(damaged)
        assert states(log, places, checkpoints=True) == right, f"seed 5, number {number}"


def test_the_file_stays_within_its_bound(tmp_path: Path) -> None:
    """Old ones go; what they held that the later ones do not have is kept."""
    size_max = 600_000
    log = tmp_path / "a.log"
    box = RecordedBox(blockd_config(), log, replace(OFTEN, size_max=size_max))
    box.until("blockd: ready")
    chance, largest, made = random.Random(3), 0, 0
    for _ in range(30):
        drive(box, 6, chance)
        if path_of(log).exists():
            largest = max(largest, path_of(log).stat().st_size)
    assert box.recording.checkpoints is not None
    made = box.recording.checkpoints.count
    box.close()
    places = check(log, 4)
    assert len(places) < made, "some were thinned out"
    assert path_of(log).stat().st_size <= size_max
    assert largest <= 2 * size_max, "it is looked at after each one"
    assert not path_of(log).with_name(path_of(log).name + ".part").exists()
    gaps = [later.clock - earlier.clock for earlier, later in pairwise(places)]
    assert max(gaps[: len(gaps) // 2]) > min(gaps[len(gaps) // 2 :]), "dense near the end"


def test_what_does_not_fit_at_all_ends_them_and_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    log = record_driver(tmp_path / "a.log", keep=replace(OFTEN, size_max=1000, tell=told.append))
    assert len(told) == 1 and "the recording itself goes on" in told[0]
    assert states(log, [Position(30, 0)], checkpoints=True) == states(log, [Position(30, 0)], checkpoints=False)


def test_a_full_disk_ends_them_and_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    log = tmp_path / "a.log"
    path_of(log).with_name(path_of(log).name + ".part").symlink_to("/dev/full")
    record_driver(log, keep=replace(OFTEN, tell=told.append))
    assert len(told) == 1 and "No space left on device" in told[0], told
    assert not path_of(log).exists()
    with Debugger.open(log) as debugger:
        debugger.timeline.seek(debugger.timeline.end)
        assert len(debugger.timeline.entries) > 80


@pytest.mark.parametrize("follows", [True, False], ids=["which-followed", "which-knows-nothing"])
def test_a_recording_that_is_cut_and_goes_on_uses_none_behind_the_cut(follows: bool, tmp_path: Path) -> None:
    """As after a failover: another machine has executed less than was recorded, and goes on with other inputs."""
    log = tmp_path / "a.log"
    box = RecordedBox(blockd_config(), log, replace(OFTEN, spacing_max=12_000))
    box.until("blockd: ready")
    joined = box.machine.sequence + 4
    box.recording.flush()
    drive(box, 20, random.Random(1))
    box.recording.flush()
    box.recording.abandon()
    old = marks(log)
    other = RecordedBox(blockd_config(), tmp_path / "b.log")
    changes = None
    entries = []
    with Debugger.open(log, checkpoints=False) as debugger:
        entries = [entry for entry, _ in debugger.timeline.entries][: old[-3].sequence - 1]
    for entry in entries:
        other.machine.run(entry)
        if follows and entry.sequence == joined:
            changes = Changes(other.machine, other.disks)
    other.recording.abandon()
    other.recording = Recording.go_on(log, box.header, other.machine, other.disks, None, OFTEN, changes)
    drive(other, 20, random.Random(2))
    other.close()
    box.machine.close()
    file = CheckpointFile(path_of(log))
    file.close()
    kept = [each.mark for each in file.checkpoints]
    assert any(mark.sequence > entries[-1].sequence for mark in kept)
    assert [mark.sequence for mark in kept if mark.full] == (
        [] if follows else [next(mark.sequence for mark in kept if mark.sequence > entries[-1].sequence)]
    )
    check(log, 6)
    with Debugger.open(log) as debugger:
        assert replays(debugger.machine, log)


def replays(machine: Machine, log: Path) -> bool:
    """Whether the whole log does on a machine that stands at its beginning."""
    from replay.log_reader import LogReader

    with LogReader(log) as reader:
        replay(machine, reader)
    return True


def test_checkpoints_of_a_cut_that_nobody_took_out_are_not_used(tmp_path: Path) -> None:
    """The file of a longer run that shares the beginning: only what both have is taken."""
    one = record_driver(tmp_path / "a.log", keep=OFTEN)
    log = tmp_path / "b.log"
    box = RecordedBox(blockd_config(), log)
    box.until("blockd: ready")
    drive(box, 10, random.Random(1))
    drive(box, 10, random.Random(7))
    box.close()
    path_of(one).rename(path_of(log))
    with Debugger.open(log) as debugger:
        kept = len(debugger.timeline.stills) - 1
        assert 0 < kept < len(marks(log))
        places = [Position(still.sequence, still.clock) for still in debugger.timeline.stills]
        end = debugger.timeline.end
    assert states(log, [*places, end], checkpoints=True) == states(log, [*places, end], checkpoints=False)


def test_a_log_that_is_put_aside_takes_its_checkpoints_along(tmp_path: Path) -> None:
    log = record_timer(tmp_path / "a.log", keep=ALWAYS)
    content = path_of(log).read_bytes()
    aside = keep_aside(log)
    assert aside is not None and path_of(aside).read_bytes() == content and not path_of(log).exists()
    check(aside, 3)


def test_a_new_recording_does_not_keep_those_of_an_old_one(tmp_path: Path) -> None:
    log = record_timer(tmp_path / "a.log", keep=ALWAYS)
    assert path_of(log).exists()
    log.unlink()
    record_timer(log, epochs=20)
    assert not path_of(log).exists()
