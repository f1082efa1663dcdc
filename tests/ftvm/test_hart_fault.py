# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps are precise: cause, stval and sepc of every kind of fault, and what sstatus says of where it came from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ftvm.hart import RAM_BASE
from tests.ftvm.asm import Asm
from tests.ftvm.guest import Guest, PageTables, shutdown

V, R, W, X, U, A, D = PageTables.V, PageTables.R, PageTables.W, PageTables.X, PageTables.U, PageTables.A, PageTables.D
LOG = RAM_BASE + 0x10_0000
ILLEGAL, BREAKPOINT = 2, 3
LOAD_MISALIGNED, STORE_MISALIGNED, LOAD_ACCESS, STORE_ACCESS, FETCH_ACCESS = 4, 6, 5, 7, 1
ECALL_USER, FETCH_PAGE, LOAD_PAGE, STORE_PAGE = 8, 12, 13, 15
NOWHERE = 0x4001_0120  # not mapped, but its neighbours of the same page table may be
SUM, MXR = 1 << 18, 1 << 19


class FaultGuest:
    """Runs instructions that fault under page tables; a handler logs (scause, stval, sepc) and skips four bytes.

    After a fetch fault the handler returns to ra.
    """

    def __init__(self) -> None:
        self.guest = Guest()
        self.code = Asm(RAM_BASE)
        self.tables = PageTables(self.guest, RAM_BASE + 0x20_0000)
        for page in range(16):
            address = RAM_BASE + page * 4096
            self.tables.map(address, address, V | R | X | A)
        self.tables.map(LOG, LOG, V | R | W | A | D)
        code = self.code
        code.la("t0", "handler")
        code.csrw("stvec", "t0")
        code.li("s11", LOG)
        code.li("t0", self.tables.satp)
        code.csrw("satp", "t0")
        code.sfence_vma()
        code.li("t0", 3 << 13)
        code.csrs("sstatus", "t0")  # floating point on

    def run(self) -> list[tuple[int, int, int]]:
        code = self.code
        shutdown(code)
        code.align(4)
        code.label("handler")
        code.csrr("t5", "scause")
        code.sd("t5", 0, "s11")
        code.csrr("t6", "stval")
        code.sd("t6", 8, "s11")
        code.csrr("t6", "sepc")
        code.sd("t6", 16, "s11")
        code.addi("s11", "s11", 24)
        code.addi("t6", "t6", 4)
        code.addi("t5", "t5", -FETCH_PAGE)
        code.beqz("t5", "to_ra")
        code.addi("t5", "t5", FETCH_PAGE - FETCH_ACCESS)
        code.beqz("t5", "to_ra")
        code.csrw("sepc", "t6")
        code.sret()
        code.label("to_ra")
        code.csrw("sepc", "ra")
        code.sret()
        self.guest.load(code)
        self.guest.finish()
        count = (self.guest.x(27) - LOG) // 24
        words = self.guest.words(LOG, 3 * count)
        return [(words[i], words[i + 1], words[i + 2]) for i in range(0, 3 * count, 3)]


def compressed(word: int) -> Callable[[Asm], None]:
    def emit(code: Asm) -> None:
        code.half(word)
        code.half(0x0001)  # c.nop

    return emit


def c_register(function: int, offset: int, width: int) -> int:
    """c.lw/c.ld/c.sw/c.sd/c.fld/c.fsd of a4 (or f14) at offset(a5)."""
    low = (offset >> 2 & 1) << 6 | (offset >> 6 & 1) << 5 if width == 4 else (offset >> 6 & 3) << 5
    return function << 13 | (offset >> 3 & 7) << 10 | 7 << 7 | low | 6 << 2


def c_stack_load(function: int, offset: int, width: int) -> int:
    low = (
        (offset >> 2 & 7) << 4 | (offset >> 6 & 3) << 2
        if width == 4
        else (offset >> 3 & 3) << 5 | (offset >> 6 & 7) << 2
    )
    return function << 13 | (offset >> 5 & 1) << 12 | 14 << 7 | low | 2


