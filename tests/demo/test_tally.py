# SPDX-License-Identifier: GPL-2.0-or-later
"""The books notice every broken promise as what it is, and nothing else."""

from __future__ import annotations

import random

import pytest

from ftvm.demo.content import BLOCK, SECTOR, ZEROS, Pattern
from ftvm.demo.tally import Change, Kind, Tally

RUN = 77
PATTERN = Pattern(RUN)


def content(version: int, block: int = 0) -> bytes:
    return PATTERN.make(block, version, 0)


def book() -> Tally:
    return Tally([0, 0], RUN)


def write(tally: Tally, change: Change = Change.DATA) -> bytes:
    """A write that is acknowledged; its content."""
    tally.begin(0, 0, change)
    data = tally.content(0) if change is Change.DATA else ZEROS
    tally.acknowledge(0)
    return data


def read(tally: Tally, data: bytes) -> Kind | None:
    """A read that returns this at once; what is found."""
    finding = tally.check(0, tally.expect(0), data)
    return finding.kind if finding else None


def test_fresh_block_reads_as_zeros() -> None:
    assert read(book(), ZEROS) is None


def test_acknowledged_version_is_what_a_read_shows() -> None:
    tally = book()
    assert read(tally, write(tally)) is None
    assert tally.counts == {Kind.LOST: 0, Kind.DOUBLED: 0, Kind.CORRUPT: 0}


def test_acknowledged_write_that_nobody_ever_saw_is_lost() -> None:
    tally = book()
    first = write(tally)
    write(tally)
    assert read(tally, first) is Kind.LOST


def test_acknowledged_first_write_is_lost_when_zeros_are_read() -> None:
    tally = book()
    write(tally)
    assert read(tally, ZEROS) is Kind.LOST


def test_older_version_over_one_that_was_read_back_is_doubled() -> None:
    tally = book()
    first = write(tally)
    second = write(tally)
    assert read(tally, second) is None
    assert read(tally, first) is Kind.DOUBLED


def test_late_twin_of_a_zeroing_write_is_doubled() -> None:
    tally = book()
    write(tally, Change.ZERO)
    assert read(tally, write(tally)) is None
    assert read(tally, ZEROS) is Kind.DOUBLED


def test_version_seen_before_its_acknowledgement_must_stay() -> None:
    tally = book()
    first = write(tally)
    tally.begin(0, 0, Change.DATA)
    assert read(tally, tally.content(0)) is None
    assert read(tally, first) is Kind.DOUBLED


def test_newest_lost_although_an_older_one_had_been_read_back() -> None:
    tally = book()
    first = write(tally)
    assert read(tally, first) is None
    write(tally)
    assert read(tally, first) is Kind.LOST


def test_write_in_flight_may_or_may_not_show() -> None:
    tally = book()
    first = write(tally)
    tally.begin(0, 0, Change.DATA)
    assert read(tally, first) is None
    assert read(tally, tally.content(0)) is None


def test_read_issued_before_an_acknowledgement_may_show_the_older_version() -> None:
    tally = book()
    first = write(tally)
    tally.begin(0, 0, Change.DATA)
    early = tally.expect(0)
    tally.acknowledge(0)
    assert tally.check(0, early, first) is None
    assert read(tally, first) is Kind.LOST


def test_trim_leaves_old_content_or_zeros_but_what_was_seen_stays() -> None:
    tally = book()
    first = write(tally)
    write(tally, Change.TRIM)
    assert read(tally, first) is None
    assert read(tally, ZEROS) is None
    assert read(tally, first) is Kind.DOUBLED


def test_trim_does_not_excuse_a_version_before_the_last_data() -> None:
    tally = book()
    first = write(tally)
    write(tally)
    write(tally, Change.TRIM)
    assert read(tally, first) is Kind.LOST


def test_write_answered_with_an_error_may_have_happened_or_not() -> None:
    for happened in (True, False):
        tally = book()
        first = write(tally)
        tally.begin(0, 0, Change.DATA)
        second = tally.content(0)
        tally.fail(0)
        assert read(tally, second if happened else first) is None


