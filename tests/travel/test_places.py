# SPDX-License-Identifier: GPL-2.0-or-later
"""Places in words: each form means the same in all commands, and leads to the very instruction."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.event import EventKind, OutputKind
from ftvm.debugger import Debugger
from replay.outputs import OutputIndex
from replay.places import find_in_entries
from replay.position import AtClock, AtEntry, AtTime, Edge, Nth, Position, parse_place
from tests.machine.box import config_of
from tests.travel.recorded import RecordedBox, record_driver

SAID = ["one line", "another line", "x"]


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console guest says back what it is told, in pieces."""
    log = tmp_path_factory.mktemp("places") / "talk.log"
    box = RecordedBox(config_of("console"), log)
    box.until("console: ready")
    for text in SAID:
        for letter in f"{text}\r":
            box.type(letter)
            box.run(budget=3000)
    box.close()
    return log


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_driver(tmp_path_factory.mktemp("places") / "driver.log")


@pytest.fixture
def debugger(talk: Path) -> Iterator[Debugger]:
    with Debugger.open(talk) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("17:99", Position(17, 99)),
        (" 4096 ", AtClock(4096)),
        ("0x1000", AtClock(4096)),
        ("clock 7", AtClock(7)),
        ("-12", AtClock(-12, relative=True)),
        ("+0x10", AtClock(16, relative=True)),
        ("entry 3", AtEntry(3)),
        ("time 1.25", AtTime(12_500_000)),
        ("20ms", AtTime(200_000)),
        ("0.3us", AtTime(3)),
        ("end", Edge.END),
        ("live", Edge.LIVE),
        ("event", Nth(False)),
        ("event packet 3", Nth(False, EventKind.PACKET, None, 3)),
        ("last event request", Nth(False, EventKind.BLOCK_REQUEST, None, -1)),
        ("event request -2", Nth(False, EventKind.BLOCK_REQUEST, None, -2)),
        ("previous output console login: 2", Nth(True, OutputKind.CONSOLE, b"login:", -2, True)),
        ('output console "a \\"3\\"\\n" 5', Nth(True, OutputKind.CONSOLE, b'a "3"\n', 5)),
        ("output '42'", Nth(True, None, b"42")),
        ("output packet hex:0800", Nth(True, OutputKind.PACKET, b"\x08\x00")),
        ("next output reply", Nth(True, OutputKind.BLOCK_REPLY, None, 1, True)),
    ],
)
def test_words_mean(text: str, place: object) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize(
    "text",
    ["", "nowhere", "1:2:3", "3:", "entry", "entry x", "1.5", "time soon", "event 0", "next event -1", "output a b",
     "start now", "output packet hex:xyz", "99999999999999999999999", "time 1e5", "event packet 1 2", "\u0663:\u0664"],
)  # fmt: skip
def test_what_is_no_place_is_told(text: str) -> None:
    with pytest.raises(ValueError):
        parse_place(text)


WORDS = ["event", "output", "next", "last", "time", "entry", "console", "-1", "0x", '"', "\\x", "'", "hex:", "1s", ":"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*WORDS, "\ud800", "+", "live"]) | st.text(max_size=8), max_size=6))
def test_any_words_are_a_place_or_refused(words: list[str]) -> None:
    try:
        place = parse_place(" ".join(words))
    except ValueError:
        return
    assert hash(place) is not None


def test_clock_entry_and_time_lead_to_the_instruction(debugger: Debugger) -> None:
    timeline, entries = debugger.timeline, debugger.timeline.entries
    chance = random.Random(5)
    for _ in range(40):
        clock = chance.randrange(timeline.end.clock)
        reached = timeline.seek(debugger.places.parse(str(clock)))
        assert clock <= reached.clock < clock + 4 or reached.sequence != timeline.place_of(clock).sequence
        ticks = chance.randrange(entries[entries.last][1].time)
        timeline.seek(debugger.places.parse(f"{ticks / 10:.1f}us"))
        now = debugger.hart.time
        assert ticks <= now + 1 or not timeline.inside
        timeline.step_back()
        assert debugger.hart.time <= ticks
    place = debugger.places.parse(f"entry {entries.last}")
    assert place == Position(entries.last - 1, entries[entries.last][0].clock)
    assert debugger.places.parse("+0") == timeline.position
    assert debugger.places.parse("-99999999999") == timeline.start
    for wrong in ("entry 0", f"entry {entries.last + 1}", "event 10000", "output packet", "output console nothing"):
        with pytest.raises(ValueError):
            debugger.places.parse(wrong)