def c_stack_store(function: int, offset: int, width: int) -> int:
    middle = (
        (offset >> 2 & 15) << 9 | (offset >> 6 & 3) << 7
        if width == 4
        else (offset >> 3 & 7) << 10 | (offset >> 6 & 7) << 7
    )
    return function << 13 | middle | 14 << 2 | 2


def plain(name: str, register: str, offset: int) -> Callable[[Asm], None]:
    return lambda code: getattr(code, name)(register, offset, "s0")


def atomic(name: str) -> Callable[[Asm], None]:
    return lambda code: getattr(code, name)("t1", "zero" if name.startswith("lr") else "t2", "s0")


FORMS: list[tuple[str, Callable[[Asm], None], int, int]] = [
    *((name, plain(name, "t1", offset), LOAD_PAGE, offset)
      for name, offset in (("lb", 3), ("lh", 6), ("lw", -4), ("ld", 16), ("lbu", -32), ("lhu", 2047), ("lwu", -2048))),
    *((name, plain(name, "t1", offset), STORE_PAGE, offset)
      for name, offset in (("sb", -1), ("sh", 8), ("sw", -2048), ("sd", 2040))),
    ("fld", plain("fld", "f3", 13), LOAD_PAGE, 13),
    ("fsd", plain("fsd", "f3", -16), STORE_PAGE, -16),
    ("ld into its base", lambda code: code.ld("s0", 24, "s0"), LOAD_PAGE, 24),
    ("amoadd.w", atomic("amoadd_w"), STORE_PAGE, 0),
    ("amoadd.d", atomic("amoadd_d"), STORE_PAGE, 0),
    ("amoswap.d", atomic("amoswap_d"), STORE_PAGE, 0),
    ("lr.w", atomic("lr_w"), LOAD_PAGE, 0),
    ("lr.d", atomic("lr_d"), LOAD_PAGE, 0),
    *((f"c.{name} {offset}", compressed(c_register(function, offset, width)), cause, offset)
      for name, function, width, cause in (
          ("fld", 1, 8, LOAD_PAGE), ("lw", 2, 4, LOAD_PAGE), ("ld", 3, 8, LOAD_PAGE),
          ("fsd", 5, 8, STORE_PAGE), ("sw", 6, 4, STORE_PAGE), ("sd", 7, 8, STORE_PAGE))
      for offset in ((0, 4, 40, 68, 124) if width == 4 else (0, 8, 64, 200, 248))),
    *((f"c.{name}sp {offset}", compressed(c_stack_load(function, offset, width)), LOAD_PAGE, offset)
      for name, function, width in (("fld", 1, 8), ("lw", 2, 4), ("ld", 3, 8))
      for offset in ((0, 4, 28, 100, 252) if width == 4 else (0, 8, 32, 200, 504))),
    *((f"c.{name}sp {offset}", compressed(c_stack_store(function, offset, width)), STORE_PAGE, offset)
      for name, function, width in (("fsd", 5, 8), ("sw", 6, 4), ("sd", 7, 8))
      for offset in ((0, 4, 60, 100, 252) if width == 4 else (0, 8, 56, 200, 504))),
]  # fmt: skip


def test_every_form_of_access_faults_with_its_own_address() -> None:
    fault = FaultGuest()
    code = fault.code
    expected = []
    for _, emit, cause, offset in FORMS:
        code.li("s0", NOWHERE)
        code.li("sp", NOWHERE)
        code.li("a5", NOWHERE)
        expected.append((cause, NOWHERE + offset, code.here))
        emit(code)
    found = fault.run()
    for (name, *_), want, got in zip(FORMS, expected, found, strict=True):
        assert got == want, name


