# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a guest does, the host neither crashes nor hangs, and two harts that are given the same do the same.

Random guests run in a process of their own, so that a crash of the engine is a failed test and not the end of pytest.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.hart import BARREN_TRAPS_MAX, RAM_BASE, StopReason
from tests.ftvm.asm import CSRS, Asm, i_type
from tests.ftvm.guest import MIB, PLIC, UART, Guest, PageTables, shutdown

ROOT = Path(__file__).parents[2]
V, R, W, X, U, A, D = PageTables.V, PageTables.R, PageTables.W, PageTables.X, PageTables.U, PageTables.A, PageTables.D


def lost(guest: Guest) -> str:
    """Run until the guest is given up; what was said."""
    for _ in range(BARREN_TRAPS_MAX // 1000):
        reason = guest.run(20_000)
        if reason == StopReason.GUEST_ERROR:
            return guest.hart.error
        assert reason == StopReason.LIMIT
    raise AssertionError("never given up")


@pytest.mark.parametrize("stvec", [0, RAM_BASE + MIB, UART, (1 << 64) - 4096, 0x4000_0000])
def test_a_handler_that_faults_for_ever_is_given_up(stvec: int) -> None:
    """Nowhere, zeroed RAM, a device, the last page of all, a gap."""
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", stvec)
    code.csrw("stvec", "t0")
    code.word(0)
    guest.load(code)
    error = lost(guest)
    assert "trap loop" in error and hex(stvec) in error


def test_a_lost_guest_is_lost_at_the_same_clock_however_it_was_cut() -> None:
    clocks = set()
    for budget in (1_000_000, 777, 50_000):
        guest = Guest()
        code = Asm(RAM_BASE)
        code.li("t0", RAM_BASE + MIB)
        code.csrw("stvec", "t0")
        code.ecall()
        code.word(0)
        guest.load(code)
        while guest.run(budget) != StopReason.GUEST_ERROR:
            pass
        clocks.add(guest.hart.clock)
    assert len(clocks) == 1


def test_a_lost_guest_can_be_reset() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.word(0)
    guest.load(code)
    lost(guest)
    clock = guest.hart.clock
    code = Asm(RAM_BASE)
    code.li("s1", 3)
    shutdown(code)
    guest.load(code)
    guest.finish()
    assert guest.x(9) == 3
    assert guest.hart.error == ""
    assert guest.hart.clock > clock


def test_a_handler_that_does_something_is_not_given_up() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.align(4)
    code.label("handler")
    code.addi("s1", "s1", 1)
    code.word(0)
    guest.load(code)
    assert guest.run(5 * (2 * BARREN_TRAPS_MAX)) == StopReason.LIMIT
    assert guest.x(9) >= 2 * BARREN_TRAPS_MAX - 10


def test_a_budget_bounds_a_trap_loop() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.word(0)
    guest.load(code)
    assert guest.run(100) == StopReason.LIMIT
    assert guest.hart.clock == 100


@pytest.mark.parametrize("mode", range(16))
def test_any_satp_is_survived(mode: int) -> None:
    for page in (0, RAM_BASE >> 12, (1 << 44) - 1, (RAM_BASE >> 12) + 1023, UART >> 12):
        guest = Guest()
        code = Asm(RAM_BASE)
        code.li("t0", mode << 60 | page)
        code.csrw("satp", "t0")
        code.sfence_vma()
        code.ld("t1", 0, "t0")
        code.label("end")
        code.j("end")
        guest.load(code)
        assert guest.run(2000) in (StopReason.LIMIT, StopReason.GUEST_ERROR)


def test_a_page_table_that_names_itself_ends() -> None:
    for entry_flags in (V, V | R | W | X | A | D):
        guest = Guest()
        root = RAM_BASE + 0x1000
        guest.hart.load_ram(0x1000, (root >> 12 << 10 | entry_flags).to_bytes(8, "little") * 512)
        code = Asm(RAM_BASE)
        code.li("t0", 8 << 60 | root >> 12)
        code.csrw("satp", "t0")
        code.sfence_vma()
        code.label("end")
        code.j("end")
        guest.load(code)
        assert guest.run(2000) in (StopReason.LIMIT, StopReason.GUEST_ERROR)


def test_code_on_its_own_page_table_is_survived() -> None:
    """The walker writes A and D into the page that the hart is executing from."""
    guest = Guest()
    base = RAM_BASE + 0x20_0000
    code = Asm(base + 0x800)  # the upper half of the root table
    code.li("t0", 8 << 60 | base >> 12)
    code.csrw("satp", "t0")
    code.sfence_vma()
    code.li("s0", 0x1000)
    code.li("s2", 200)
    code.label("again")
    code.li("t2", base)
    code.li("t3", RAM_BASE >> 12 << 10 | V | R | W)
    code.sd("t3", 0, "t2")
    code.sfence_vma()
    code.ld("t1", 0, "s0")
    code.sd("t1", 0, "s0")
    code.addi("s2", "s2", -1)
    code.bnez("s2", "again")
    shutdown(code)
    guest.load(code)
    guest.hart.load_ram(0x20_0000, (RAM_BASE >> 12 << 10 | V | R | W).to_bytes(8, "little"))
    guest.hart.load_ram(0x20_0010, (RAM_BASE >> 12 << 10 | V | R | W | X).to_bytes(8, "little"))
    guest.finish()
    assert guest.words(base, 1)[0] & (A | D) == A | D


def test_jumps_into_devices_fault() -> None:
    for target in (UART, PLIC, 0x10_0000, 0, RAM_BASE + 4 * MIB):
        guest = Guest()
        code = Asm(RAM_BASE)
        code.la("t0", "handler")
        code.csrw("stvec", "t0")
        code.li("t0", target)
        code.jalr("zero", 0, "t0")
        code.label("handler")
        code.csrr("s1", "scause")
        code.csrr("s2", "stval")
        shutdown(code)
        guest.load(code)
        guest.finish()
        assert (guest.x(9), guest.x(18)) == (1, target)
        assert guest.reads == []


def test_code_that_runs_off_the_end_of_ram_faults() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", RAM_BASE + 4 * MIB - 6)
    code.jalr("zero", 0, "t0")
    code.align(4)
    code.label("handler")
    code.csrr("s1", "scause")
    code.csrr("s2", "stval")
    shutdown(code)
    guest.load(code)
    guest.hart.load_ram(4 * MIB - 6, bytes.fromhex("010001001300"))  # two c.nop and half a nop
    guest.finish()
    assert (guest.x(9), guest.x(18)) == (1, RAM_BASE + 4 * MIB)


def test_the_supervisor_never_becomes_machine() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", 3 << 11)
    code.csrs("sstatus", "t0")  # MPP, not visible here
    code.mret()
    code.label("handler")
    code.csrr("s1", "scause")
    code.csrr("s2", "sstatus")
    shutdown(code)
    guest.load(code)
    guest.finish()
    assert (guest.x(9), guest.registers()["priv"]) == (2, 1)
    assert guest.x(18) & 3 << 11 == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(CSRS)), st.integers(0, (1 << 64) - 1)), max_size=12))
