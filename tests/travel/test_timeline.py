# SPDX-License-Identifier: GPL-2.0-or-later
"""A timeline: every place of a recording is the same place, however one comes to it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.debugger import Debugger
from ftvm.hart import HitKind
from replay.divergence import Divergence
from replay.position import Position
from replay.timeline import Why
from tests.travel.recorded import record_driver, record_timer


@pytest.fixture(scope="module", params=["timer", "driver"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("travel") / f"{request.param}.log"
    return record_timer(path) if request.param == "timer" else record_driver(path)


@pytest.fixture
def debugger(log: Path) -> Iterator[Debugger]:
    with Debugger.open(log) as opened:
        yield opened


def look(debugger: Debugger) -> tuple[object, ...]:
    """All registers, and some of the memory that changes."""
    registers = debugger.registers()
    return (*registers.items(), debugger.read(registers["x2"], 256), disk(debugger))


def disk(debugger: Debugger) -> int:
    """A sum of what is on the disks."""
    chunks = (each.read_chunk(index) for each in debugger.disks for index in each.data_chunks())
    return sum(hash(chunk) for chunk in chunks if any(chunk))


def places(debugger: Debugger, seed: int, count: int) -> list[Position]:
    """Anywhere, and in a row of single instructions."""
    chance = random.Random(seed)
    timeline = debugger.timeline
    clocks = [chance.randrange(timeline.end.clock) for _ in range(count)]
    first = chance.randrange(timeline.end.clock)
    return [timeline.place_of(clock) for clock in [*clocks, *range(first, first + 12)]]


@pytest.mark.parametrize("seed", range(3))
def test_a_place_is_the_same_from_wherever_one_comes(debugger: Debugger, log: Path, seed: int) -> None:
    seen = {}
    for place in places(debugger, seed, 25):
        reached = debugger.timeline.seek(place)
        assert reached >= place
        seen[reached] = look(debugger)
    with Debugger.open(log) as another:
        for place in random.Random(seed).sample(sorted(seen), len(seen)):
            assert another.timeline.seek(place) == place, f"seed {seed}"
            assert look(another) == seen[place], f"seed {seed}: {place}"


def test_going_where_one_is_moves_nothing(debugger: Debugger) -> None:
    timeline = debugger.timeline
    for place in places(debugger, 5, 10):
        reached = timeline.seek(place)
        seen = look(debugger)
        assert timeline.seek(reached) == reached and look(debugger) == seen


@pytest.mark.parametrize("seed", range(3))
def test_steps_back_undo_steps(debugger: Debugger, seed: int) -> None:
    timeline = debugger.timeline
    timeline.seek(timeline.place_of(random.Random(seed).randrange(timeline.end.clock)))
    track = []
    for _ in range(120):
        track.append((timeline.position, look(debugger)))
        if not timeline.step():
            break
    for place, seen in reversed(track):
        assert timeline.position > place
        assert timeline.step_back()
        assert timeline.position.clock == place.clock and look(debugger) == seen, f"seed {seed}: {place}"


def test_steps_lead_from_the_beginning_to_the_end_of_an_entry_and_beyond(debugger: Debugger) -> None:
    timeline = debugger.timeline
    entry = timeline.entries.at_clock(timeline.end.clock // 2)
    timeline.seek(timeline.behind(entry))
    assert not timeline.inside
    clock = timeline.position.clock
    assert timeline.step() and timeline.position.sequence > entry and timeline.position.clock > clock
    assert timeline.step_back() and timeline.position.clock == clock


def test_there_is_nothing_before_the_beginning_and_behind_the_end(debugger: Debugger) -> None:
    timeline = debugger.timeline
    assert not timeline.step_back()
    assert timeline.position == timeline.start
    assert timeline.seek(timeline.end) == timeline.end
    assert not timeline.step() and timeline.position == timeline.end
    assert timeline.run().why == Why.EDGE
    assert timeline.run_back().why == Why.EDGE and timeline.position == timeline.start


def test_whole_runs_end_in_the_recorded_results(debugger: Debugger) -> None:
    """Every entry is compared, with pauses in it and without."""
    timeline = debugger.timeline
    for place in places(debugger, 9, 40):
        timeline.seek(place)
    timeline.seek(timeline.start)
    timeline.seek(timeline.end)
    assert timeline.position == timeline.end


def test_breakpoints_are_met_forwards_and_backwards_at_the_same_places(debugger: Debugger) -> None:
    timeline = debugger.timeline
    timeline.seek(timeline.place_of(timeline.end.clock // 2))
    timeline.set_breakpoints([debugger.registers()["pc"]])
    there = timeline.position
    forwards = []
    while len(forwards) < 6 and (stop := timeline.run()).why == Why.BREAKPOINT:
        forwards.append((stop.position, look(debugger)))
    assert [place for place, _ in forwards] == sorted({place for place, _ in forwards})
    here = timeline.position
    backwards = []
    while timeline.position > there:
        assert timeline.run_back().why == Why.BREAKPOINT
        backwards.append((timeline.position, look(debugger)))
    met = [(place, seen) for place, seen in forwards if place < here]
    assert list(reversed(backwards))[1:] == met and met


def test_the_last_write_to_a_place_is_found_and_is_the_last(debugger: Debugger) -> None:
    timeline = debugger.timeline
    timeline.seek(timeline.end)
    stack = debugger.registers()["x2"]
    now = debugger.read(stack, 8)
    stop = debugger.last_write(stack, 8)
    assert stop is not None and stop.hit is not None and stop.hit.kind == HitKind.WRITE
    assert timeline.position == stop.position
    timeline.step()
    assert debugger.read(stack, 8) == now
    timeline.set_watched([(stack, 8, 2)])
    assert timeline.run().why == Why.EDGE, "no later write"


def test_watched_memory_stops_behind_each_write(debugger: Debugger) -> None:
    timeline = debugger.timeline
    timeline.seek(timeline.place_of(timeline.end.clock // 2))
    stack = debugger.registers()["x2"]
    timeline.set_watched([(stack, 8, 2)])
    for _ in range(4):
        before = timeline.position
        stop = timeline.run()
        if stop.why == Why.EDGE:
            break
        assert stop.why == Why.WATCH and stop.hit is not None
        assert before < timeline.position and stop.hit.clock < timeline.position.clock
        offset = stop.hit.address - stack
        if 0 <= offset <= 8 - stop.hit.size:
            written = debugger.read(stack + offset, stop.hit.size)
            mask = (1 << 8 * stop.hit.size) - 1
            assert int.from_bytes(written, "little") == stop.hit.value & mask


def test_a_run_can_be_interrupted_and_goes_on(debugger: Debugger) -> None:
    timeline = debugger.timeline
    left = 5

    def interrupted() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    timeline.interrupted = interrupted
    assert timeline.run().why == Why.INTERRUPTED
    assert timeline.start < timeline.position < timeline.end
    timeline.interrupted = lambda: False
    assert timeline.run().why == Why.EDGE


def test_a_run_that_differs_from_the_recording_says_where(debugger: Debugger) -> None:
    timeline = debugger.timeline
    half = timeline.entries.at_clock(timeline.end.clock // 2)
    timeline.seek(timeline.behind(half))
    debugger.hart.load_ram(debugger.registers()["pc"] - 0x8000_0000, bytes.fromhex("13000000"))
    with pytest.raises(Divergence) as found:
        timeline.seek(timeline.end)
    assert found.value.sequence > half


def test_going_to_where_one_is_moves_nothing(debugger: Debugger) -> None:
    """Inside an entry, at its beginning, and between two."""
    timeline = debugger.timeline
    for place in (Position(9, timeline.entries[9][0].clock + 400), timeline.end, timeline.start):
        here = timeline.seek(place)
        before = debugger.hart.registers()
        assert timeline.seek(here) == here and debugger.hart.registers() == before
