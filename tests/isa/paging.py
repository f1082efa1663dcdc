# SPDX-License-Identifier: GPL-2.0-or-later
"""Page tables of a program, and the atoms that need a mapping, an alias or another privilege.

root    entry 1: level 1; 2: the machine's RAM as it is, for the handler; 3: misaligned
level 1 entry 0: level 0; 1: a superpage with the slot in it; 2 to 5: wrong in one way each
level 0 code three times (supervisor, user, writable), this table itself, data twice, junk of every kind
"""

from __future__ import annotations

from tests.ftvm.asm import b_type
from tests.isa.chance import Chance
from tests.isa.encode import AUIPC, LUI, OP_IMM, i_type, r_type, s_type, u_type
from tests.isa.integer import Emit, addi, full_arithmetic, half, load_number, word, words
from tests.isa.layout import CODE, DATA, HEADER, HEADER_RUNNING, LEVEL0, LEVEL1, PAGE, RAM_BASE, ROOT, Control
from tests.isa.memory import (
    BAD_TABLES,
    LANDING,
    NOWHERE,
    PAGE_TABLE,
    PAGES_CODE,
    PAGES_DATA,
    PAGES_JUNK,
    PAGES_JUNK_END,
    PAGES_USER_CODE,
    PAGES_USER_DATA,
    PAGES_WRITABLE_CODE,
    VIRTUAL,
    any_access,
    offset,
)
from tests.isa.system import FENCE_I, SEPC, SPIE, SPP, SSTATUS, csr

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
FLIPS, SETS = (W, R | W, V, U, X, 0x3F), (A, D, A | D, W, V, U)  # A and D need not be alike: never flipped
ECALL, SRET, SFENCE_ALL = 0x73, 0x10200073, 0x12000073
SUPERPAGE = 1 << 21
USER_ALIAS = (PAGES_USER_CODE - PAGES_CODE) * PAGE
WRITABLE_ALIAS = (PAGES_WRITABLE_CODE - PAGES_CODE) * PAGE


def _used(g: Chance) -> int:
    """A and D, both set three times in four."""
    return A | D if g.bits(2) else g.pick((0, A))


def _junk(g: Chance, slot: int, page: int) -> int:
    """A page table entry of level 0: mostly of a data page, with any flags. Only odd ones may be executed."""
    where = g.randrange(16)
    physical = slot + DATA + PAGE * (page & 1)
    if where == 0:
        physical = NOWHERE
    elif where == 1:
        physical = 1 << 50
    reserved = 1 << g.randrange(54, 64) if where == 2 else 0
    flags = (g.bits(8) | V | (R if where > 6 else 0)) & (0xFF if page & 1 else ~X)
    if where == 3:
        flags = flags & ~(R | W | X) | V  # a pointer, below the last level
    return reserved | physical >> 12 << 10 | flags | g.bits(2) << 8


def tables(g: Chance, slot: int) -> dict[int, bytes]:
    """Contents of the three pages, by their offset in the slot."""
    leaf = physical_leaf
    root, level1, level0 = [0] * 512, [0] * 512, [0] * 512
    root[1] = leaf(slot + LEVEL1, V)
    root[2] = leaf(RAM_BASE, V | R | W | X | A | D)
    root[3] = leaf(RAM_BASE + PAGE, V | R | W | X | A | D)
    level1[0] = leaf(slot + LEVEL0, V)
    level1[1] = leaf(slot & -SUPERPAGE, V | R | g.pick((W, W | X, 0)) | g.pick((0, 0, U)) | _used(g))
    bad = [
        leaf(RAM_BASE + PAGE, V | R | W | A | D), leaf(slot + LEVEL0, V | g.pick((A, D, U))),
        leaf(slot + LEVEL0, V) | 1 << g.randrange(54, 64), leaf(slot & -SUPERPAGE, V | W | g.pick((0, X)) | A | D),
    ]  # fmt: skip
    level1[2 : 2 + len(bad)] = bad
    assert len(bad) == len(BAD_TABLES)
    for page in (0, 1):
        code, data = slot + CODE + page * PAGE, slot + DATA + page * PAGE
        level0[PAGES_CODE + page] = leaf(code, V | R | X | _used(g))
        level0[PAGES_USER_CODE + page] = leaf(code, V | g.pick((R | X, R | X, X)) | U | _used(g))
        level0[PAGES_WRITABLE_CODE + page] = leaf(code, V | R | W | _used(g))
        level0[PAGES_DATA + page] = leaf(data, V | R | W | g.pick((0, 0, 0, U)) | _used(g))
        level0[PAGES_USER_DATA + page] = leaf(data, V | R | g.pick((W, W, 0)) | U | _used(g))
    if g.odds(8):
        level0[PAGES_CODE + 1] ^= g.pick((V, X, U, A))
    if g.odds(6):
        level0[PAGES_USER_CODE + g.bits(1)] ^= g.pick((V, X, U))
    if g.odds(6):
        level0[PAGES_DATA + g.bits(1)] ^= g.pick((V, W, R | W, A, D))
    level0[PAGE_TABLE] = leaf(slot + LEVEL0, V | R | W | A | D)
    for page in range(PAGES_JUNK, PAGES_JUNK_END):
        level0[page] = _junk(g, slot, page)
    return {
        at: b"".join(entry.to_bytes(8, "little") for entry in entries)
        for at, entries in ((ROOT, root), (LEVEL1, level1), (LEVEL0, level0))
    }


