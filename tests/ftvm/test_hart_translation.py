# SPDX-License-Identifier: GPL-2.0-or-later
"""Translated code never outlives the bytes it was made from: stores through aliases, own stores, and the host's writes.

Each of these runs old code on the bare engine. The guests work under page tables with the code page P mapped executable
at one address and writable at another.
"""

from __future__ import annotations

import random
import struct

import pytest

from ftvm.hart import RAM_BASE, StopReason
from tests.ftvm.asm import Asm, i_type, s_type
from tests.ftvm.guest import Guest, PageTables, shutdown

V, R, W, X, U, A, D = PageTables.V, PageTables.R, PageTables.W, PageTables.X, PageTables.U, PageTables.A, PageTables.D
P = RAM_BASE + 0x40000
DATA = RAM_BASE + 0x10_0000
EXEC, ALIAS, RWX = 0x4000_1000, 0x4000_8000, 0x4001_0000
RET = 0x8067


def li_a0(value: int) -> int:
    return i_type(0x13, 0, 10, 0, value)


def function(value: int) -> bytes:
    return struct.pack("<II", li_a0(value), RET)


def paged_guest(main: Asm, maps: dict[int, tuple[int, int]]) -> Guest:
    """A guest that runs `main` at RAM_BASE (mapped one to one, with data at DATA) with these 4 KiB pages as well."""
    guest = Guest()
    tables = PageTables(guest, RAM_BASE + 0x20_0000)
    tables.map(RAM_BASE, RAM_BASE, V | R | X | A)
    tables.map(RAM_BASE + 4096, RAM_BASE + 4096, V | R | X | A)
    tables.map(DATA, DATA, V | R | W | A | D)
    for virtual, (physical, flags) in maps.items():
        tables.map(virtual, physical, flags)
    boot = Asm(RAM_BASE + 0x30000)
    tables.map(boot.base, boot.base, V | R | X | A)
    boot.li("t0", tables.satp)
    boot.csrw("satp", "t0")
    boot.sfence_vma()
    boot.la("t1", "entry")
    boot.jalr("zero", 0, "t1")
    boot.label("entry")
    boot.li("t1", RAM_BASE)
    boot.jalr("zero", 0, "t1")
    guest.load(main)
    guest.hart.load_ram(boot.base - RAM_BASE, boot.image())
    guest.hart.reset(boot.base, 0, 0)
    return guest


def patch_and_call(code: Asm, rounds: int, functions: int) -> None:
    """In each round write `li a0, round + n; ret` into every function through s1, then call all through s0.

    s2 counts wrong results.
    """
    code.li("s2", 0)
    code.li("s3", 0)
    code.label("round")
    code.li("s4", 0)
    code.label("patch")
    code.slli("t0", "s4", 6)
    code.add("t1", "s1", "t0")
    code.add("t2", "s3", "s4")
    code.andi("t2", "t2", 0x3FF)
    code.slli("t2", "t2", 20)
    code.li("t3", 0x513)
    code.or_("t2", "t2", "t3")
    code.sw("t2", 0, "t1")
    code.li("t3", RET)
    code.sw("t3", 4, "t1")
    code.addi("s4", "s4", 1)
    code.li("t4", functions)
    code.blt("s4", "t4", "patch")
    code.fence_i()
    code.li("s4", 0)
    code.label("call")
    code.slli("t0", "s4", 6)
    code.add("t1", "s0", "t0")
    code.li("a0", -1)
    code.jalr("ra", 0, "t1")
    code.add("t2", "s3", "s4")
    code.andi("t2", "t2", 0x3FF)
    code.beq("a0", "t2", "right")
    code.addi("s2", "s2", 1)
    code.label("right")
    code.addi("s4", "s4", 1)
    code.li("t4", functions)
    code.blt("s4", "t4", "call")
    code.addi("s3", "s3", 1)
    code.li("t4", rounds)
    code.blt("s3", "t4", "round")


@pytest.mark.parametrize("rounds", [3, 100])  # 100: the page flips so often that it becomes HOOKED
def test_code_patched_through_another_address_runs_as_patched(rounds: int) -> None:
    code = Asm(RAM_BASE)
    code.li("s0", EXEC)
    code.li("s1", ALIAS)
    patch_and_call(code, rounds, 16)
    shutdown(code)
    guest = paged_guest(code, {EXEC: (P, V | R | X), ALIAS: (P, V | R | W)})
    guest.finish()
    assert guest.x(18) == 0
    counters = guest.hart.counters()
    assert counters["code_to_writable"] > 0
    assert bool(counters["hooked_pages"]) == (rounds == 100)


