# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes beside images, and which image is the newest when everything has stopped."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from ftvm.arbiter.arbiter import Grant
from ftvm.disk.choose import choose
from ftvm.disk.errors import ColdStartRefused, DiskRefused
from ftvm.disk.metadata import NAME, ImageLedger, ImageMetadata, ImageState, read_metadata, write_metadata

PAIR = "disk0"


def note(state: str = "in-sync", term: int = 0, took_over: int = 0) -> ImageMetadata:
    """A side's note."""
    return ImageMetadata(PAIR, term=term, sequence=1, state=ImageState(state), took_over=took_over)


def grants(*winners: str) -> list[Grant]:
    """Terms 1, 2, ... won by these."""
    return [Grant(term, winner, ("a", "b")) for term, winner in enumerate(winners, 1)]


# -- notes ------------------------------------------------------------------------------------------------------------


def test_a_ledger_writes_what_happens_to_the_images(tmp_path: Path) -> None:
    """Each step is on disk when it returns; taking over is remembered through later joins."""
    assert read_metadata(tmp_path) is None
    ledger = ImageLedger(tmp_path, PAIR)
    assert read_metadata(tmp_path) == ImageMetadata(PAIR)
    ledger.took_over(1, 0)
    assert read_metadata(tmp_path) == replace(note("live", 1, 1), sequence=0)
    ledger.joining()
    assert read_metadata(tmp_path) == replace(ledger.metadata, state=ImageState.JOINING, took_over=1)
    ledger.in_sync(2, 500)
    ledger.ended(900)
    assert ImageLedger(tmp_path, PAIR).metadata == ImageMetadata(PAIR, 2, 900, ImageState.CLEAN, 1)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_images_of_another_pair_are_refused(tmp_path: Path) -> None:
    """In words that name both."""
    ImageLedger(tmp_path, "other")
    with pytest.raises(DiskRefused, match="'other', not to 'disk0'"):
        ImageLedger(tmp_path, PAIR)


def test_a_damaged_note_is_refused(tmp_path: Path) -> None:
    """Cut anywhere, or with a field of another type or value."""
    write_metadata(tmp_path, note("live", 3, 3))
    whole = (tmp_path / NAME).read_bytes()
    damaged = [whole[:end] for end in range(0, len(whole) - 2, 7)]
    wrong = [("term", -1), ("term", "3"), ("took_over", True), ("state", "odd"), ("format", 2), ("pair", 1)]
    for field, value in wrong:
        damaged.append(json.dumps({**json.loads(whole), field: value}).encode())
    for content in [*damaged, b"[]", b"3", b"\xff"]:
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(DiskRefused, match="is damaged"):
            read_metadata(tmp_path)


# -- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("won", "a", "b", "newest"),
    [
        ("", None, None, None),
        ("", note("new"), None, None),
        ("a", note("new"), note("new"), "a"),
        ("b", note("new"), note("new"), "b"),
        ("a", note("live", 1, 1), note("in-sync", 1), "a"),
        ("a", note("live", 1, 1), note("joining"), "a"),
        ("a", note("live", 1, 1), None, "a"),
        ("ab", note("live", 1, 1), note("live", 2, 2), "b"),
        ("ab", None, note("live", 2, 2), "b"),
        ("ab", note("joining", 1, 1), note("live", 2, 2), "b"),
        ("ab", note("live", 1, 1), note("in-sync", 1), "a"),  # b won, but died before it took over
        ("abb", note("live", 1, 1), note("in-sync", 1), "a"),
        ("aba", note("in-sync", 2, 1), note("live", 2, 2), "b"),
        ("ab", note("clean", 2, 1), None, "a"),  # the guest had ended while a followed b
        ("ab", note("clean", 2, 1), note("clean", 2, 2), "b"),
        ("aa", note("live", 1, 1), None, "a"),  # whatever b has, it never won a term after a's
    ],
)
def test_the_newest_images_are_found(
    won: str, a: ImageMetadata | None, b: ImageMetadata | None, newest: str | None
) -> None:
    """By who won the last term, and who took it over."""
    assert choose(grants(*won), {"a": a, "b": b}, PAIR) == newest