def physical_leaf(physical: int, flags: int) -> int:
    return physical >> 12 << 10 | flags


def _resume_at(distance: int) -> bytes:
    """The handler's way out: `distance` behind the first byte of this."""
    slot = load_number(7, HEADER) + word(i_type(0x03, 3, 7, 7, HEADER_RUNNING))
    to = words(u_type(AUIPC, 6, 0), addi(6, 6, distance - len(slot)), s_type(0x23, 3, 7, 6, Control.RESUME))
    return slot + to


RESUME_BYTES = len(_resume_at(0))


def excursion(g: Chance, emit: Emit) -> bytes:
    """Into user mode, some instructions there, and back by an environment call."""
    g.user = True
    body = b"".join(emit(g) for _ in range(g.randrange(1, 8))) + word(ECALL)
    g.user = False
    alias = words(u_type(LUI, 6, USER_ALIAS >> 12), r_type(0x33, 0, 0, 5, 5, 6)) if g.paged else b""
    leave = alias + word(csr(1, 0, SEPC, 5)) + load_number(6, SPP | g.bits(1) * SPIE)
    leave += words(csr(3, 0, SSTATUS, 6), SRET)
    go = words(u_type(AUIPC, 5, 0), addi(5, 5, 8 + len(leave)))
    return _resume_at(RESUME_BYTES + len(go + leave + body)) + go + leave + body


def fetch(g: Chance) -> bytes:
    """A jump to where there may be no code: data pages have a return at LANDING."""
    if not g.paged:
        target = word(addi(5, 18, 4 * g.bits(4)))
    elif g.odds(3):
        value, shift = g.pick(((1, 40), (3, 30), (5, 30), (-1, 12), (-1, 38), (1, 38)))
        target = words(addi(5, 0, value), i_type(OP_IMM, 1, 5, 5, shift))
    elif g.odds(4):
        target = word(u_type(LUI, 5, g.pick(BAD_TABLES)))
    else:
        page = g.randrange(PAGES_JUNK, PAGES_JUNK_END) | 1
        target = words(u_type(LUI, 5, (VIRTUAL + PAGE * (page + 1)) >> 12), addi(5, 5, LANDING - PAGE))
    jump = word(i_type(0x67, 0, 1, 5, 0))
    if g.user:
        return target + jump
    target += word(SFENCE_ALL) + jump  # the fence is for the reference's sake, see `deviations`
    return _resume_at(RESUME_BYTES + len(target)) + target


def entry(g: Chance) -> bytes:
    """Flags of a page table entry change, the fence that makes it so, and an access that meets it."""
    if not g.paged or g.user:
        return word(any_access(g, 8, offset(g, 3)))
    page = g.pick((*range(PAGES_JUNK, PAGES_JUNK_END), PAGES_DATA, PAGES_DATA + 1, PAGES_USER_DATA, PAGES_CODE + 1))
    f3 = g.pick((4, 6, 7))  # xori, ori, andi
    flags = g.pick(FLIPS) if f3 == 4 else g.pick((*SETS, X)) if f3 == 6 else ~g.pick(SETS)
    if flags & X and page >= PAGES_JUNK:
        page |= 1
    g.whole |= page == PAGES_CODE + 1  # what ends its block must not lie on that page itself
    fence = 0x09 << 25 | 0x73 | g.pick((0, 5)) << 15
    return words(
        u_type(LUI, 5, (VIRTUAL >> 12) + PAGE_TABLE), i_type(0x03, 3, 6, 5, 8 * page),
        i_type(OP_IMM, f3, 6, 6, flags), s_type(0x23, 3, 5, 6, 8 * page),
        u_type(LUI, 5, (VIRTUAL >> 12) + page), fence, _meeting(g, page),
        addi(6, 0, 0),
    )  # fmt: skip


def _meeting(g: Chance, page: int) -> int:
    """An access to that page; where it holds code, the end of a block, see `deviations`."""
    return any_access(g, 5, g.randrange(0x7F0)) if page != PAGES_CODE + 1 else FENCE_I


def patch(g: Chance) -> bytes:
    """An instruction that is overwritten after it ran once: at its own address, or through an alias if paged."""
    if g.user:
        return word(FENCE_I)
    kept, g.kept = g.kept, (*g.kept, 5, 6, 7)
    old, new = (full_arithmetic(g) for _ in range(2))
    g.kept = kept
    alias = words(u_type(LUI, 6, WRITABLE_ALIAS >> 12), r_type(0x33, 0, 0, 5, 5, 6)) if g.paged else b""
    write = words(u_type(AUIPC, 5, 0), addi(5, 5, -4)) + alias
    write += load_number(6, int.from_bytes(new, "little")) + word(s_type(0x23, 2, 5, 6, 0))
    write += word(FENCE_I) if g.bits(2) else half(1)
    write += word(addi(7, 7, -1))
    return word(addi(7, 0, 2)) + old + write + word(b_type(1, 7, 0, -len(old + write)))
