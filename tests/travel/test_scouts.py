# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking back with forks: the same is found as without, and nothing of them is left."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.debugger import Debugger
from replay.divergence import Divergence
from replay.position import Position
from replay.scouts import Interrupted, ScoutLost, Scouts
from replay.timeline import Stop, Why
from tests.travel.recorded import record_driver

SPACING = 150_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_driver(tmp_path_factory.mktemp("scouts") / "driver.log")


def jobs(*acts: Callable[[], int]) -> Iterator[Callable[[], int]]:
    return iter(acts)


def children() -> set[int]:
    """Processes whose parent is this one, also those that have ended and are not reaped."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(path.parent.name))
    return found


@pytest.fixture
def no_children() -> Callable[[], bool]:
    """Whether there is no child that was not there before the test: others have browsers and guests of their own."""
    before = children()
    return lambda: children() <= before


def test_answers_come_in_order_whoever_is_first(no_children: Callable[[], bool]) -> None:
    def slow() -> int:
        time.sleep(0.3)
        return 1

    with Scouts(jobs(slow, lambda: 2, lambda: -3, lambda: 4), 2) as scouts:
        assert list(scouts.answers(lambda: False)) == [1, 2, -3, 4]
    assert no_children()


def test_who_has_enough_ends_the_others_and_begins_no_more(no_children: Callable[[], bool]) -> None:
    begun = []

    def asked() -> Iterator[Callable[[], int]]:
        for number in range(1, 100):
            begun.append(number)
            yield lambda number=number: number if number == 1 else time.sleep(100) or number  # type: ignore[misc]

    with Scouts(asked(), 3) as scouts:
        assert next(scouts.answers(lambda: False)) == 1
    assert no_children() and len(begun) <= 4


def test_one_that_ends_without_an_answer_is_told_and_waiting_can_end(no_children: Callable[[], bool]) -> None:
    def broken() -> int:
        raise ValueError("as it may be")

    with Scouts(jobs(broken), 2) as scouts, pytest.raises(ScoutLost):
        list(scouts.answers(lambda: False))
    with Scouts(jobs(lambda: time.sleep(100) or 1), 2) as scouts, pytest.raises(Interrupted):
        list(scouts.answers(lambda: True))
    assert no_children()


def back(debugger: Debugger, scouts: int, origin: Position, address: int, watch: bool) -> Stop[object]:
    timeline = debugger.timeline
    timeline.scouts, timeline.scout_from, timeline._spacing = scouts, 0, SPACING
    timeline.seek(origin)
    timeline.set_watched([(address, 8, 2)] if watch else [])
    timeline.set_breakpoints([] if watch else [address])
    return timeline.run_back()  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(2))
def test_the_same_is_found_with_forks_and_without(log: Path, seed: int, no_children: Callable[[], bool]) -> None:
    chance = random.Random(seed)
    with Debugger.open(log) as alone, Debugger.open(log) as together:
        end = alone.timeline.end
        for watch in (True, False):
            for _ in range(4):
                origin = alone.timeline.place_of(chance.randrange(end.clock // 2, end.clock))
                alone.timeline.set_watched([])
                alone.timeline.set_breakpoints([])
                alone.timeline.seek(alone.timeline.place_of(chance.randrange(end.clock)))
                registers = alone.registers()
                address = registers["x2"] - chance.randrange(0, 512, 8) if watch else registers["pc"]
                one, two = (back(each, scouts, origin, address, watch) for each, scouts in ((alone, 1), (together, 2)))
                assert one == two, f"seed {seed}: from {origin}, {address:#x}"
                assert alone.registers() == together.registers()
    assert no_children()


def test_a_divergence_in_a_fork_is_told_here(log: Path, no_children: Callable[[], bool]) -> None:
    """The recording's results are altered in the middle: whoever comes by says so."""
    with Debugger.open(log, checkpoints=False) as debugger:
        timeline = debugger.timeline
        timeline.verify = False
        timeline._spacing = SPACING
        timeline.seek(timeline.end)
        half = timeline.entries.at_clock(timeline.end.clock // 2)
        entry, result = timeline.entries[half]
        timeline.entries._items[half - timeline.entries.first] = (entry, type(result)(0, result.clock, 0, 0))
        timeline.verify = True
        with pytest.raises(Divergence):
            back(debugger, 2, timeline.end, 0x10, watch=False)
    assert no_children()


def test_a_way_back_to_the_beginning_ends_there(log: Path) -> None:
    with Debugger.open(log) as debugger:
        assert back(debugger, 2, debugger.timeline.end, 0x10, watch=False).why is Why.EDGE
        assert debugger.timeline.position == debugger.timeline.start
