# SPDX-License-Identifier: GPL-2.0-or-later
"""The instruction-level check in the small, and that it notices what it should.

The campaign is a command of its own: `python -m tests.isa SEED --programs N --seconds S`.
"""

from __future__ import annotations

import pytest

from tests.isa.batch import Batch, run_reference
from tests.isa.campaign import Mismatch, campaign
from tests.isa.compare import differences, ended, trap, trap_count
from tests.isa.layout import DATA, TRAP_SIZE, Control, Ended
from tests.isa.program import generate

PROGRAMS = 10_000
MXR = 1 << 19


@pytest.mark.timeout(1200)
def test_ten_thousand_programs_run_as_on_the_reference() -> None:
    tally = campaign("slice", PROGRAMS)
    assert tally.programs == PROGRAMS
    assert tally.ends[Ended.WHOLE] > 0.9 * PROGRAMS
    assert tally.ends[Ended.NEVER] == 0


def test_programs_meet_every_trap() -> None:
    """What is compared is worth comparing: every cause there is, from both privileges, through both kinds of vector."""
    batch = Batch([generate(f"slice:{number}") for number in range(1000)])
    slots = run_reference(batch, batch.pieces())
    traps = [trap(slot, index) for slot in slots for index in range(trap_count(slot))]
    causes = {entry["scause"] for entry in traps}
    assert causes == {1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 15, 1 << 63 | 1}
    assert {entry["sstatus"] >> 8 & 1 for entry in traps} == {0, 1}
    assert {entry["vector"] for entry in traps} == {0, 1, 2}
    assert all(ended(slot) != Ended.NEVER for slot in slots)


def test_a_program_is_the_same_every_time() -> None:
    address = 0x8010_8000
    assert generate("1:7").bytes_in(address) == generate("1:7").bytes_in(address)
    assert generate("1:7").bytes_in(address) != generate("1:8").bytes_in(address)


def _word(slot: bytes, at: int, change: int) -> bytes:
    value = int.from_bytes(slot[at : at + 8], "little") ^ change
    return slot[:at] + value.to_bytes(8, "little") + slot[at + 8 :]


def _flipped_result(slots: list[bytes]) -> list[bytes]:
    """Bit 40 of x10 at the end."""
    return [_word(slot, Control.FINAL_X + 80, 1 << 40) for slot in slots]


def _flipped_memory(slots: list[bytes]) -> list[bytes]:
    return [_word(slot, DATA + 0x1230, 1 << 17) for slot in slots]


def _wrong_mask(slots: list[bytes]) -> list[bytes]:
    """MXR is lost from sstatus in traps after the first."""
    out = []
    for slot in slots:
        for index in range(1, trap_count(slot)):
            at = Control.LOG + index * TRAP_SIZE + 24
            slot = _word(slot, at, int.from_bytes(slot[at : at + 8], "little") & MXR)
        out.append(slot)
    return out


@pytest.mark.parametrize(
    ("alter", "named"),
    [(_flipped_result, "x10: ftvm"), (_flipped_memory, "data byte 0x1232: ftvm"), (_wrong_mask, "sstatus: ftvm")],
)
@pytest.mark.timeout(600)
def test_a_planted_error_is_found_and_made_small(alter, named: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Mismatch) as caught:
        campaign("control", 60, alter=alter)
    text = str(caught.value)
    assert named in text
    assert "program control:" in text
    assert "replay: python -m tests.isa control --first " in text
    smallest = text[text.index("smallest form, ") :]
    assert int(smallest.split()[2]) <= 2, text
    assert "ebreak" in smallest


def test_what_may_differ_is_only_what_is_named() -> None:
    """One bit in each place of a slot: the table entry's A and D bits and the reference's rounding excuse little."""
    batch = Batch([generate("1:0")])
    (slot,) = run_reference(batch, batch.pieces())
    places = [Control.FINAL_X + 8 * 10, Control.FINAL_F, Control.FINAL_CSRS + 8, Control.LOG + 8, DATA + 8, 0x6010]
    for at in places:
        assert differences(_word(slot, at, 2), slot), at