def test_code_patched_through_its_own_writable_mapping_runs_as_patched() -> None:
    code = Asm(RAM_BASE)
    code.li("s0", RWX)
    code.li("s1", RWX)
    patch_and_call(code, 100, 16)
    shutdown(code)
    guest = paged_guest(code, {RWX: (P, V | R | W | X)})
    guest.finish()
    assert guest.x(18) == 0
    assert guest.hart.counters()["mixed_pages"] == 1


def test_code_patched_through_two_kinds_of_aliases_in_turn_runs_as_patched() -> None:
    """The page is MIXED by its own mapping, then written through one that cannot execute, and run through a third."""
    code = Asm(RAM_BASE)
    code.li("s0", EXEC)
    code.li("s1", RWX)
    patch_and_call(code, 100, 4)
    code.mv("s5", "s2")
    first = dict(code.labels)
    code.labels = {f"first_{name}": place for name, place in first.items()}
    code._fixups = [(offset, f"first_{name}", encode) for offset, name, encode in code._fixups]
    code.li("s1", ALIAS)
    code.li("s0", RWX)
    patch_and_call(code, 100, 4)
    shutdown(code)
    guest = paged_guest(code, {EXEC: (P, V | R | X), ALIAS: (P, V | R | W), RWX: (P, V | R | W | X)})
    guest.finish()
    assert (guest.x(21), guest.x(18)) == (0, 0)


def test_more_hooked_pages_than_the_core_hooks_one_by_one_stay_right() -> None:
    pages = 70
    code = Asm(RAM_BASE)
    code.li("s0", EXEC)
    code.li("s1", EXEC + 0x10_0000)
    code.li("s7", pages)
    code.li("s5", 0)
    code.label("page")
    patch_and_call(code, 40, 1)
    code.add("s5", "s5", "s2")
    code.li("t0", 4096)
    code.add("s0", "s0", "t0")
    code.add("s1", "s1", "t0")
    code.addi("s7", "s7", -1)
    code.bnez("s7", "page")
    shutdown(code)
    maps = {EXEC + 4096 * i: (P + 4096 * i, V | R | X) for i in range(pages)}
    maps |= {EXEC + 0x10_0000 + 4096 * i: (P + 4096 * i, V | R | W) for i in range(pages)}
    guest = paged_guest(code, maps)
    guest.finish()
    assert guest.x(21) == 0
    assert guest.hart.counters()["hooked_pages"] == 65


def test_a_page_that_is_mixed_is_written_through_an_alias_after_reading_through_it() -> None:
    """The read brings the alias into the TLB: without the right to write, or stores would never be seen."""
    code = Asm(RAM_BASE)
    code.li("s0", RWX)
    code.li("s1", RWX)
    patch_and_call(code, 30, 1)
    code.mv("s5", "s2")
    code.li("s1", ALIAS)
    code.li("s2", 0)
    code.li("s3", 20)
    code.label("again")
    code.ld("t0", 0x700, "s1")
    code.slli("t1", "s3", 20)
    code.li("t2", 0x513)
    code.or_("t1", "t1", "t2")
    code.sw("t1", 0, "s1")
    code.fence_i()
    code.jalr("ra", 0, "s0")
    code.beq("a0", "s3", "fine")
    code.addi("s2", "s2", 1)
    code.label("fine")
    code.addi("s3", "s3", -1)
    code.bnez("s3", "again")
    shutdown(code)
    guest = paged_guest(code, {ALIAS: (P, V | R | W | A | D), RWX: (P, V | R | W | X | A | D)})
    guest.finish()
    assert (guest.x(21), guest.x(18)) == (0, 0)
    assert guest.hart.counters()["mixed_pages"] > 0


def test_code_that_keeps_its_data_beside_itself_runs_at_speed_and_right() -> None:
    """Without MIXED, every store would throw the page's translations away."""
    code = Asm(RAM_BASE)
    code.li("s0", RAM_BASE + 0x800)
    code.li("s1", 20_000)
    code.label("loop")
    code.ld("t0", 0, "s0")
    code.addi("t0", "t0", 1)
    code.sd("t0", 0, "s0")
    code.addi("s1", "s1", -1)
    code.bnez("s1", "loop")
    shutdown(code)
    guest = Guest()
    guest.load(code)
    guest.finish()
    assert guest.words(RAM_BASE + 0x800, 1) == [20_000]
    assert guest.hart.counters()["removals"] < 20