@pytest.mark.parametrize(
    ("won", "a", "b", "why"),
    [
        ("", note("live", 1, 1), None, "last grant is none"),
        ("a", note("live", 2, 2), None, "last grant is term 1"),
        ("a", None, None, "neither side's images"),
        ("ab", note("live", 1, 1), None, "side b may have been live in term 2"),
        ("a", None, note("in-sync", 1), "side a may have been live in term 1"),
        ("ab", note("clean", 1, 1), None, "side b may have been live in term 2"),
        ("ab", note("joining", 1, 1), note("joining", 1), "interrupted copy"),
    ],
)
def test_what_cannot_be_known_is_refused(won: str, a: ImageMetadata | None, b: ImageMetadata | None, why: str) -> None:
    """In words that say which images are needed."""
    with pytest.raises(ColdStartRefused, match=why):
        choose(grants(*won), {"a": a, "b": b}, PAIR)


def test_images_of_another_pair_are_no_choice() -> None:
    """A state directory that was mixed up."""
    with pytest.raises(ColdStartRefused, match="belong to the pair 'other'"):
        choose(grants("a"), {"a": ImageMetadata("other"), "b": None}, PAIR)


def test_the_latest_grant_alone_may_not_be_enough() -> None:
    """With a side missing and earlier grants unknown, its reign cannot be ruled out."""
    last = [Grant(5, "a", ("a",))]
    assert choose(last, {"a": note("live", 5, 5), "b": None}, PAIR) == "a"
    assert choose(last, {"a": note("live", 3, 3), "b": note("live", 4, 4)}, PAIR) == "b"
    with pytest.raises(ColdStartRefused, match="live in term 4"):
        choose(last, {"a": note("live", 3, 3), "b": None}, PAIR)


@pytest.mark.parametrize("seed", range(150))
def test_no_acknowledged_write_is_ever_chosen_away(seed: int) -> None:
    """Random lives of a pair, cut off anywhere, cold-started again and again: the chosen image holds every write."""
    chance = random.Random(seed)
    names = ("a", "b")
    notes: dict[str, ImageMetadata] = {name: ImageMetadata(PAIR) for name in names}
    content = {name: 0 for name in names}  # how many acknowledged writes each image holds
    won: list[str] = []
    written = 0
    for _ in range(4):  # cold starts
        newest = choose(grants(*won), notes, PAIR) or "a"
        assert content[newest] == written, f"{notes} {won}: {newest} lacks writes"
        live = newest
        other = "b" if live == "a" else "a"
        steps = iter(range(chance.randrange(14)))  # a power failure stops everything after so many steps
        won.append(live)
        in_sync = False
        for _ in steps:
            notes[live] = ImageMetadata(PAIR, len(won), 0, ImageState.LIVE, len(won))
            action = chance.choice(["write", "write", "join", "die", "stop"])
            if action == "write":
                written += 1
                content[live] = written
                if in_sync:  # the backup has received it, and may be behind in executing
                    content[other] = max(content[other], written - chance.randrange(3))
            elif action == "join" and not in_sync:
                notes[other] = replace(notes[other], state=ImageState.JOINING)
                content[other] = -1
                if next(steps, None) is None:
                    break
                notes[other] = replace(notes[other], state=ImageState.IN_SYNC, term=len(won))
                content[other], in_sync = written, True
            elif action == "die" and in_sync:
                won.append(other)
                if next(steps, None) is None:
                    break  # it won, and died before it took over
                live, other, in_sync = other, live, False
                content[live] = written
            elif action == "stop":
                for name in (live, other) if in_sync else (live,):
                    content[name] = written
                    notes[name] = replace(notes[name], state=ImageState.CLEAN, term=len(won))
                break