def test_any_values_in_registers_are_survived(writes: list[tuple[str, int]]) -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t1", "end")
    for csr, value in writes:
        code.li("t0", value)
        code.csrw(csr, "t0")
    code.label("end")
    code.sret()
    guest.load(code)
    for _ in range(3):
        guest.run(3000, ticks=10)
    guest.hart.restore(guest.hart.save())


INTERESTING = [
    0, RAM_BASE, RAM_BASE + 1, RAM_BASE + 0xFFE, RAM_BASE + 0x1000, RAM_BASE + 4 * MIB - 2, RAM_BASE + 4 * MIB,
    UART, PLIC, 0x4000_0000, 0x5A5A_0000_8000_0000, (1 << 64) - 8, 8 << 60 | (RAM_BASE >> 12) + 2,
    0xFFFF_FFC0_0000_0000,
]  # fmt: skip
TABLE_PAGE = RAM_BASE + 0x2000
HANDLER = RAM_BASE + 0x1900


def recovering_handler() -> Asm:
    """Skips what trapped; after a fetch fault goes on somewhere in the code. A guest may lose it."""
    code = Asm(HANDLER)
    code.csrr("t5", "scause")
    code.andi("t5", "t5", 0x7F2)  # 0 for causes 1, 12 and 13
    code.csrr("t6", "sepc")
    code.addi("t6", "t6", 4)
    code.bnez("t5", "skip")
    code.csrr("t6", "cycle")
    code.andi("t6", "t6", 0x7FE)
    code.li("t5", RAM_BASE)
    code.add("t6", "t6", "t5")
    code.label("skip")
    code.csrw("sepc", "t6")
    code.sret()
    return code