def test_an_instruction_across_a_page_boundary_is_patched_by_either_half() -> None:
    """The upper half of `addi a0, a0, imm` lies on the second page and is written through an alias of that page."""
    code = Asm(RAM_BASE)
    code.li("s0", EXEC + 0xFFE)
    code.li("s1", ALIAS)
    code.li("s2", 0)
    code.li("s3", 0)
    code.label("round")
    code.andi("t1", "s3", 0x3FF)
    code.slli("t1", "t1", 4)
    code.ori("t1", "t1", 5)  # rs1 = a0
    code.sh("t1", 0, "s1")
    code.fence_i()
    code.li("a0", 0)
    code.jalr("ra", 0, "s0")
    code.andi("t1", "s3", 0x3FF)
    code.beq("a0", "t1", "right")
    code.addi("s2", "s2", 1)
    code.label("right")
    code.addi("s3", "s3", 1)
    code.li("t4", 200)
    code.blt("s3", "t4", "round")
    shutdown(code)
    maps = {EXEC: (P, V | R | X), EXEC + 4096: (P + 4096, V | R | X), ALIAS: (P + 4096, V | R | W)}
    guest = paged_guest(code, maps)
    guest.hart.load_ram(P - RAM_BASE + 0xFFE, struct.pack("<I", i_type(0x13, 0, 10, 10, 0)) + struct.pack("<I", RET))
    guest.finish()
    assert guest.x(18) == 0


def test_an_atomic_on_a_code_page_counts_each_time_once() -> None:
    code = Asm(RAM_BASE)
    code.li("s0", RAM_BASE + 0x800)
    code.li("s1", 1000)
    code.li("t1", 1)
    code.label("loop")
    code.amoadd_d("zero", "t1", "s0")
    code.label("again")
    code.lr_d("t2", "zero", "s0")
    code.addi("t2", "t2", 1)
    code.sc_d("t3", "t2", "s0")
    code.bnez("t3", "again")
    code.addi("s1", "s1", -1)
    code.bnez("s1", "loop")
    shutdown(code)
    guest = Guest()
    guest.load(code)
    guest.finish()
    assert guest.words(RAM_BASE + 0x800, 1) == [2000]


def caller() -> Asm:
    """Calls the function at EXEC for ever, telling each result by an SBI call."""
    code = Asm(RAM_BASE)
    code.li("s0", EXEC)
    code.label("again")
    code.jalr("ra", 0, "s0")
    code.sbi(1)
    code.j("again")
    return code


def test_the_host_writes_over_code_between_epochs() -> None:
    guest = paged_guest(caller(), {EXEC: (P, V | R | X)})
    guest.hart.load_ram(P - RAM_BASE, function(0))
    for value in range(26):
        guest.hart.load_ram(P - RAM_BASE, function(value))
        guest.calls.clear()
        guest.run(2000)
        results = [a0 for _, _, a0 in guest.calls]
        assert results[1:] == [value] * (len(results) - 1) and len(results) > 10


def test_the_host_writes_over_code_from_a_device_access() -> None:
    """DMA started by a doorbell: the blocks after the one that rings it run the new code."""
    guest_code = Asm(RAM_BASE)
    guest_code.li("s0", EXEC)
    guest_code.li("s1", 0x1000_1000)
    guest_code.li("s2", 50)
    guest_code.label("again")
    guest_code.jalr("ra", 0, "s0")
    guest_code.sbi(1)
    guest_code.sw("s2", 0, "s1")
    guest_code.addi("s2", "s2", -1)
    guest_code.bnez("s2", "again")
    shutdown(guest_code)
    flags = V | R | W | A | D
    guest = paged_guest(guest_code, {EXEC: (P, V | R | X), 0x1000_1000: (0x1000_1000, flags)})
    guest.hart.load_ram(P - RAM_BASE, function(50))

    def dma(address: int, size: int, value: int) -> None:
        start = P - RAM_BASE
        guest.hart.writes(P, 8)
        guest.hart.ram[start : start + 8] = function(value - 1)

    guest.on_write = dma
    guest.finish()
    assert [a0 for extension, _, a0 in guest.calls if extension == 1] == list(range(50, 0, -1))
    assert guest.hart.counters()["host_writes_to_code"] >= 49


