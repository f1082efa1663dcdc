# SPDX-License-Identifier: GPL-2.0-or-later
"""`Position`: a place in a recording, exact to the instruction.

Inside entry s, before the instruction that begins at clock c; or, where c is the clock at the end of s, behind it,
before anything of the next entry has been delivered. Written `s:c`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a recording; positions of one recording are ordered."""

    sequence: int
    clock: int

    def __str__(self) -> str:
        return f"{self.sequence}:{self.clock}"


def parse_position(text: str) -> Position:
    """`s:c` as a position; ValueError."""
    sequence, colon, clock = text.partition(":")
    if not colon or not sequence.isdecimal() or not clock.isdecimal():
        raise ValueError(f"{text!r} is not a position: it is ENTRY:CLOCK, as in 17:123456")
    return Position(int(sequence), int(clock))
