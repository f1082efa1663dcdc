# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm pair --record LOG`: one recording of the history that survives, whoever was live when."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

from ftvm.demo.kills import EIO
from ftvm.demo.pair import MACHINE
from ftvm.pair_process import PairProcess
from ftvm.testing import MakePair
from replay.log_reader import LogReader
from tests.pair_processes.load import Load
from tests.pair_processes.test_launcher import until


def replayed(log: Path) -> dict[str, object]:
    """What `ftvm replay` says of the log; every digest must be as recorded."""
    command = [sys.executable, "-m", "ftvm.cli", "replay", str(log), "--verify", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


def sequences(log: Path) -> list[int]:
    """Of all entries in the log."""
    with LogReader(log) as reader:
        return [entry.sequence for entry, _ in reader]


def last_sequence(pair: PairProcess) -> int:
    """Of the side that was live last."""
    return max(int(side["sequence"]) for side in pair.status()["sides"].values())


def test_a_recording_goes_on_through_failovers_and_crashes(ftvm_pair: MakePair, tmp_path: Path) -> None:
    """Two primaries, one backup and two drivers die, the launcher too: no gap, and every digest is as recorded."""
    log = tmp_path / "history.log"
    pair = ftvm_pair(MACHINE, "--record", str(log))
    with Load(pair.addresses) as load:
        assert load.crash_driver(1).result(30).error == EIO
        pair.kill_primary()
        load.answered(100)
        pair.wait_protected()
        assert load.crash_driver(3).result(30).error == EIO
        pair.kill_backup()
        load.answered(100)
        pair.kill_launcher()
        adopting = PairProcess(pair.machine, pair.state.path, ["--record", str(tmp_path / "other.log")])
        with adopting:
            adopting.launch()  # with another --record: what is being recorded goes on being recorded
            until(lambda: adopting.status()["launcher"] is not None, "the new launcher")
            adopting.wait_protected()
            load.answered(100)
            adopting.kill_primary()
            load.answered(100)
            adopting.wait_protected()
            load.finish()
            assert not adopting.status()["alarms"]
            assert adopting.stop() == 0
        assert f"the pair records to {log}" in adopting.log()
        assert not (tmp_path / "other.log").exists()
    assert sequences(log) == list(range(1, last_sequence(pair) + 1))
    report = replayed(log)
    assert (report["end"], report["closed"], report["cut"]) == ("stopped", True, None)
    assert report["entries"] == last_sequence(pair)


def test_a_recording_of_a_pair_whose_sides_were_both_killed(ftvm_pair: MakePair, tmp_path: Path) -> None:
    """It replays up to its last whole record; the next start keeps it aside and begins a new one."""
    log = tmp_path / "history.log"
    pair = ftvm_pair(MACHINE, "--record", str(log))
    with Load(pair.addresses) as load:
        load.answered(200)
        pair.kill_launcher()
        pair.kill_backup()
        pair.kill_primary()
        until(lambda: not any(side["pid"] for side in pair.status()["sides"].values()), "their end")
        found = sequences(log)
        assert found == list(range(1, len(found) + 1)) and len(found) > 20
        report = replayed(log)
        assert report["entries"] == len(found) and not report["end"]
        pair.start()
        load.answered(100)
        load.finish()
        assert pair.stop() == 0
    assert sequences(log.with_name("history.log.1")) == found
    assert replayed(log)["end"] == "stopped"
    assert all(after == before + 1 for before, after in itertools.pairwise(sequences(log)))
