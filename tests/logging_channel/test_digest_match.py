# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests meet in whichever order they come, and the first difference is found."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from logging_channel.digest_match import DigestMatch, Mismatch


def test_equal_digests_match_in_either_order() -> None:
    """The backup may finish an epoch before or after the primary."""
    match = DigestMatch()
    assert match.ours(1, 11) is None and match.theirs(1, 11) is None
    assert match.theirs(2, 22) is None and match.ours(2, 22) is None
    assert match.compared == 2


def test_a_difference_is_told_with_both_values() -> None:
    """In either order."""
    match = DigestMatch()
    match.ours(1, 11)
    assert match.theirs(1, 12) == Mismatch(1, 11, 12)
    match.theirs(2, 23)
    found = match.ours(2, 22)
    assert str(found) == "digests differ after entry 2: 0x0000000000000016 here, 0x0000000000000017 on the backup"


def test_repeated_and_old_acks_compare_nothing() -> None:
    """An ack of receipt repeats the last executed digest."""
    match = DigestMatch()
    match.ours(5, 55)
    assert match.theirs(4, 0) is None, "executed before this comparison began"
    match.theirs(5, 55)
    assert match.theirs(5, 55) is None
    match.ours(6, 66)
    assert match.theirs(5, 55) is None
    assert match.compared == 1
    assert match.theirs(6, 67) == Mismatch(6, 66, 67)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=60), st.integers(1, 40))
@settings(max_examples=120)
def test_a_divergence_never_passes(steps: list[tuple[bool, int]], diverges_at: int) -> None:
    """From one entry on all digests differ: no comparison before it complains, and every one behind it does."""

    def backups(sequence: int) -> int:
        return sequence if sequence < diverges_at else sequence + 1000

    match, mine, other = DigestMatch(), 0, 0
    for ours, count in steps:
        compared = match.compared
        if ours:
            mine += 1
            found = match.ours(mine, mine)
        else:
            other = min(other + count, mine + 1)  # a promised entry may be executed here first
            found = match.theirs(other, backups(other))
        if match.compared > compared:
            assert (found is not None) == (min(mine, other) >= diverges_at)
        else:
            assert found is None
    if other <= mine:
        found = match.theirs(mine + 1, backups(mine + 1)) or match.ours(mine + 1, mine + 1)
        assert (found is not None) == (mine + 1 >= diverges_at)