def test_events_are_counted_from_both_ends_and_from_here(debugger: Debugger) -> None:
    timeline = debugger.timeline
    found = [
        Position(entry.sequence - 1, entry.clock) for entry, _ in timeline.entries for event in entry.events
        if event.kind == EventKind.CONSOLE_INPUT
    ]  # fmt: skip
    assert len(found) == sum(len(text) + 1 for text in SAID)
    for number, place in enumerate(found, 1):
        assert debugger.places.parse(f"event console {number}") == place
        assert debugger.places.parse(f"event console {number - len(found) - 1}") == place
        assert find_in_entries(parse_place(f"event {number}"), timeline.entries) == place
    timeline.seek(found[4])
    assert debugger.places.parse("next event") == found[5]
    assert debugger.places.parse("previous event 2") == found[2]
    assert debugger.places.parse("event console x 1") == debugger.places.parse(f"event {found.index(found[-2]) + 1}")
    timeline.seek(timeline.start)
    with pytest.raises(ValueError, match="no such event"):
        debugger.places.parse("previous event")


def heard(debugger: Debugger) -> bytes:
    """All that the console has said until now, by the machine's own count."""
    outputs = OutputIndex(debugger.timeline).of_kind(OutputKind.CONSOLE)
    return b"".join(made.data or b"" for made in outputs)


def test_text_on_the_console_is_found_where_its_last_byte_is_sent(debugger: Debugger) -> None:
    timeline = debugger.timeline
    whole = heard(debugger)
    text = b"line"
    ends, at = [], -1
    while (at := whole.find(text, at + 1)) >= 0:
        ends.append(at + len(text))
    assert len(ends) >= 2
    places = [debugger.places.parse(f"output console line {number}") for number in range(1, len(ends) + 1)]
    assert places == [
        debugger.places.parse(f"output console line {n - len(ends) - 1}") for n in range(1, len(ends) + 1)
    ]
    assert places == sorted(places)
    for place, end in zip(places, ends, strict=True):
        assert timeline.seek(place) == place and debugger.machine.made(OutputKind.CONSOLE) == end - 1
        timeline.step()
        assert debugger.machine.made(OutputKind.CONSOLE) == end
    timeline.seek(places[0])
    assert debugger.places.parse("next output console line") == places[1]
    timeline.seek(places[1])
    assert debugger.places.parse("previous output console line") == places[0]
    assert debugger.places.parse("output console line") == places[0]


def test_outputs_whose_bytes_are_not_kept_are_found_too(talk: Path, debugger: Debugger) -> None:
    with Debugger.open(talk) as other:
        other.places.outputs = OutputIndex(other.timeline, bytes_max=20)
        for words in ("output console line 2", "last output console anoth", "output console 7"):
            assert other.places.parse(words) == debugger.places.parse(words)


def test_replies_are_found_at_the_store_that_sends_them(driver: Path) -> None:
    with Debugger.open(driver) as debugger:
        timeline = debugger.timeline
        for words in ("output reply 1", "output reply 17", "last output reply", "output reply hex:0000000000 3"):
            place = debugger.places.parse(words)
            assert timeline.seek(place) == place
            before = debugger.machine.made(OutputKind.BLOCK_REPLY) if timeline.inside else 0
            assert timeline.inside and timeline.step(), words
            assert debugger.machine.made(OutputKind.BLOCK_REPLY) == before + 1
        there = timeline.position
        assert debugger.places.parse("previous output reply") < there