def test_restored_ram_runs_as_restored() -> None:
    guest = paged_guest(caller(), {EXEC: (P, V | R | X)})
    guest.hart.load_ram(P - RAM_BASE, function(1))
    guest.run(2000)
    ram, state = bytes(guest.hart.ram), guest.hart.save()
    guest.hart.load_ram(P - RAM_BASE, function(2))
    guest.run(2000)
    guest.hart.load_ram(0, ram)
    guest.hart.restore(state)
    guest.calls.clear()
    guest.run(2000)
    assert {a0 for _, _, a0 in guest.calls[1:]} == {1}


def test_zeroed_ram_and_reset_run_what_is_loaded_next() -> None:
    guest = Guest()
    for value in range(3):
        code = Asm(RAM_BASE)
        code.li("s1", value)
        shutdown(code)
        guest.hart.zero_ram()
        assert not any(guest.hart.ram)
        guest.load(code)
        guest.finish()
        assert guest.x(9) == value


def bits(bitmap: bytes) -> set[int]:
    return {8 * i + bit for i, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1}


def test_dirty_pages_are_those_written_by_guest_walker_and_host() -> None:
    code = Asm(RAM_BASE)
    code.li("s0", ALIAS)
    code.label("again")
    code.sd("s0", 0, "s0")
    code.ld("s1", 8, "s0")
    code.j("again")
    guest = paged_guest(code, {ALIAS: (P, V | R | W)})
    guest.run(1000)
    guest.hart.clear_dirty()
    assert bits(guest.hart.dirty()) == set()
    guest.run(1000)
    assert bits(guest.hart.dirty()) == {(P - RAM_BASE) >> 12}
    guest.hart.writes(DATA, 4097)
    page = (DATA - RAM_BASE) >> 12
    assert bits(guest.hart.dirty()) == {(P - RAM_BASE) >> 12, page, page + 1}
    assert guest.run(100) == StopReason.LIMIT


@pytest.mark.parametrize("seed", range(3))
def test_dirty_pages_are_exactly_those_that_changed_even_where_pages_are_hooked(seed: int) -> None:
    code = Asm(RAM_BASE)
    code.li("s0", EXEC)
    code.li("s1", ALIAS)
    code.label("forever")
    patch_and_call(code, 60, 4)
    code.li("s6", RWX)
    code.ld("t0", 0x700, "s6")
    code.addi("t0", "t0", 1)
    code.sd("t0", 0x700, "s6")
    code.j("forever")
    guest = paged_guest(
        code, {EXEC: (P, V | R | X), ALIAS: (P, V | R | W), RWX: (P + 8192, V | R | W | X), RWX + 4096: (P, V | R | X)}
    )
    chance = random.Random(seed)
    guest.run(100_000)
    for _ in range(30):
        guest.hart.clear_dirty()
        before = bytes(guest.hart.ram)
        guest.run(chance.choice([20, 300, 5000, 50_000]))
        after = bytes(guest.hart.ram)
        changed = {i for i in range(len(before) >> 12) if before[i << 12 : i + 1 << 12] != after[i << 12 : i + 1 << 12]}
        assert changed <= bits(guest.hart.dirty()), f"seed {seed}"
    assert guest.x(18) == 0


def test_a_mixed_page_is_dirty_again_after_it_was_cleared() -> None:
    """Executing the page brings it into the TLB before it is written."""
    code = Asm(RAM_BASE)
    code.li("s0", RAM_BASE + 0x800)
    code.label("loop")
    code.ld("t0", 0, "s0")
    code.addi("t0", "t0", 1)
    code.sd("t0", 0, "s0")
    code.j("loop")
    guest = Guest()
    guest.load(code)
    for _ in range(20):
        guest.hart.clear_dirty()
        guest.run(100)
        assert bits(guest.hart.dirty()) == {0}
    assert guest.hart.counters()["mixed_pages"] > 1


def test_offsets_of_stores_are_encoded_as_meant() -> None:
    """The assembler itself: sd a1, -8(a0)."""
    assert s_type(0x23, 3, 11, 10, -8) == 0xFEB53C23