def test_zeros_of_an_old_read_do_not_vouch_for_a_newer_zeroing_write_in_flight() -> None:
    tally = book()
    write(tally)
    early = tally.expect(0)
    write(tally, Change.ZERO)
    third = write(tally)
    tally.begin(0, 0, Change.ZERO)
    assert tally.check(0, early, ZEROS) is None
    assert read(tally, third) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:700] + bytes([data[700] ^ 1]) + data[701:], "its bytes are not"),
        (lambda data: b"x" * BLOCK, "no content of the demo"),
        (lambda data: content(1, block=1), "of block 1"),
        (lambda data: Pattern(RUN + 1).make(0, 1, 0), "another run"),
        (lambda data: PATTERN.make(0, 1, 1), "its bytes are not"),
        (lambda data: content(9), "only 2 were ever issued"),
        (lambda data: content(1)[:SECTOR] + data[SECTOR:], "torn between versions 1, 2"),
        (lambda data: data[:-SECTOR] + bytes(SECTOR), "torn between versions 0, 2"),
    ],
)
def test_content_that_is_no_version_of_the_block_is_corrupt(damage: object, said: str) -> None:
    tally = book()
    write(tally)
    data = write(tally)
    assert callable(damage)
    finding = tally.check(0, tally.expect(0), damage(data))
    assert finding is not None and finding.kind is Kind.CORRUPT
    assert said in finding.text and finding.text.startswith("block 0 ")


@pytest.mark.parametrize("tear", [30, 100, SECTOR, SECTOR + 100, BLOCK - 100])
def test_block_torn_by_a_write_in_flight_is_allowed_and_vouches_for_nothing(tear: int) -> None:
    tally = book()
    first = write(tally)
    tally.begin(0, 0, Change.DATA)
    second = tally.content(0)
    assert read(tally, second[:tear] + first[tear:]) is None
    assert read(tally, first) is None
    torn = tally.expect(0)
    tally.acknowledge(0)
    assert tally.check(0, torn, first[:tear] + second[tear:]) is None
    assert read(tally, second[:tear] + first[tear:]) is Kind.CORRUPT


@pytest.mark.parametrize("tear", [30, SECTOR])
def test_block_torn_between_an_older_version_and_one_in_flight_is_corrupt(tear: int) -> None:
    tally = book()
    first = write(tally)
    write(tally)
    tally.begin(0, 0, Change.DATA)
    assert read(tally, first[:tear] + tally.content(0)[tear:]) is Kind.CORRUPT


def test_finding_is_counted_once_until_the_block_is_acknowledged_again() -> None:
    tally = book()
    first = write(tally)
    write(tally)
    assert [read(tally, first), read(tally, first)] == [Kind.LOST, None]
    third = write(tally)
    assert read(tally, third) is None
    assert read(tally, first) is Kind.DOUBLED
    assert tally.counts == {Kind.LOST: 1, Kind.DOUBLED: 1, Kind.CORRUPT: 0}


def test_foreign_or_second_write_is_our_own_bug() -> None:
    tally = book()
    with pytest.raises(AssertionError):
        tally.begin(0, 1, Change.DATA)
    tally.begin(0, 0, Change.DATA)
    with pytest.raises(AssertionError):
        tally.begin(0, 0, Change.DATA)


@pytest.mark.parametrize("seed", range(20))
def test_honest_register_with_reads_in_flight_is_never_accused(seed: int) -> None:
    """A linearizable block with overlapping reads and writes of all kinds: no finding, whatever the order."""
    rng, tally = random.Random(seed), book()
    now, pending_write, reads = ZEROS, None, []
    for _ in range(400):
        step = rng.choice(("begin", "apply", "end", "issue", "sample", "answer"))
        if step == "begin" and pending_write is None:
            change = rng.choice((Change.DATA, Change.DATA, Change.ZERO, Change.TRIM))
            tally.begin(0, 0, change)
            keeps = change is Change.TRIM and rng.random() < 0.5
            pending_write = [tally.content(0) if change is Change.DATA else now if keeps else ZEROS, False]
        elif step == "apply" and pending_write is not None:
            now, pending_write[1] = pending_write[0], True
        elif step == "end" and pending_write is not None and (pending_write[1] or rng.random() < 0.1):
            (tally.acknowledge if pending_write[1] else tally.fail)(0)
            pending_write = None
        elif step == "issue":
            reads.append([tally.expect(0), None])
        elif step == "sample" and reads:
            rng.choice(reads)[1] = now
        elif step == "answer" and reads:
            expectation, data = reads.pop(rng.randrange(len(reads)))
            if data is not None:
                assert tally.check(0, expectation, data) is None