def test_an_access_across_two_pages_faults_with_the_first_missing_byte() -> None:
    fault = FaultGuest()
    base = 0x4000_5000
    fault.tables.map(base, RAM_BASE + 0x5_0000, V | R | W)
    fault.code.li("s0", base + 0xFFC)
    sites = []
    for name in ("ld", "sd"):
        sites.append(fault.code.here)
        getattr(fault.code, name)("t1", 0, "s0")
    fault.code.li("s0", base - 4)
    for name in ("ld", "sd"):
        sites.append(fault.code.here)
        getattr(fault.code, name)("t1", 0, "s0")
    assert fault.run() == [
        (LOAD_PAGE, base + 4096, sites[0]),
        (STORE_PAGE, base + 4096, sites[1]),
        (LOAD_PAGE, base - 4, sites[2]),
        (STORE_PAGE, base - 4, sites[3]),
    ]


def test_writing_to_code_and_running_data_fault() -> None:
    fault = FaultGuest()
    rx, rw = 0x4000_1000, 0x4000_2000
    fault.tables.map(rx, RAM_BASE + 0x5_0000, V | R | X)
    fault.tables.map(rw, RAM_BASE + 0x5_1000, V | R | W)
    code = fault.code
    code.li("s0", rx + 16)
    site = code.here
    code.sw("t1", 0, "s0")
    code.li("t0", rw + 4)
    code.jalr("ra", 0, "t0")
    code.li("t0", NOWHERE)
    code.jalr("ra", 0, "t0")
    assert fault.run() == [
        (STORE_PAGE, rx + 16, site),
        (FETCH_PAGE, rw + 4, rw + 4),
        (FETCH_PAGE, NOWHERE, NOWHERE),
    ]


def test_an_instruction_whose_second_half_cannot_be_fetched_faults_after_those_before_it() -> None:
    fault = FaultGuest()
    virtual = 0x4000_5000
    fault.tables.map(virtual, RAM_BASE + 0x5_0000, V | R | X)
    code = fault.code
    code.li("s1", 0)
    code.li("t0", virtual + 0xFFA)
    code.jalr("ra", 0, "t0")
    code.li("t0", virtual + 0xFFE)
    code.jalr("ra", 0, "t0")
    straddling = Asm(virtual + 0xFFA)
    straddling.addi("s1", "s1", 1)
    straddling.word(0x0000_0013)
    fault.guest.hart.load_ram(0x5_0FFA, straddling.image()[:6])
    assert fault.run() == [
        (FETCH_PAGE, virtual + 0x1000, virtual + 0xFFE),
        (FETCH_PAGE, virtual + 0x1000, virtual + 0xFFE),
    ]
    assert fault.guest.x(9) == 1


def brought_in(budget: int) -> Guest:
    """Three rounds over an instruction across two pages, the second of which the handler maps when it is missed."""
    guest = Guest()
    tables = PageTables(guest, RAM_BASE + 0x20_0000)
    virtual = 0x4000_5000
    tables.map(RAM_BASE, RAM_BASE, V | R | X | A)
    tables.map(LOG, LOG, V | R | W | A | D)
    tables.map(LOG + 4096, tables.entry_address(virtual + 4096) & ~0xFFF, V | R | W | A | D)
    tables.map(virtual, RAM_BASE + 0x5_0000, V | R | X | A)
    second = (RAM_BASE + 0x5_1000) >> 12 << 10 | V | R | X | A
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", tables.satp)
    code.csrw("satp", "t0")
    code.sfence_vma()
    code.li("s3", 3)
    code.label("round")
    code.li("t0", virtual + 0xFF0)
    code.jalr("ra", 0, "t0")
    code.addi("s3", "s3", -1)
    code.bnez("s3", "round")
    shutdown(code)
    code.align(4)
    code.label("handler")
    code.addi("s4", "s4", 1)
    code.csrr("s5", "sepc")
    code.li("t0", second)
    code.li("t1", LOG + 4096 + (tables.entry_address(virtual + 4096) & 0xFFF))
    code.sd("t0", 0, "t1")
    code.sfence_vma()
    code.sret()
    inside = Asm(virtual + 0xFF0)
    for _ in range(3):
        inside.addi("s1", "s1", 1)
    inside.half(0x0001)
    inside.addi("s2", "s2", 1)  # across the two pages
    inside.ret()
    image = inside.image()
    guest.hart.load_ram(0x5_0FF0, image[:16])
    guest.hart.load_ram(0x5_1000, image[16:])
    guest.load(code)
    while not guest.calls:
        guest.run(budget)
    return guest


