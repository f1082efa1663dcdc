# SPDX-License-Identifier: GPL-2.0-or-later
"""`Chance`: a seeded source of registers, numbers and instructions' parts for one program.

Registers that hold addresses are never a destination, so that every load and store stays where it may:

    x2   data + 0x400            x9   data + 0x1000, where one data page ends
    x8   data + 0x800            x18  data + 0x800 through a superpage, or nowhere at all without paging

Float registers 0-7 and 16-23 hold singles, the others doubles (see `deviations` for why they are kept apart).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
ADDRESSES = (2, 8, 9, 18)
RESULTS = tuple(number for number in range(32) if number not in ADDRESSES)
FREE = tuple(number for number in RESULTS if number not in (0, 5, 6, 7))
"""Destinations but x0 and the three that atoms use for themselves."""
SINGLES = (*range(8), *range(16, 24))
DOUBLES = (*range(8, 16), *range(24, 32))
ONES = (1 << 64) - 1

CORNERS = [
    0, 1, 2, 3, 7, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x7FF, 0x800, 0x7FFF, 0x8000, 0xFFFF, 1 << 31, (1 << 31) - 1,
    (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 63) - 1, (1 << 63) + 1, ONES, ONES - 1, ONES << 31 & ONES, ONES << 32 & ONES,
    0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, 0xFFFF_FFFF_8000_0001,
]  # fmt: skip
# Singles: zeros, subnormals, ones, around 2^31, 2^32, 2^63 and 2^64, largest, infinities, quiet and signalling NaNs.
SINGLE_CORNERS = [
    0, 1, 0x7F_FFFF, 0x80_0000, 0x3F80_0000, 0x3F00_0000, 0x3FC0_0000, 0x4040_0000, 0x4F00_0000, 0x4EFF_FFFF,
    0x4F80_0000, 0x4F7F_FFFF, 0x5F00_0000, 0x5EFF_FFFF, 0x5F80_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7FC0_0000, 0x7F80_0001,
    0x7FBF_FFFF, 0x7FC0_1234, 0x3380_0000, 0x4B00_0001, 0x2000_0000, 0x6000_0000,
]  # fmt: skip
DOUBLE_CORNERS = [
    0, 1, 0xF_FFFF_FFFF_FFFF, 1 << 52, 0x3FF << 52, 0x3FE << 52, 0x3FF8 << 48, 0x4008 << 48, 0x41E0 << 48,
    0x41DF_FFFF_FFC0_0000, 0x41DF_FFFF_FFE0_0000, 0x41F0 << 48, 0x43E0 << 48, 0x43DF_FFFF_FFFF_FFFF, 0x43F0 << 48,
    0x7FEF_FFFF_FFFF_FFFF, 0x7FF << 52, 0x7FF8 << 48, (0x7FF << 52) + 1, 0x7FF7_FFFF_FFFF_FFFF, 0x3810 << 48,
    0x380F_FFFF_FFFF_FFFF, 0x36A0 << 48, 0x47EF_FFFF_E000_0000, 0x47EF_FFFF_F000_0000, 0x3CA0 << 48,
    0x4330_0000_0000_0001,
]  # fmt: skip


class Chance(Random):
    """Everything about one program is drawn from here."""

    def __init__(self, seed: str, *, paged: bool = False) -> None:
        super().__init__(seed)
        self.paged = paged
        self.user = False
        """The instructions that are drawn will run in user mode."""
        self.whole = False
        """What was drawn last must not be cut by a page's end: it clears what need not be alike."""
        self.kept: tuple[int, ...] = ()
        """More registers that are no destination now: a loop's counter."""

    def odds(self, of: int) -> bool:
        """True once in `of` times."""
        return self.randrange(of) == 0

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.random() * len(items))]

    def bits(self, count: int) -> int:
        return self.getrandbits(count)

    def rd(self) -> int:
        """A destination; x0 now and then."""
        while (register := self.pick(RESULTS)) in self.kept:
            pass
        return register

    def free(self) -> int:
        """A destination that is neither x0 nor x5 to x7."""
        while (register := self.pick(FREE)) in self.kept:
            pass
        return register

    def rs(self) -> int:
        return self.bits(5)

    def single(self) -> int:
        """A float register that holds a single."""
        return self.pick(SINGLES)

    def double(self) -> int:
        return self.pick(DOUBLES)

    def rm(self) -> int:
        """A rounding mode: mostly dynamic or legal."""
        return 7 if self.odds(3) else self.pick((0, 0, 1, 2, 3, 4, 5, 6)) if self.odds(6) else self.bits(2)

    def number(self) -> int:
        """64 bits that somebody trips over."""
        kind = self.bits(2)
        if kind == 0:
            return self.bits(64)
        if kind == 1:
            return (self.pick(CORNERS) + self.randrange(-2, 3)) & ONES
        if kind == 2:
            return self.pick(CORNERS)
        return self.bits(self.randrange(1, 64))

    def single_number(self) -> int:
        """A single, boxed."""
        number = self.bits(32) if self.odds(3) else self.pick(SINGLE_CORNERS) ^ self.bits(1) << 31
        return 0xFFFF_FFFF << 32 | number

    def double_number(self) -> int:
        if self.odds(3):
            return self.bits(64)
        return self.single_number() if self.odds(8) else self.pick(DOUBLE_CORNERS) ^ self.bits(1) << 63
