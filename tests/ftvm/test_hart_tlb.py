# SPDX-License-Identifier: GPL-2.0-or-later
"""The TLB is never older than the page tables, also for a guest that changes them without sfence.vma.

Such a guest may see the old translation or the new one, says the specification; the engine would show it one or the
other by the clock of its host, since its TLB changes its size with time. Here it sees the new one, always: two replicas
agree, and so do a machine and its restored copy.
"""

from __future__ import annotations

import random

import pytest

from ftvm.hart import RAM_BASE, StopReason
from tests.ftvm.asm import Asm
from tests.ftvm.guest import MIB, UART, Guest, PageTables, shutdown

V, R, W, X, U, A, D = PageTables.V, PageTables.R, PageTables.W, PageTables.X, PageTables.U, PageTables.A, PageTables.D
ROOT = RAM_BASE + 2 * MIB
ONE, OTHER = RAM_BASE + 0x10_0000, RAM_BASE + 0x11_0000  # pages with different contents
VIRTUAL = 0x4000_0000
FULL = V | R | W | X | A | D


class Paged:
    """A guest with paging on: RAM mapped one to one, and VIRTUAL mapped to ONE; code goes to `code`."""

    def __init__(self) -> None:
        self.guest = Guest()
        self.tables = PageTables(self.guest, ROOT)
        self.tables.map(RAM_BASE, RAM_BASE, FULL, 2)
        self.tables.map(UART & ~0x1F_FFFF, UART & ~0x1F_FFFF, V | R | W | A | D, 1)
        self.tables.map(VIRTUAL, ONE, FULL)
        self.entry = self.tables.entry_address(VIRTUAL)
        for page, value in ((ONE, 1), (OTHER, 2)):
            self.guest.hart.load_ram(page - RAM_BASE, value.to_bytes(8, "little") * 512)
        self.code = Asm(RAM_BASE)
        self.code.la("t0", "handler")
        self.code.csrw("stvec", "t0")
        self.code.li("t0", self.tables.satp)
        self.code.csrw("satp", "t0")
        self.code.sfence_vma()
        self.code.li("s0", VIRTUAL)
        self.code.li("s1", self.entry)
        self.code.li("s10", 0)

    def finish(self) -> Guest:
        """Ends the code, with a handler that keeps the last cause in s10, and runs it."""
        code = self.code
        shutdown(code)
        code.align(4)
        code.label("handler")
        code.csrr("s10", "scause")
        code.csrr("t6", "sepc")
        code.addi("t6", "t6", 4)
        code.csrw("sepc", "t6")
        code.sret()
        self.guest.load(code)
        self.guest.finish()
        return self.guest


def entry(page: int, flags: int = FULL) -> int:
    return page >> 12 << 10 | flags


def test_a_changed_leaf_is_seen_at_once() -> None:
    """Loads before and after a store to the page table, in one block."""
    paged = Paged()
    code = paged.code
    code.ld("s2", 0, "s0")
    code.li("t1", entry(OTHER))
    code.sd("t1", 0, "s1")
    code.ld("s3", 0, "s0")
    guest = paged.finish()
    assert (guest.x(18), guest.x(19)) == (1, 2)


@pytest.mark.parametrize(("flags", "cause"), [(0, 13), (V | R | X | A | D, 15), (V | X | A | D, 13)])
def test_a_permission_taken_away_is_gone_at_once(flags: int, cause: int) -> None:
    """Also for a store that the TLB had allowed."""
    paged = Paged()
    code = paged.code
    code.sd("zero", 8, "s0")
    code.ld("s2", 0, "s0")
    code.li("t1", entry(ONE, flags))
    code.sd("t1", 0, "s1")
    if cause == 13:
        code.ld("s3", 0, "s0")
    else:
        code.sd("s0", 0, "s0")
    guest = paged.finish()
    assert guest.x(26) == cause
    assert guest.words(ONE, 1) == [1]