def test_a_page_brought_in_for_a_second_half_lets_the_code_go_on() -> None:
    """What was translated up to that instruction only is forgotten: the next round runs through, however it is cut."""
    guests = [brought_in(budget) for budget in (1, 7, 20, 1_000_000)]
    for guest in guests:
        assert (guest.x(9), guest.x(18), guest.x(20), guest.x(21)) == (9, 3, 1, 0x4000_5FFE)
    assert len({guest.hart.clock for guest in guests}) == 1


def test_a_read_modify_write_needs_the_right_to_write_before_the_memory_need_be_there() -> None:
    """Where there is no memory, on a page that may only be read: a page fault, as on a page that may be written not."""
    fault = FaultGuest()
    nowhere = 0xF000_0000
    fault.tables.map(0x4000_5000, nowhere, V | R | A)
    fault.tables.map(0x4000_6000, nowhere, V | R | W | A | D)
    code, sites = fault.code, []
    for address, cause in ((0x4000_5008, STORE_PAGE), (0x4000_6008, STORE_ACCESS)):
        code.li("s0", address)
        sites.append((cause, address, code.here))
        code.amoadd_d("t1", "t2", "s0")
    assert fault.run() == sites


def test_sum_and_mxr_decide() -> None:
    fault = FaultGuest()
    user, only_x = 0x4000_7000, 0x4000_8000
    fault.tables.map(user, RAM_BASE + 0x5_0000, V | R | W | X | U | A | D)
    fault.tables.map(only_x, RAM_BASE + 0x5_1000, V | X | A)
    code = fault.code
    sites = []

    def touch(address: int) -> None:
        code.li("s0", address)
        sites.append(code.here)
        code.ld("t2", 0, "s0")

    code.li("s1", SUM)
    code.li("s2", MXR)
    touch(user + 8)
    code.csrs("sstatus", "s1")
    touch(user + 16)
    code.li("t0", user)
    code.jalr("ra", 0, "t0")  # never for a supervisor
    code.csrc("sstatus", "s1")
    touch(user + 24)
    touch(only_x + 8)
    code.csrs("sstatus", "s2")
    touch(only_x + 16)
    code.csrc("sstatus", "s2")
    touch(only_x + 24)
    assert fault.run() == [
        (LOAD_PAGE, user + 8, sites[0]),
        (FETCH_PAGE, user, user),
        (LOAD_PAGE, user + 24, sites[2]),
        (LOAD_PAGE, only_x + 8, sites[3]),
        (LOAD_PAGE, only_x + 24, sites[5]),
    ]


@pytest.mark.parametrize(
    ("flags", "level", "extra"),
    [
        (V | W | A | D, 0, 0),
        (V | W | X | A | D, 0, 0),
        (R | W | A | D, 0, 0),
        (V | R | W | A | D, 0, 1 << 54),
        (V | R | W | A | D, 0, 1 << 63),
        (V | R | W | A | D, 1, 0x1000),  # a superpage that is not aligned
        (V | A, 1, 0),  # a pointer to a table, with A set
    ],
)
def test_reserved_entries_fault(flags: int, level: int, extra: int) -> None:
    fault = FaultGuest()
    virtual = 0x5000_0000
    fault.tables.map(virtual, RAM_BASE + (extra if level else 0), flags, level)
    if not level:
        address = fault.tables.entry_address(virtual)
        entry = int.from_bytes(fault.guest.hart.ram[address - RAM_BASE : address - RAM_BASE + 8], "little") | extra
        fault.guest.hart.load_ram(address - RAM_BASE, entry.to_bytes(8, "little"))
    fault.code.li("s0", virtual)
    site = fault.code.here
    fault.code.ld("t1", 0, "s0")
    assert fault.run() == [(LOAD_PAGE, virtual, site)]


