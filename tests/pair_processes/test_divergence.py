# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup whose memory is changed behind its back: noticed by digests, told, replaced, and never forgotten."""

from __future__ import annotations

import glob
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftvm.board import RAM_BASE
from ftvm.pair_process import PairProcess
from ftvm.testing import MakePair
from replay.log_reader import LogReader
from tests.pair_processes.conftest import MACHINE as PLAIN
from tests.pair_processes.load import Load
from tests.pair_processes.test_launcher import until

MACHINE = PLAIN.replace(', "127.0.0.1:PORT"', "")
PAGE = 4096
RUN = 512  # zero bytes in a row, of which the middle one is changed


class Memory:
    """The guest's RAM inside a side's process."""

    def __init__(self, pid: int) -> None:
        with open(f"/proc/{pid}/maps", encoding="ascii") as maps:
            ranges = [line.split()[0] for line in maps if "/dev/zero" in line]
        assert ranges, f"process {pid} has no guest RAM"
        self._start = min(int(text.partition("-")[0], 16) for text in ranges)
        self._length = max(int(text.partition("-")[2], 16) for text in ranges) - self._start
        try:
            self._file = open(f"/proc/{pid}/mem", "r+b", buffering=0)  # noqa: SIM115
        except PermissionError:
            pytest.skip("this host does not let a test write into its child's memory")

    def read(self) -> bytes:
        """All of it."""
        self._file.seek(self._start)
        return self._file.read(self._length)

    def write(self, offset: int, data: bytes) -> None:
        """Change it behind everybody's back."""
        self._file.seek(self._start + offset)
        self._file.write(data)


def unused_bytes_of_busy_pages(memory: Memory, load: Load) -> list[int]:
    """Bytes that stay zero in pages that the guest writes to all the time: only the pages' digest can see a change."""
    samples = [memory.read()]
    for _ in range(3):
        load.answered(50)
        samples.append(memory.read())
    found = []
    for start in range(0, len(samples[0]), PAGE):
        pages = [sample[start : start + PAGE] for sample in samples]
        if len(set(pages)) == len(pages):
            at = bytes(map(max, *pages)).find(bytes(RUN))
            if at >= 0:
                found.append(start + at + RUN // 2)
    return found


def test_a_divergence_is_noticed_told_and_survived(pair: PairProcess) -> None:
    """The primary goes on alone in a new term and takes a new backup; the alarm stands until it is acknowledged."""
    before = pair.status()
    with Load(pair.addresses) as load:
        memory = Memory(pair.backup_pid())
        places = unused_bytes_of_busy_pages(memory, load)
        assert places, "the guest has no page that is written again and again"
        victim = pair.backup_pid()
        for place in places[:4]:
            memory.write(place, b"\xa5")
        until(lambda: any("divergence" in alarm for alarm in pair.status()["alarms"]), "an alarm")
        alarm = next(alarm for alarm in pair.status()["alarms"] if "divergence" in alarm)
        assert "digests differ after entry" in alarm
        assert f"side {before['primary']}" in alarm
        until(lambda: pair.status()["term"] == before["term"] + 1, "the next term")
        assert pair.status()["primary"] == before["primary"]
        pair.wait_protected()
        assert pair.backup_pid() != victim
        assert load.retried == 0, "clients have noticed it"
        kept = list(pair.state.path.glob("[ab]/diverged-*.log"))
        assert len(kept) == 1, "the diverged side has not kept its state"
        with LogReader(kept[0]) as reader:
            state = reader.state()
        assert state is not None and {"hart", "machine", "ram"} <= {name for name, _ in state.sections}
        pair.kill_primary()
        load.answered(100)
        pair.wait_protected()
        load.finish()
    assert alarm in pair.status()["alarms"], "the alarm was forgotten with the side that had raised it"
    command = [sys.executable, "-m", "ftvm.cli", "status", "--state-dir", str(pair.state.path), "--acknowledge"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and alarm in done.stderr
    assert not pair.status()["alarms"]


def test_the_primarys_recording_tells_what_was_different(ftvm_pair: MakePair, tmp_path: Path) -> None:
    """The byte that was changed behind the backup's back, by the command that the alarm gives."""
    log = tmp_path / "pair.log"
    pair = ftvm_pair(MACHINE, "--record", str(log))
    pair.wait_protected()
    with Load(pair.addresses) as load:
        memory = Memory(pair.backup_pid())
        place = unused_bytes_of_busy_pages(memory, load)[0]
        memory.write(place, b"\xa5")
        until(lambda: any("divergence" in alarm for alarm in pair.status()["alarms"]), "an alarm")
        until(lambda: list(pair.state.path.glob("?/diverged-*.log")), "the backup's machine")
        load.finish()
    (alarm,) = (alarm for alarm in pair.status()["alarms"] if "divergence" in alarm)
    words = alarm.partition("ftvm log diff ")[2].split()
    assert words[0] == str(log)
    kept = glob.glob(words[1])
    assert len(kept) == 1
    command = [sys.executable, "-m", "ftvm.cli", "log", "diff", words[0], kept[0], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    address = RAM_BASE + place
    (told,) = (detail for detail in found["details"] if detail.startswith(f"RAM at {address - address % 8:#x}: A "))
    assert "a5" in told.partition(" B ")[2] and "a5" not in told.partition(" B ")[0], found


def test_the_pause_of_a_new_backup_is_told(pair: PairProcess) -> None:
    """A disk that is full of data is copied while the guest runs; only the snapshot of the machine holds it."""
    with Load(pair.addresses) as load:
        load.fill_disk(32 << 20)
        pair.kill_backup()
        began = time.monotonic()
        pair.wait_protected()
        took = time.monotonic() - began
        primary = pair.status()["primary"]
        pause_ms = pair.status()["sides"][primary]["pause_ms"]
        print(f"protected again after {took:.2f} s, pause {pause_ms} ms")
        assert 0 < pause_ms < 1000
        assert pause_ms / 1000 < took
        load.finish()
