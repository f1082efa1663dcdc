# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions that the engine alone would execute wrongly: reserved ones, those that need floats while they are off,
counters that are not there, writes of fcsr that do not say dirty. Each was found by `python -m tests.isa`.
"""

from __future__ import annotations

import pytest

from ftvm.hart import RAM_BASE
from tests.ftvm.asm import Asm
from tests.ftvm.test_hart_fault import ILLEGAL, LOG, A, FaultGuest, R, V, X, compressed


@pytest.mark.parametrize("word", [0x0000, 0x2001, 0x4002, 0x6001, 0x8000, 0x8002, 0x9C41])
def test_an_illegal_instruction_at_the_start_of_a_page_is_just_that(word: int) -> None:
    """Though nothing is mapped before it: the engine gives some of these no length, and looks one byte back."""
    fault = FaultGuest()
    virtual = 0x4000_5000
    fault.tables.map(virtual, RAM_BASE + 0x5_0000, V | R | X | A)
    for _ in range(2):
        fault.code.li("t0", virtual)
        fault.code.jalr("ra", 0, "t0")
    there = Asm(virtual)
    there.half(word)
    there.half(0x0001)
    there.ret()
    fault.guest.hart.load_ram(0x5_0000, there.image())
    assert fault.run() == [(ILLEGAL, word, virtual)] * 2


def test_reserved_compressed_instructions_are_illegal() -> None:
    """The engine takes quadrant 0, function 4 and two neighbours of c.addw for instructions that do nothing."""
    fault = FaultGuest()
    sites = []
    for word in (0x8000, 0x9FFC, 0x9C41, 0x9C61, 0x9FFD):
        sites.append((ILLEGAL, word, fault.code.here))
        compressed(word)(fault.code)
    assert fault.run() == sites


@pytest.mark.parametrize("function", [1, 2, 3, 5, 6, 7])
def test_counters_that_the_machine_lacks_are_illegal(function: int) -> None:
    fault = FaultGuest()
    sites = []
    for csr in (0xC03, 0xC10, 0xC1F):
        word = csr << 20 | function << 12 | 9 << 7 | 0x73
        sites.append((ILLEGAL, word, fault.code.here))
        fault.code.word(word)
    assert fault.run() == sites


def test_no_float_instruction_runs_while_floats_are_off() -> None:
    """fsgnj.d, c.fld, c.fsd, c.fldsp, c.fsdsp: the engine executes these, or skips them."""
    fault = FaultGuest()
    code = fault.code
    code.li("s0", LOG + 0x800)
    code.mv("sp", "s0")
    words = [0x2220_8053, 0x2220_9053, 0x2220_A053, 0x2000, 0xA000, 0x2002, 0xA002]

    def each() -> list[tuple[int, int, int]]:
        sites = []
        for word in words:
            sites.append((ILLEGAL, word, code.here))
            if word & 3 == 3:
                code.word(word)
            else:
                compressed(word)(code)
        return sites

    each()
    code.li("t0", 3 << 13)
    code.csrc("sstatus", "t0")
    sites = each()
    code.li("t0", 3 << 13)
    code.csrs("sstatus", "t0")
    each()
    assert fault.run() == sites


@pytest.mark.parametrize("status", [1, 2])
@pytest.mark.parametrize("csr", [1, 2, 3])
@pytest.mark.parametrize("function", [1, 2, 3, 5, 6, 7])
def test_writing_the_float_csrs_says_dirty_in_both_ways(status: int, csr: int, function: int) -> None:
    """FS and SD: a kernel that looks at SD only must not lose what a program changed. Reading leaves them alone."""
    for source in (0, 6):
        fault = FaultGuest()
        code = fault.code
        code.li("t0", 3 << 13)
        code.csrc("sstatus", "t0")
        code.li("t0", status << 13)
        code.csrs("sstatus", "t0")
        code.li("t1", 1)
        code.word(csr << 20 | source << 15 | function << 12 | 9 << 7 | 0x73)
        code.csrr("s2", "sstatus")
        assert fault.run() == []
        dirty = source != 0 or function & 3 == 1
        assert (fault.guest.x(18) >> 13 & 3, fault.guest.x(18) >> 63) == ((3, 1) if dirty else (status, 0))
