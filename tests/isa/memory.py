# SPDX-License-Identifier: GPL-2.0-or-later
"""Atoms that load, store and work atomically on the program's data, aligned or not, and on what is not there."""

from __future__ import annotations

from tests.isa.chance import DOUBLES, SINGLES, Chance
from tests.isa.encode import (
    AMO,
    AMO_LR,
    AMO_SC,
    AMOS,
    C_LD,
    C_LDSP,
    C_LW,
    C_LWSP,
    C_SDSP,
    C_SWSP,
    FLOAT_LOADS,
    FLOAT_STORES,
    LOADS,
    LUI,
    OP_IMM,
    STORES,
    i_type,
    r_type,
    s_type,
    scatter,
    u_type,
)
from tests.isa.integer import addi, full_arithmetic, half, word, words

VIRTUAL = 0x4000_0000
"""The 2 MiB with 4 KiB pages, in programs with page tables. Pages there:"""
PAGES_CODE, PAGES_USER_CODE, PAGES_WRITABLE_CODE = 2, 4, 6
PAGE_TABLE = 15
PAGES_DATA, PAGES_USER_DATA = 16, 64
PAGES_JUNK, PAGES_JUNK_END = 100, 132
LANDING = 0xFC0
"""In the second data page: code that returns. Random stores stay below."""
NOWHERE = 0xA000_0000
"""Behind RAM, for programs without page tables."""
BAD_TABLES = (0x40400, 0x40600, 0x40800, 0x40A00)
"""VA >> 12 of level 1 entries that are wrong in one way each."""


def offset(g: Chance, size: int) -> int:
    """Of an access from x8 or x9: mostly aligned, often where the page ends if from x9."""
    kind = g.bits(2)
    if kind == 0:
        return g.randrange(-2048, 2041)
    if kind == 1:
        return g.randrange(-16, 16)
    return g.randrange(-2048 >> size, 2041 >> size) << size


def base(g: Chance) -> int:
    return 18 if g.odds(12) else g.pick((8, 9))


def full_access(g: Chance, register: int, at: int) -> int:
    """A load or store of any kind."""
    kind = g.bits(3)
    if kind < 3:
        opcode, f3, _ = g.pick(LOADS)
        return i_type(opcode, f3, g.rd(), register, at)
    if kind < 6:
        opcode, f3, _ = g.pick(STORES)
        return s_type(opcode, f3, register, g.rs(), at)
    if kind == 6:
        opcode, f3, size = g.pick(FLOAT_LOADS)
        return i_type(opcode, f3, g.pick(SINGLES if size == 2 else DOUBLES), register, at)
    opcode, f3, size = g.pick(FLOAT_STORES)
    return s_type(opcode, f3, register, g.rs() if size == 2 else g.double(), at)


def short_access(g: Chance) -> bytes:
    """c.lw to c.fsd from x8 and x9, c.lwsp to c.fsdsp from x2; c.lwsp and c.ldsp to x0 are reserved."""
    f3 = g.pick((1, 2, 3, 5, 6, 7))
    wide = f3 & 3 != 2
    if g.bits(1):
        value = g.bits(3) if f3 > 4 or f3 == 1 else g.randrange(2, 8)
        immediate = scatter(8 * g.bits(5), C_LD) if wide else scatter(4 * g.bits(5), C_LW)
        return half(f3 << 13 | immediate | g.bits(1) << 7 | value << 2)
    if f3 > 4:
        immediate = scatter(8 * g.bits(6), C_SDSP) if wide else scatter(4 * g.bits(6), C_SWSP)
        return half(f3 << 13 | immediate | (g.double() if f3 == 5 else g.rs()) << 2 | 2)
    target = g.double() if f3 == 1 else g.rd()
    immediate = scatter(8 * g.bits(6), C_LDSP) if wide else scatter(4 * g.bits(6), C_LWSP)
    return half(f3 << 13 | immediate | target << 7 | 2)


def access(g: Chance) -> bytes:
    if g.odds(3) and not g.kept:
        return short_access(g)
    return word(full_access(g, base(g), offset(g, g.bits(2))))