def test_a_changed_pointer_to_a_table_is_seen_at_once() -> None:
    """An upper level: it points to another table now."""
    paged = Paged()
    second = ROOT + 0x8_0000
    paged.guest.hart.load_ram(second - RAM_BASE, entry(OTHER).to_bytes(8, "little"))
    code = paged.code
    code.ld("s2", 0, "s0")
    code.li("t0", paged.tables.entry_address(VIRTUAL, 1))
    code.li("t1", entry(second, V))
    code.sd("t1", 0, "t0")
    code.ld("s3", 0, "s0")
    guest = paged.finish()
    assert (guest.x(18), guest.x(19)) == (1, 2)


def test_a_table_is_changed_again_and_again() -> None:
    """A thousand rounds; between them the table's page loses and wins its permission to be written."""
    paged = Paged()
    code = paged.code
    code.li("s2", 1000)
    code.li("s3", entry(ONE))
    code.li("s4", entry(ONE) ^ entry(OTHER))
    code.li("s5", 0)
    code.label("again")
    code.xor("s3", "s3", "s4")
    code.sd("s3", 0, "s1")
    code.ld("t2", 0, "s0")
    code.add("s5", "s5", "t2")
    code.addi("s2", "s2", -1)
    code.bnez("s2", "again")
    guest = paged.finish()
    assert guest.x(21) == 500 * 1 + 500 * 2


def test_what_a_device_writes_into_a_table_is_seen_from_the_next_block_on() -> None:
    paged = Paged()
    guest = paged.guest

    def device(address: int, size: int, value: int) -> None:
        offset = paged.entry - RAM_BASE
        guest.hart.writes(paged.entry, 8)
        guest.hart.ram[offset : offset + 8] = entry(OTHER).to_bytes(8, "little")

    guest.on_write = device
    code = paged.code
    code.ld("s2", 0, "s0")
    code.li("t0", UART)
    code.sw("zero", 0, "t0")
    code.j("next")
    code.label("next")
    code.ld("s3", 0, "s0")
    paged.finish()
    assert (guest.x(18), guest.x(19)) == (1, 2)


def test_a_cleared_accessed_bit_is_set_again() -> None:
    """What Linux does under memory pressure: it looks, without sfence.vma, which pages were used since last time."""
    paged = Paged()
    code = paged.code
    code.li("s2", 50)
    code.li("s5", 0)
    code.li("s6", A)
    code.li("s7", ~A)
    code.label("again")
    code.amoand_d("zero", "s7", "s1")
    code.ld("t2", 0, "s0")
    code.ld("t3", 0, "s1")
    code.and_("t3", "t3", "s6")
    code.add("s5", "s5", "t3")
    code.addi("s2", "s2", -1)
    code.bnez("s2", "again")
    guest = paged.finish()
    assert guest.x(21) == 50 * A


def test_a_page_that_maps_itself_can_be_written() -> None:
    """The table is written through its own entry; the change holds from the next block on."""
    paged = Paged()
    paged.tables.map(VIRTUAL + 0x1000, paged.entry & ~0xFFF, FULL)
    code = paged.code
    code.li("s3", VIRTUAL + 0x1000 + (paged.entry & 0xFFF))
    code.li("s2", 100)
    code.li("s4", entry(ONE) ^ entry(OTHER))
    code.li("s5", 0)
    code.label("again")
    code.ld("t1", 0, "s3")
    code.xor("t1", "t1", "s4")
    code.sd("t1", 0, "s3")
    code.j("next")
    code.label("next")
    code.ld("t2", 0, "s0")
    code.add("s5", "s5", "t2")
    code.addi("s2", "s2", -1)
    code.bnez("s2", "again")
    guest = paged.finish()
    assert guest.x(21) == 50 * 1 + 50 * 2