@pytest.mark.parametrize("level", [1, 2])
def test_superpages_translate(level: int) -> None:
    fault = FaultGuest()
    fault.tables.map(0x1_4000_0000, RAM_BASE, V | R | W, level)
    fault.guest.hart.load_ram(0x12_3458, (0xFEED).to_bytes(8, "little"))
    fault.code.li("s0", 0x1_4012_3458)
    fault.code.ld("s1", 0, "s0")
    assert fault.run() == []
    assert fault.guest.x(9) == 0xFEED


def test_the_walker_sets_accessed_and_dirty() -> None:
    fault = FaultGuest()
    tables = fault.tables
    pages = {0x4000_1000: "ld", 0x4000_2000: "sd", 0x4000_3000: "", 0x4000_4000: "ld then sd"}
    for virtual in pages:
        tables.map(virtual, RAM_BASE + 0x5_0000, V | R | W)
    for virtual, uses in pages.items():
        fault.code.li("s0", virtual)
        for name in uses.replace("then", "").split():
            getattr(fault.code, name)("t1", 0, "s0")
    assert fault.run() == []
    flags = [fault.guest.words(tables.entry_address(virtual), 1)[0] & 0xFF for virtual in pages]
    assert flags == [V | R | W | A, V | R | W | A | D, V | R | W, V | R | W | A | D]


def test_addresses_without_memory_give_access_faults() -> None:
    fault = FaultGuest()
    fault.tables.map(0x4000_1000, 0x2000_0000, V | R | W | X | A | D)
    fault.tables.map(0x4000_2000, 0x1000_0000, V | R | W | X | A | D)
    fault.tables.map(0x4000_3000, 0xFF_FFFF_F000, V | R | W | X | A | D)
    fault.tables._put(fault.tables.entry_address(0x5000_0000, 1), 0x4000_0000 >> 12 << 10 | V)  # a table outside RAM
    code = fault.code
    sites = []
    for address in (0x4000_1010, 0x4000_3010, 0x5000_0000, 1 << 40):
        code.li("s0", address)
        sites.append(code.here)
        code.ld("t1", 0, "s0")
        sites.append(code.here)
        code.sd("t1", 0, "s0")
    for address in (0x4000_1010, 0x4000_2010):
        code.li("t0", address)
        code.jalr("ra", 0, "t0")
    assert fault.run() == [
        (LOAD_ACCESS, 0x4000_1010, sites[0]),
        (STORE_ACCESS, 0x4000_1010, sites[1]),
        (LOAD_ACCESS, 0x4000_3010, sites[2]),
        (STORE_ACCESS, 0x4000_3010, sites[3]),
        (LOAD_ACCESS, 0x5000_0000, sites[4]),
        (STORE_ACCESS, 0x5000_0000, sites[5]),
        (LOAD_PAGE, 1 << 40, sites[6]),
        (STORE_PAGE, 1 << 40, sites[7]),
        (FETCH_ACCESS, 0x4000_1010, 0x4000_1010),
        (FETCH_ACCESS, 0x4000_2010, 0x4000_2010),
    ]


def test_misaligned_atomics_fault() -> None:
    fault = FaultGuest()
    fault.tables.map(0x4000_1000, RAM_BASE + 0x5_0000, V | R | W)
    code = fault.code
    code.li("s0", 0x4000_1004)
    sites = []
    for name in ("amoadd_d", "lr_d"):
        sites.append(code.here)
        atomic(name)(code)
    assert fault.run() == [(STORE_MISALIGNED, 0x4000_1004, sites[0]), (LOAD_MISALIGNED, 0x4000_1004, sites[1])]


