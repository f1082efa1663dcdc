# SPDX-License-Identifier: GPL-2.0-or-later
"""The checkpoints of a pair's recording: each live side adds its own, and a killed one's are of use."""

from __future__ import annotations

from pathlib import Path

from ftvm.testing import MakePair
from replay.checkpoint_file import path_of
from replay.errors import LogError
from tests.pair_processes.test_launcher import until
from tests.pair_processes.test_recording import last_sequence, replayed
from tests.travel.test_checkpointing import check, marks

MACHINE = """\
name = "reckoner"

[machine]
memory = "16 MiB"
kernel = "compute"
cmdline = "insns=1000000000000"

[console]
backend = "none"
"""


def count(log: Path) -> int:
    """How many checkpoints there are now."""
    try:
        return len(marks(log))
    except LogError:
        return 0


def test_the_sides_of_a_pair_go_on_with_one_file(ftvm_pair: MakePair, tmp_path: Path) -> None:
    """A primary is killed among its checkpoints, and so is the next: each of them is what replaying comes to."""
    log = tmp_path / "history.log"
    pair = ftvm_pair(MACHINE, "--record", str(log))
    lives = []
    for _ in range(2):
        before = count(log)
        until(lambda before=before: count(log) >= before + 2, "two more checkpoints")  # type: ignore[misc]
        lives.append(last_sequence(pair))
        pair.kill_primary()
        pair.wait_protected()
    until(lambda: any(place.sequence > lives[-1] for place in marks(log)), "the third side's first")
    assert pair.stop() == 0
    places = check(log, 4)
    assert any(place.sequence < lives[0] for place in places)
    assert any(lives[0] < place.sequence < lives[1] for place in places)
    assert replayed(log)["end"] == "stopped" and path_of(log).exists()