def test_a_changed_satp_is_in_force_at_once() -> None:
    """The engine keeps its TLB when only the table's place changes."""
    paged = Paged()
    tables = PageTables(paged.guest, RAM_BASE + 3 * MIB)
    tables.map(RAM_BASE, RAM_BASE, FULL, 2)
    tables.map(VIRTUAL, OTHER, FULL)
    code = paged.code
    code.ld("s2", 0, "s0")
    code.li("t0", tables.satp)
    code.csrw("satp", "t0")
    code.ld("s3", 0, "s0")
    code.li("t0", paged.tables.satp ^ tables.satp)
    code.csrrc("zero", "satp", "t0")
    code.li("t0", paged.tables.satp)
    code.csrrs("zero", "satp", "t0")
    code.ld("s4", 0, "s0")
    guest = paged.finish()
    assert (guest.x(18), guest.x(19), guest.x(20)) == (1, 2, 1)


def test_paging_that_is_switched_off_is_off() -> None:
    """And on again: translations of one are not those of the other."""
    paged = Paged()
    code = paged.code
    code.li("s4", paged.tables.satp)
    code.li("s5", 0)
    code.li("s6", 20)
    code.label("again")
    code.ld("t2", 0, "s0")
    code.add("s5", "s5", "t2")
    code.csrw("satp", "zero")
    code.ld("t2", 0, "s0")  # VIRTUAL is nothing without paging
    code.csrw("satp", "s4")
    code.addi("s6", "s6", -1)
    code.bnez("s6", "again")
    guest = paged.finish()
    assert guest.x(21) == 20
    assert guest.x(26) == 5


@pytest.mark.parametrize("seed", range(6))
def test_flushes_of_the_tlb_never_show(seed: int) -> None:
    """Random changes of tables and of satp without any sfence.vma; one hart's TLB is flushed after every few blocks."""
    ends = []
    for flush in (False, True):
        chance = random.Random(seed)
        paged = Paged()
        pages = [ONE, OTHER, *(RAM_BASE + 0x12_0000 + 0x1000 * n for n in range(6))]
        for n in range(8):
            paged.tables.map(VIRTUAL + 0x1000 * n, pages[n], FULL)
        code = paged.code
        code.li("s11", 30)
        code.label("again")
        for _ in range(40):
            kind = chance.randrange(6)
            virtual, page = VIRTUAL + 0x1000 * chance.randrange(8), chance.choice(pages)
            if kind < 2:
                code.li("t0", paged.tables.entry_address(virtual))
                code.li("t1", entry(page, chance.choice((FULL, FULL, FULL & ~D, FULL & ~(A | D), V | R, 0))))
                code.sd("t1", 0, "t0")
            elif kind < 4:
                code.li("t0", virtual + 8 * chance.randrange(512))
                code.ld("t1", 0, "t0")
                code.add("s5", "s5", "t1")
            elif kind == 4:
                code.li("t0", virtual + 8 * chance.randrange(512))
                code.sd("s5", 0, "t0")
            else:
                code.li("t0", chance.choice((0, paged.tables.satp)))
                code.csrw("satp", "t0")
        code.li("t0", paged.tables.satp)
        code.csrw("satp", "t0")
        code.addi("s11", "s11", -1)
        code.bnez("s11", "far")
        code.j("end")
        code.label("far")
        code.la("t0", "again")
        code.jalr("zero", 0, "t0")
        code.label("end")
        shutdown(code)
        code.align(4)
        code.label("handler")
        code.addi("s9", "s9", 1)
        code.csrr("t6", "sepc")
        code.addi("t6", "t6", 4)
        code.csrw("sepc", "t6")
        code.sret()
        guest = paged.guest
        guest.load(code)
        while guest.run(500) != StopReason.STOPPED:
            assert guest.hart.error == ""
            if flush:
                guest.hart.clear_dirty()
        ends.append((guest.registers(), bytes(guest.hart.ram)))
    assert ends[0] == ends[1]
    assert ends[0][0]["x25"] > 50  # s9: that many accesses were refused