def test_illegal_instructions_show_themselves() -> None:
    fault = FaultGuest()
    code = fault.code
    words = [0xFFFF_FFFF, 0x3020_0073, 0x0020_0073, 0x3000_2373, 0x1220_0073 | 1 << 31]
    sites = []
    for word in words:
        sites.append(code.here)
        code.word(word)
    sites.append(code.here)
    compressed(0x0000)(code)
    sites.append(code.here)
    compressed(0x8002)(code)  # c.jr zero
    assert fault.run() == [(ILLEGAL, word, site) for word, site in zip([*words, 0, 0x8002], sites, strict=True)]


def test_breakpoints_of_both_lengths_trap_and_go_on() -> None:
    fault = FaultGuest()
    code = fault.code
    sites = [code.here]
    code.ebreak()
    sites.append(code.here)
    compressed(0x9002)(code)
    code.li("s1", 5)
    assert fault.run() == [(BREAKPOINT, site, site) for site in sites]
    assert fault.guest.x(9) == 5


@pytest.mark.parametrize("csr", ["mstatus", "mscratch", "misa", "mhartid", 0x3A0, 0x7A0, 0x600, 0xABC])
def test_machine_registers_are_out_of_reach(csr: str | int) -> None:
    fault = FaultGuest()
    code = fault.code
    code.li("s1", 99)
    site = code.here
    code.csrr("s1", csr)
    found = fault.run()
    assert [(cause, epc) for cause, _, epc in found] == [(ILLEGAL, site)]
    assert fault.guest.x(9) == 99


def user_guest() -> tuple[FaultGuest, Asm]:
    """A guest that drops into user mode at 0x40000000, at the start of the returned code."""
    fault = FaultGuest()
    code = fault.code
    user = Asm(0x4000_0000)
    fault.tables.map(0x4000_0000, RAM_BASE + 0x5_0000, V | R | X | U | A)
    code.la("t0", "in_trap")
    code.csrw("stvec", "t0")
    code.li("t0", user.base)
    code.csrw("sepc", "t0")
    code.li("t0", 1 << 8)
    code.csrc("sstatus", "t0")
    code.sret()
    code.align(4)
    code.label("in_trap")
    for register, csr in (("s3", "scause"), ("s4", "stval"), ("s5", "sepc"), ("s6", "sstatus")):
        code.csrr(register, csr)
    return fault, user


@pytest.mark.parametrize(
    ("emit", "cause", "value"),
    [
        (lambda code: code.ecall(), ECALL_USER, 0),
        (lambda code: code.csrr("t1", "sstatus"), ILLEGAL, 0x1000_2373),
        (lambda code: code.csrw("satp", "t1"), ILLEGAL, 0x1803_1073),
        (lambda code: code.wfi(), ILLEGAL, 0x1050_0073),
        (lambda code: code.sret(), ILLEGAL, 0x1020_0073),
        (lambda code: code.sfence_vma(), ILLEGAL, 0x1200_0073),
        (lambda code: code.ld("t1", 0, "s11"), LOAD_PAGE, LOG),
        (lambda code: code.ebreak(), BREAKPOINT, 0x4000_0004),
    ],
)
def test_user_mode_traps_into_the_supervisor(emit: Callable[[Asm], None], cause: int, value: int) -> None:
    fault, user = user_guest()
    user.nop()
    emit(user)
    fault.guest.hart.load_ram(0x5_0000, user.image())
    assert fault.run() == []
    registers = fault.guest.registers()
    assert (registers["x19"], registers["x20"], registers["x21"]) == (cause, value, 0x4000_0004)
    assert not registers["x22"] & 1 << 8  # came from user mode


def test_without_paging_the_whole_of_memory_is_there_and_nothing_else() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("s0", 0x5A5A_0000_8000_0000)  # where the core removes translations: nothing for a guest
    code.ld("s1", 0, "s0")
    code.label("handler")
    code.csrr("s2", "scause")
    code.csrr("s3", "stval")
    shutdown(code)
    guest.load(code)
    guest.finish()
    assert (guest.x(18), guest.x(19)) == (LOAD_ACCESS, 0x5A5A_0000_8000_0000)
