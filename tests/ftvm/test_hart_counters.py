# SPDX-License-Identifier: GPL-2.0-or-later
"""cycle, instret and time come from the clock, never from the host, wherever and however the instruction got there.

The bare engine answers cycle and instret with the host's time stamp counter: two runs of one guest would differ.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from ftvm.hart import RAM_BASE
from tests.ftvm.asm import Asm, i_type
from tests.ftvm.guest import Guest, PageTables, shutdown
from tests.ftvm.test_hart_fault import ILLEGAL, FaultGuest, user_guest
from tests.ftvm.test_hart_translation import ALIAS, EXEC, RET, RWX, A, P, R, V, W, X, paged_guest

RDCYCLE_A0 = i_type(0x73, 2, 10, 0, 0xC00)
RDINSTRET_A0 = i_type(0x73, 2, 10, 0, 0xC02)
SMALL = 10_000_000  # no host counter is that small


def test_cycle_and_instret_read_the_clock() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.nop()
    code.csrr("s0", "cycle")
    code.nop()
    code.nop()
    code.csrr("s1", "cycle")
    code.csrr("s2", "instret")
    code.csrr("zero", "cycle")
    code.csrr("s3", "instret")
    shutdown(code)
    guest.load(code)
    guest.finish()
    assert [guest.x(n) for n in (8, 9, 18, 19)] == [4, 16, 20, 28]


@pytest.mark.parametrize(
    "read",
    [
        lambda code, csr: code.csrrs("s1", csr, "zero"),
        lambda code, csr: code.csrrc("s1", csr, "zero"),
        lambda code, csr: code.csrrsi("s1", csr, 0),
        lambda code, csr: code.csrrci("s1", csr, 0),
    ],
)
@pytest.mark.parametrize("csr", ["cycle", "instret", "time"])
def test_every_instruction_that_reads_a_counter_is_caught(read: Callable[[Asm, str], None], csr: str) -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    read(code, csr)
    shutdown(code)
    guest.load(code)
    guest.hart.run(77, 77, 1000)
    assert guest.x(9) == (77 if csr == "time" else 0)


@pytest.mark.parametrize("csr", ["cycle", "instret", "time"])
@pytest.mark.parametrize(
    "write",
    [
        lambda code, csr: code.csrrw("s1", csr, "zero"),
        lambda code, csr: code.csrrwi("s1", csr, 0),
        lambda code, csr: code.csrrs("s1", csr, "t0"),  # t0 holds 0: still a write
        lambda code, csr: code.csrrc("s1", csr, "t0"),
        lambda code, csr: code.csrrsi("s1", csr, 1),
    ],
)
def test_writing_a_counter_is_illegal_even_without_a_change(write: Callable[[Asm, str], None], csr: str) -> None:
    fault = FaultGuest()
    fault.code.li("t0", 0)
    fault.code.li("s1", 99)
    site = fault.code.here
    write(fault.code, csr)
    found = fault.run()
    assert [(cause, epc) for cause, _, epc in found] == [(ILLEGAL, site)]
    assert fault.guest.x(9) == 99


@pytest.mark.parametrize("csr", ["cycle", "time", "instret"])
@pytest.mark.parametrize("allowed", [True, False])
def test_scounteren_decides_in_user_mode(csr: str, allowed: bool) -> None:
    fault, user = user_guest()
    bit = {"cycle": 1, "time": 2, "instret": 4}[csr]
    boot = Asm(RAM_BASE + 0x8000)
    boot.li("t0", bit if allowed else 7 - bit)
    boot.csrw("scounteren", "t0")
    boot.li("t0", RAM_BASE)
    boot.jalr("zero", 0, "t0")
    user.nop()
    user.csrr("s1", csr)
    user.ecall()
    fault.guest.hart.load_ram(0x5_0000, user.image())
    fault.guest.hart.load_ram(0x8000, boot.image())
    load = fault.guest.load
    fault.guest.load = lambda code: load(code, start=boot.base)  # type: ignore[assignment,misc]
    fault.run()
    assert fault.guest.x(19) == (8 if allowed else ILLEGAL)
    assert fault.guest.x(9) < SMALL


def test_scounteren_allows_all_after_reset() -> None:
    guest = Guest()
    assert guest.registers()["scounteren"] == 7


def test_a_read_that_is_written_while_the_guest_runs_is_caught() -> None:
    """In turn `li a0, 0` and a counter read at one place, which soon makes its page MIXED: then no write is seen."""
    code = Asm(RAM_BASE)
    code.li("s0", RWX)
    code.li("s2", 0)
    code.li("s3", 100)
    code.li("t3", RET)
    code.sw("t3", 4, "s0")
    code.li("s6", SMALL)
    code.label("again")
    for word in (i_type(0x13, 0, 10, 0, 0), RDCYCLE_A0, RDINSTRET_A0):
        code.li("t1", word)
        code.sw("t1", 0, "s0")
        code.fence_i()
        code.jalr("ra", 0, "s0")
        code.bltu("a0", "s6", code.here + 8)
        code.addi("s2", "s2", 1)
    code.addi("s3", "s3", -1)
    code.bnez("s3", "again")
    shutdown(code)
    guest = paged_guest(code, {RWX: (P, V | R | W | X)})
    guest.finish()
    assert guest.x(18) == 0
    assert guest.hart.counters()["counter_reads"] == 200
    assert guest.hart.counters()["mixed_pages"] == 1


def test_a_read_written_through_another_address_is_caught() -> None:
    code = Asm(RAM_BASE)
    code.li("s0", EXEC)
    code.li("s1", ALIAS)
    code.li("s3", 100)
    code.li("t3", RET)
    code.sw("t3", 4, "s1")
    code.li("s2", 0)
    code.li("s6", SMALL)
    code.label("again")
    for word in (i_type(0x13, 0, 10, 0, 0), RDCYCLE_A0):
        code.li("t1", word)
        code.sw("t1", 0, "s1")
        code.fence_i()
        code.jalr("ra", 0, "s0")
        code.bltu("a0", "s6", code.here + 8)
        code.addi("s2", "s2", 1)
    code.addi("s3", "s3", -1)
    code.bnez("s3", "again")
    shutdown(code)
    guest = paged_guest(code, {EXEC: (P, V | R | X), ALIAS: (P, V | R | W)})
    guest.finish()
    assert guest.x(18) == 0
    assert guest.hart.counters()["counter_reads"] == 100


def test_one_page_at_many_addresses_and_many_reads_on_it() -> None:
    """More reads at more addresses than the core hooks at once."""
    addresses = [0x4100_0000 + 4096 * i for i in range(24)]
    code = Asm(RAM_BASE)
    code.li("s0", addresses[0])
    code.li("s2", len(addresses))
    code.li("s1", 4096)
    code.label("again")
    code.jalr("ra", 0, "s0")
    code.add("s0", "s0", "s1")
    code.addi("s2", "s2", -1)
    code.bnez("s2", "again")
    shutdown(code)
    guest = paged_guest(code, {address: (P, V | R | X) for address in addresses})
    reads = struct.pack("<I", i_type(0x73, 2, 8 + 2, 0, 0xC00)) * 100
    guest.hart.load_ram(P - RAM_BASE, reads + struct.pack("<I", RET))
    guest.finish()
    counters = guest.hart.counters()
    assert counters["counter_reads"] == 2400
    assert guest.x(10) < SMALL


def test_a_read_across_two_pages_is_caught() -> None:
    code = Asm(RAM_BASE)
    code.li("s0", EXEC + 0xFFE)
    code.jalr("ra", 0, "s0")
    shutdown(code)
    guest = paged_guest(code, {EXEC: (P, V | R | X), EXEC + 4096: (P + 8192, V | R | X)})
    guest.hart.load_ram(P - RAM_BASE + 0xFFE, struct.pack("<I", RDCYCLE_A0)[:2])
    guest.hart.load_ram(P - RAM_BASE + 8192, struct.pack("<I", RDCYCLE_A0)[2:] + struct.pack("<I", RET))
    guest.finish()
    assert guest.hart.counters()["counter_reads"] == 1
    assert guest.calls[0][2] < SMALL


def test_time_across_two_pages_is_read() -> None:
    code = Asm(RAM_BASE)
    code.li("s0", EXEC + 0xFFE)
    code.jalr("ra", 0, "s0")
    shutdown(code)
    guest = paged_guest(code, {EXEC: (P, V | R | X), EXEC + 4096: (P + 8192, V | R | X)})
    word = struct.pack("<I", i_type(0x73, 2, 10, 0, 0xC01))
    guest.hart.load_ram(P - RAM_BASE + 0xFFE, word[:2])
    guest.hart.load_ram(P - RAM_BASE + 8192, word[2:] + struct.pack("<I", RET))
    guest.hart.run(4242, 4242, 10_000)
    assert guest.calls[0][2] == 4242


def test_other_code_at_the_address_of_a_read_runs_as_it_is() -> None:
    """Two address spaces with different pages at one address: the hook of one is met by the other."""
    guest = Guest()
    first = PageTables(guest, RAM_BASE + 0x20_0000)
    second = PageTables(guest, RAM_BASE + 0x30_0000)
    for tables, page in ((first, P), (second, P + 4096)):
        tables.map(RAM_BASE, RAM_BASE, V | R | X | A)
        tables.map(EXEC, page, V | R | X | A)
    code = Asm(RAM_BASE)
    code.li("s0", EXEC)
    code.li("s1", first.satp)
    code.li("s2", second.satp)
    code.li("s3", 10)
    code.label("again")
    for satp, into in (("s1", "s4"), ("s2", "s5")):
        code.csrw("satp", satp)
        code.sfence_vma()
        code.jalr("ra", 0, "s0")
        code.mv(into, "a0")
    code.addi("s3", "s3", -1)
    code.bnez("s3", "again")
    shutdown(code)
    guest.hart.load_ram(P - RAM_BASE, struct.pack("<II", RDCYCLE_A0, RET))
    guest.hart.load_ram(P + 4096 - RAM_BASE, struct.pack("<II", i_type(0x13, 0, 10, 0, 55), RET))
    guest.load(code)
    guest.finish()
    assert guest.x(21) == 55
    assert 0 < guest.x(20) < SMALL
    assert guest.hart.counters()["counter_misses"] > 0


def test_a_read_in_the_first_block_of_all_is_caught() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.csrr("s0", "cycle")
    shutdown(code)
    guest.load(code)
    guest.finish()
    assert guest.x(8) == 0
    assert guest.hart.counters()["counter_reads"] == 1


def test_the_clock_is_exact_around_counter_reads() -> None:
    """Blocks that are left at a read and blocks that were never translated before count the same."""
    clocks = []
    for budget in (1_000_000, 4):
        guest = Guest()
        code = Asm(RAM_BASE)
        code.li("s1", 20)
        code.label("loop")
        code.csrr("t0", "cycle")
        code.addi("t1", "t1", 1)
        code.csrr("t0", "instret")
        code.addi("s1", "s1", -1)
        code.bnez("s1", "loop")
        shutdown(code)
        guest.load(code)
        while not guest.calls:
            guest.run(budget)
        clocks.append(guest.hart.clock)
    # 4 for li, 20 rounds of 20 bytes, li and ecall (which counts 1), the jump
    assert clocks == [4 + 400 + 4 + 1, 4 + 400 + 4 + 1]


def test_a_read_on_a_page_that_was_loaded_from_before_it_ran_is_caught() -> None:
    """A fill for a load allows execution too: the page noted for this address must not stay another space's."""
    guest = Guest()
    first = PageTables(guest, RAM_BASE + 0x20_0000)
    second = PageTables(guest, RAM_BASE + 0x30_0000)
    other = EXEC + 0x10_0000
    for tables, page in ((first, P), (second, P + 4096)):
        tables.map(RAM_BASE, RAM_BASE, V | R | X | A)
        tables.map(EXEC, page, V | R | X | A)
        tables.map(other, P + 4096, V | R | X | A)
    code = Asm(RAM_BASE)
    code.li("s0", EXEC)
    code.li("s6", other + 64)
    code.li("s1", first.satp)
    code.li("s2", second.satp)
    code.csrw("satp", "s1")
    code.sfence_vma()
    code.jalr("ra", 0, "s0")  # in the first space, this address is the page P
    code.jalr("ra", 0, "s6")  # the other page becomes code
    code.csrw("satp", "s2")
    code.sfence_vma()
    code.ld("t0", 0, "s0")
    code.jalr("ra", 0, "s0")
    code.mv("s4", "a0")
    shutdown(code)
    guest.hart.load_ram(P - RAM_BASE, struct.pack("<II", i_type(0x13, 0, 10, 0, 55), RET))
    guest.hart.load_ram(P + 4096 - RAM_BASE, struct.pack("<II", RDCYCLE_A0, RET))
    guest.hart.load_ram(P + 4096 + 64 - RAM_BASE, struct.pack("<II", i_type(0x13, 0, 10, 0, 66), RET))
    guest.load(code)
    guest.finish()
    assert 0 < guest.x(20) < SMALL