def random_word(chance: random.Random) -> int:
    """An instruction, more often than not one that means something."""
    kind = chance.randrange(12)
    rd, rs1, rs2 = chance.randrange(32), chance.randrange(32), chance.randrange(32)
    if kind == 0:
        return chance.getrandbits(32)
    if kind == 1:
        return chance.getrandbits(16) << 16 | chance.getrandbits(16) & ~3 | chance.randrange(3)
    if kind in (2, 3):
        names = sorted(CSRS) if chance.random() < 0.05 else sorted(CSRS.keys() - {"stvec", "satp"})
        return i_type(0x73, chance.choice([1, 2, 3, 5, 6, 7]), rd, rs1, CSRS[chance.choice(names)])
    if kind == 4:
        return chance.choice([0x73, 0x100073, 0x10200073, 0x10500073, 0x12000073, 0x100F, 0x30200073])
    if kind in (5, 6):
        return i_type(0x03, chance.randrange(8), rd, rs1, chance.getrandbits(12))
    if kind in (7, 8):
        return rs2 << 20 | rs1 << 15 | chance.randrange(4) << 12 | chance.getrandbits(5) << 7 | 0x23
    if kind == 9:
        return chance.choice([0, 1, 2, 3, 4, 8, 12]) << 27 | rs2 << 20 | i_type(0x2F, chance.choice([2, 3]), rd, rs1, 0)
    if kind == 10:
        return chance.getrandbits(25) << 7 | chance.choice([0x63, 0x6F, 0x67])
    return i_type(0x13, chance.choice([0, 4, 6, 7]), rd, rs1, chance.getrandbits(12))


def random_guest(seed: int) -> Guest:
    chance = random.Random(seed)
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", HANDLER)
    code.csrw("stvec", "t0")
    code.li("t0", 3 << 13 | chance.choice([0, 1 << 18, 1 << 19, 2]))
    code.csrs("sstatus", "t0")
    code.li("t0", chance.choice([0, 8 << 60 | TABLE_PAGE >> 12]))
    code.csrw("satp", "t0")
    for register in (*range(1, 10), *range(11, 32)):
        code.li("t0", chance.choice([*INTERESTING, chance.getrandbits(64)]))
        code.addi(register, "t0", 0)
    code.jalr("zero", 0, "a0")
    while len(code.code) < 0x1800:
        code.word(random_word(chance))
    guest.hart.load_ram(0, code.image())
    guest.hart.load_ram(HANDLER - RAM_BASE, recovering_handler().image())
    page = RAM_BASE >> 12 << 10
    table = [  # of superpages and pointers, right and wrong
        chance.choice([0, page | chance.getrandbits(8), TABLE_PAGE >> 12 << 10 | V, chance.getrandbits(64)])
        for _ in range(512)
    ]
    table[2] = page | V | R | W | X | A | D | chance.choice([*[0] * 7, U])
    guest.hart.load_ram(TABLE_PAGE - RAM_BASE, b"".join(entry.to_bytes(8, "little") for entry in table))
    guest.hart.reset(RAM_BASE, RAM_BASE + 0x400, 0)
    guest.on_read = lambda address, size: address * 7
    guest.on_write = lambda address, size, value: guest.hart.set_external(value % 2 == 1)
    guest.on_call = lambda extension, function, args: (0, args[0])
    return guest


def run_random(seed: int) -> list[int]:
    """Digests of some epochs. The guest is restarted elsewhere in its code now and then, its own changes in place."""
    guest = random_guest(seed)
    chance = random.Random(seed + 1)
    digests = []
    for round_ in range(12):
        if round_ % 3 == 2:
            guest.hart.reset(RAM_BASE, RAM_BASE + 2 * chance.randrange(0xC00), 0)
        reason = guest.run(chance.choice([100, 1000, 4000]), ticks=chance.randrange(100))
        digests += [int(reason), guest.hart.digest()]
    digests.append(zlib.crc32(guest.hart.ram))
    guest.hart.close()
    return digests


def main(first: int, count: int) -> None:
    for seed in range(first, first + count):
        print(seed, flush=True)
        assert run_random(seed) == run_random(seed), f"seed {seed} ran differently twice"


@pytest.mark.parametrize("first", [0, 1000])
def test_random_guests_neither_crash_nor_differ(first: int) -> None:
    count = int(os.environ.get("FTVM_FUZZ_COUNT", "25"))
    program = f"from tests.ftvm.test_hart_hostile import main; main({first}, {count})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)
    last = result.stdout.split()[-1] if result.stdout else "?"
    hint = f"replay with: python -c 'from tests.ftvm.test_hart_hostile import main; main({last}, 1)'"
    assert result.returncode == 0, f"{hint}\nexit {result.returncode}\n{result.stderr[-2000:]}"
