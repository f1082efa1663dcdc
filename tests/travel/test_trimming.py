# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm log trim`: a part of a recording replays on its own, in another process, and is the same there."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from replay.checkpoint_file import path_of
from replay.log_reader import LogReader
from replay.position import Position
from tests.travel.recorded import record_driver
from tests.travel.test_checkpointing import OFTEN, check, states


def ftvm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftvm.cli", *map(str, arguments)], capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize("kept", [True, False], ids=["with-checkpoints", "without"])
def test_a_part_replays_elsewhere_with_every_digest(kept: bool, tmp_path: Path) -> None:
    log = record_driver(tmp_path / "a.log", keep=OFTEN if kept else None)
    with LogReader(log) as reader:
        pairs = list(reader)
    chance = random.Random(8)
    for number in range(2):
        first = chance.randrange(5, 60)
        (entry, result), last = pairs[first - 1], chance.randrange(first + 10, len(pairs))
        middle = (entry.clock + result.clock) // 2
        out = tmp_path / f"part{number}.log"
        done = ftvm("log", "trim", log, out, "--from", f"{first}:{middle}", "--to", f"{last}:0", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["bytes"] == out.stat().st_size
        with LogReader(out) as reader:
            assert list(reader) == pairs[first - 1 : last]
            assert reader.state_sequence == first - 1 and reader.header.notes["parent"] == str(log)
        replayed = ftvm("replay", out, "--json")
        assert replayed.returncode == 0, replayed.stderr
        assert json.loads(replayed.stdout)["entries"] == last - first + 1
        assert path_of(out).exists() == kept
        if kept:
            check(out, 3)
        places = [Position(last, pairs[last - 1][1].clock)]
        assert states(out, places, checkpoints=kept) == states(log, places, checkpoints=False)


def test_all_of_it_is_the_recording_again(tmp_path: Path) -> None:
    log = record_driver(tmp_path / "a.log", requests=5)
    out = tmp_path / "b.log"
    assert ftvm("log", "trim", log, out).returncode == 0
    with LogReader(log) as one, LogReader(out) as other:
        assert list(one) == list(other) and other.state_sequence == one.state_sequence
    part = tmp_path / "c.log"
    assert ftvm("log", "trim", out, part, "--from", "5:0", "--to", "99:0").returncode == 0
    again = tmp_path / "d.log"
    assert ftvm("log", "trim", part, again, "--from", "7:0").returncode == 0
    with LogReader(log) as one, LogReader(again) as other:
        assert list(one)[6:] == list(other)
    assert ftvm("replay", again).returncode == 0


def test_what_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    log = record_driver(tmp_path / "a.log", requests=5)
    for arguments, words in [
        ((log, log), "exists"),
        ((log, tmp_path / "b.log", "--from", "end"), "no entry between"),
        ((log, tmp_path / "b.log", "--from", "nowhere"), "nowhere"),
        ((log, tmp_path / "missing" / "b.log"), "No such file"),
        ((tmp_path / "none.log", tmp_path / "b.log"), "cannot open"),
    ]:
        done = ftvm("log", "trim", *arguments)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "b.log").exists()
