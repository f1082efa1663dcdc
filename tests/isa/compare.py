# SPDX-License-Identifier: GPL-2.0-or-later
"""Two slots after the same program: what differs, in the order in which it would be noticed."""

from __future__ import annotations

from dataclasses import dataclass

from tests.isa import deviations
from tests.isa.chance import SINGLES
from tests.isa.layout import (
    CODE,
    CODE_MASK,
    DATA,
    FINAL_CSRS,
    LEVEL0,
    LEVEL1,
    PAGE,
    ROOT,
    TRAP_SIZE,
    TRAP_WORDS,
    TRAPS_MAX,
    Control,
    Ended,
)

SINGLE_NAMES = {f"f{number}" for number in SINGLES}
TABLES = (ROOT, LEVEL1, LEVEL0)
AREAS = {"code": CODE, "data": DATA, "root table": ROOT, "level 1 table": LEVEL1, "level 0 table": LEVEL0}


@dataclass(frozen=True, slots=True)
class Difference:
    """One named word or byte."""

    name: str
    hart: int
    reference: int

    def __str__(self) -> str:
        return f"{self.name}: ftvm {self.hart:#x}, reference {self.reference:#x}"


def word(slot: bytes, offset: int) -> int:
    return int.from_bytes(slot[offset : offset + 8], "little")


def trap(slot: bytes, index: int) -> dict[str, int]:
    at = Control.LOG + index * TRAP_SIZE
    return {name: word(slot, at + 8 * i) for i, name in enumerate(TRAP_WORDS)}


def trap_count(slot: bytes) -> int:
    return min(word(slot, Control.TRAPS), TRAPS_MAX)


def instruction(slot: bytes, sepc: int) -> int:
    """The word of code at an address, as it is when the program has ended."""
    at = CODE + (sepc & CODE_MASK)
    return int.from_bytes(slot[at : at + 4], "little")


def final_words() -> list[tuple[str, int]]:
    """Names and offsets of what is written at the end."""
    names = [(f"x{number}", Control.FINAL_X + 8 * number) for number in range(1, 32)]
    names += [(f"f{number}", Control.FINAL_F + 8 * number) for number in range(32)]
    return names + [(name, Control.FINAL_CSRS + 8 * index) for index, name in enumerate(FINAL_CSRS)]


def differences(hart: bytes, reference: bytes) -> list[Difference]:
    """Empty if the slots are alike."""
    if hart == reference:
        return []
    found: list[Difference] = []
    for index in range(max(trap_count(hart), trap_count(reference))):
        ours, theirs = trap(hart, index), trap(reference, index)
        if ours != theirs and not deviations.excused_trap(ours, theirs, instruction(hart, ours["sepc"])):
            found += [Difference(f"trap {index} {n}", ours[n], theirs[n]) for n in TRAP_WORDS if ours[n] != theirs[n]]
            break
    last = _last_trap(hart, reference)
    names = [("traps", int(Control.TRAPS)), ("how it ended", int(Control.ENDED)), *final_words()]
    for name, at in names:
        ours_word, theirs_word = word(hart, at), word(reference, at)
        excused = name in SINGLE_NAMES and deviations.excused_single(ours_word, theirs_word)
        excused |= name in last and last[name] == (ours_word, theirs_word)
        if ours_word != theirs_word and not excused:
            found.append(Difference(name, ours_word, theirs_word))
    for name, at in AREAS.items():
        found += _memory(name, at, hart, reference)
    return found


def _last_trap(hart: bytes, reference: bytes) -> dict[str, tuple[int, int]]:
    """The last trap on both sides: what is left of it in the CSRs, excused or told of there already."""
    if trap_count(hart) != trap_count(reference) or not trap_count(hart):
        return {}
    ours, theirs = (trap(slot, trap_count(slot) - 1) for slot in (hart, reference))
    return {name: (ours[name], theirs[name]) for name in ("scause", "stval")}


def _memory(name: str, at: int, hart: bytes, reference: bytes) -> list[Difference]:
    """The first few bytes or table entries that differ."""
    if at in TABLES:
        entries = [(offset, word(hart, at + offset), word(reference, at + offset)) for offset in range(0, PAGE, 8)]
        wrong = [(o, x, y) for o, x, y in entries if x != y and not deviations.excused_entry(x, y)]
        return [Difference(f"{name}, entry {offset // 8}", *pair) for offset, *pair in wrong[:4]]
    wrong = [(o, hart[at + o], reference[at + o]) for o in range(2 * PAGE) if hart[at + o] != reference[at + o]]
    return [Difference(f"{name} byte {offset:#x}", *pair) for offset, *pair in wrong[:4]]


def ended(slot: bytes) -> Ended:
    return Ended(word(slot, Control.ENDED))