def pointer(g: Chance, size: int, *, aligned: bool) -> bytes:
    """x5 points to data that an atomic instruction may use."""
    at = g.randrange(-2048 >> size, 2041 >> size) << size
    return word(addi(5, base(g), at if aligned else g.randrange(-2048, 2041)))


def atomic(g: Chance) -> bytes:
    size = g.pick((2, 3))
    function = g.pick(AMOS)
    insn = function << 27 | g.bits(2) << 25 | g.rs() << 20 | i_type(AMO, size, g.rd(), 5, 0)
    return pointer(g, size, aligned=not g.odds(8)) + word(insn)


def _lr_sc(g: Chance, function: int, size: int, rd: int, rs2: int, register: int = 5) -> int:
    return function << 27 | g.bits(2) << 25 | rs2 << 20 | i_type(AMO, size, rd, register, 0)


def conditional(g: Chance) -> bytes:
    """lr and sc: as a pair, elsewhere, alone, twice, of another size, with a store or a trap in between."""
    size = g.pick((2, 3))
    start = pointer(g, size, aligned=not g.odds(10))
    lr = word(_lr_sc(g, AMO_LR, size, g.free(), 0))
    sc = word(_lr_sc(g, AMO_SC, size, g.free(), g.rs()))
    kind = g.randrange(8)
    if kind == 0:
        return start + sc
    if kind == 1:
        return start + lr + sc + sc
    if kind == 2:  # sc elsewhere
        return start + lr + words(addi(6, 5, g.pick((8, -8, 64))), _lr_sc(g, AMO_SC, size, g.free(), g.rs(), 6))
    if kind == 3:  # a store to the same place, of the same value or another
        return start + lr + word(s_type(0x23, size, 5, g.rs(), 0)) + sc
    if kind == 4:  # a trap takes the reservation away
        return start + lr + half(0) + sc
    if kind == 5:
        return start + lr + word(full_arithmetic_free(g)) + sc
    return start + lr + sc


def full_arithmetic_free(g: Chance) -> int:
    """An instruction that leaves x5 alone."""
    kept, g.kept = g.kept, (*g.kept, 5)
    insn = int.from_bytes(full_arithmetic(g), "little")
    g.kept = kept
    return insn


def elsewhere(g: Chance) -> bytes:
    """x5 points to a page of some kind; a load, store, lr or read-modify-write there."""
    if not g.paged:
        return word(r_type(0x33, 0, 0, 5, 18, 0)) + word(any_access(g, 5, offset(g, 3)))
    kind = g.randrange(8)
    if kind < 5:
        page = g.pick((*range(PAGES_JUNK, PAGES_JUNK_END), PAGES_USER_DATA, PAGES_DATA, PAGES_USER_CODE, PAGES_CODE))
        start = word(u_type(LUI, 5, (VIRTUAL >> 12) + page))
        at = g.randrange(0, 0x7F0)
        if PAGES_CODE <= page < PAGES_WRITABLE_CODE:  # only what cannot change it
            return start + word(i_type(0x03, g.bits(2), g.rd(), 5, at))
    elif kind == 5:
        start, at = word(u_type(LUI, 5, g.pick(BAD_TABLES))), g.randrange(0, 0x7F0)
    else:  # not canonical, no root entry, a misaligned gigapage, the highest page of all
        value, shift = g.pick(((1, 40), (3, 30), (5, 30), (-1, 12), (-1, 38), (1, 38), (-1, 63)))
        start = words(addi(5, 0, value), i_type(OP_IMM, 1, 5, 5, shift))
        at = g.randrange(0, 0x7F0)
    return start + word(any_access(g, 5, at))


def any_access(g: Chance, register: int, at: int) -> int:
    kind = g.bits(3)
    if kind == 0:
        return _lr_sc(g, AMO_LR, g.pick((2, 3)), g.rd(), 0, register)
    if kind == 1:
        return g.pick(AMOS) << 27 | g.rs() << 20 | i_type(AMO, g.pick((2, 3)), g.rd(), register, 0)
    return full_access(g, register, at)
