# SPDX-License-Identifier: GPL-2.0-or-later
"""Epochs: where they end, what the clock and guest time are then, and what pending interrupts do."""

from __future__ import annotations

import pytest

from ftvm.hart import BYTES_PER_TICK, RAM_BASE, StopReason
from tests.ftvm.asm import Asm
from tests.ftvm.guest import SBI_TIME, UART, Guest, PageTables, shutdown

STIP, SEIP = 1 << 5, 1 << 9


def endless(code: Asm) -> None:
    code.label("endless")
    code.addi("t0", "t0", 1)
    code.j("endless")


def test_an_epoch_ends_at_the_first_block_entry_with_the_budget_used_up() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    endless(code)
    guest.load(code)
    assert guest.run(100) == StopReason.LIMIT
    assert guest.hart.clock == 104  # blocks of 8 bytes
    assert guest.x(5) == 13
    assert guest.run(1) == StopReason.LIMIT
    assert guest.hart.clock == 112


def test_budgets_that_sum_up_give_the_same_state_as_one() -> None:
    states = []
    for budgets in ([4000], [800] * 5, [8] * 500):
        guest = Guest()
        code = Asm(RAM_BASE)
        endless(code)
        guest.load(code)
        for budget in budgets:
            guest.run(budget)
        states.append(guest.registers())
    assert states[0] == states[1] == states[2]


def test_guest_time_follows_the_clock_up_to_its_bound() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    endless(code)
    guest.load(code)
    guest.hart.run(1000, 1010, 5 * BYTES_PER_TICK)
    assert guest.hart.time == 1005
    guest.hart.run(1005, 1010, 50 * BYTES_PER_TICK)
    assert guest.hart.time == 1010


def test_time_does_not_step_back() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    endless(code)
    guest.load(code)
    guest.hart.run(1000, 1000, 100)
    with pytest.raises(ValueError, match="step back"):
        guest.hart.run(999, 2000, 100)
    with pytest.raises(ValueError, match="step back"):
        guest.hart.run(2000, 1999, 100)


def timer_guest() -> Guest:
    """Arms the timer 1000 ticks ahead, then waits; the handler counts in s1 and arms it again."""
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", STIP | SEIP)
    code.csrw("sie", "t0")
    code.csrrsi("zero", "sstatus", 2)
    code.csrr("a0", "time")
    code.addi("a0", "a0", 1000)
    code.sbi(SBI_TIME)
    code.label("wait")
    code.wfi()
    code.j("wait")
    code.align(4)
    code.label("handler")
    code.addi("s1", "s1", 1)
    code.csrr("s2", "scause")
    code.csrr("s3", "time")
    code.csrr("a0", "time")
    code.addi("a0", "a0", 1000)
    code.sbi(SBI_TIME)
    code.sret()
    guest.load(code)
    return guest


def test_waiting_ends_the_epoch_and_tells_the_deadline() -> None:
    guest = timer_guest()
    assert guest.hart.run(0, 50_000, 1_000_000) == StopReason.IDLE
    assert guest.hart.deadline == 1000
    assert guest.x(9) == 0


def test_an_expired_timer_is_a_pending_interrupt_of_the_next_epoch() -> None:
    guest = timer_guest()
    guest.run()
    assert guest.hart.run(1000, 1000, 1_000_000) == StopReason.IDLE
    assert guest.x(9) == 1
    assert guest.x(18) == 1 << 63 | 5
    assert guest.hart.deadline == 2000


def test_a_timer_falls_due_inside_an_epoch_at_its_tick() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", STIP)
    code.csrw("sie", "t0")
    code.csrrsi("zero", "sstatus", 2)
    code.li("a0", 700)
    code.sbi(SBI_TIME)
    endless(code)
    code.align(4)
    code.label("handler")
    code.csrr("s3", "time")
    shutdown(code)
    guest.load(code)
    assert guest.hart.run(0, 10_000, 1_000_000) == StopReason.STOPPED
    assert guest.x(19) == 700
    assert 700 * BYTES_PER_TICK <= guest.hart.clock < 700 * BYTES_PER_TICK + 64


def test_wfi_with_a_pending_but_disabled_interrupt_goes_on() -> None:
    """Interrupts enabled in sie but not in sstatus: wfi ends, no trap is taken."""
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", SEIP)
    code.csrw("sie", "t0")
    code.wfi()
    code.li("s1", 7)
    shutdown(code)
    guest.load(code)
    guest.hart.set_external(True)
    guest.finish()
    assert guest.x(9) == 7


def test_the_external_line_interrupts_and_goes_away() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", SEIP)
    code.csrw("sie", "t0")
    code.csrrsi("zero", "sstatus", 2)
    code.label("wait")
    code.wfi()
    code.j("wait")
    code.align(4)
    code.label("handler")
    code.addi("s1", "s1", 1)
    code.csrr("s2", "scause")
    code.li("t1", UART)
    code.sw("zero", 0, "t1")  # the device lowers the line
    code.sret()
    guest.load(code)
    guest.on_write = lambda address, size, value: guest.hart.set_external(False)
    assert guest.run() == StopReason.IDLE
    guest.hart.set_external(True)
    assert guest.run() == StopReason.IDLE
    assert (guest.x(9), guest.x(18)) == (1, 1 << 63 | 9)
    assert guest.run() == StopReason.IDLE
    assert guest.x(9) == 1


def test_a_line_raised_by_a_device_access_interrupts_at_the_next_block() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", SEIP)
    code.csrw("sie", "t0")
    code.csrrsi("zero", "sstatus", 2)
    code.li("t1", UART)
    code.sw("zero", 0, "t1")
    code.addi("s1", "s1", 1)
    code.j("next")
    code.label("next")
    code.addi("s1", "s1", 64)
    code.label("spin")
    code.j("spin")
    code.align(4)
    code.label("handler")
    shutdown(code)
    guest.load(code)
    guest.on_write = lambda address, size, value: guest.hart.set_external(True)
    guest.finish()
    assert guest.x(9) == 1
    assert guest.registers()["sepc"] == code.labels["next"]


def test_a_callback_stops_the_epoch() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    shutdown(code)
    guest.load(code)
    assert guest.run() == StopReason.STOPPED
    assert guest.calls == [(8, 0, 0)]


def test_an_exception_of_a_callback_comes_out_of_run() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t1", UART)
    code.lw("t2", 0, "t1")
    code.lw("t2", 4, "t1")
    endless(code)
    guest.load(code)

    def broken(address: int, size: int) -> int:
        raise KeyError(address)

    guest.on_read = broken
    with pytest.raises(KeyError, match=str(UART)):
        guest.run()
    assert len(guest.reads) == 1
    guest.on_read = lambda address, size: 1
    assert guest.run(64) == StopReason.LIMIT


def test_some_things_are_refused_inside_callbacks() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t1", UART)
    code.lw("t2", 0, "t1")
    shutdown(code)
    guest.load(code)
    refused = []

    def probe(address: int, size: int) -> int:
        hart = guest.hart
        for action in (hart.digest, hart.save, hart.dirty, hart.close, lambda: hart.run(0, 0, 1)):
            with pytest.raises(RuntimeError, match="between epochs"):
                action()
            refused.append(action)
        assert hart.time == 0 and hart.clock >= 0
        return 0

    guest.on_read = probe
    guest.finish()
    assert len(refused) == 5


def test_a_closed_hart_says_so_and_its_ram_stays_readable() -> None:
    guest = Guest()
    guest.hart.load_ram(0, b"still here")
    guest.hart.close()
    with pytest.raises(ValueError, match="closed"):
        guest.run()
    assert bytes(guest.hart.ram[:10]) == b"still here"
    guest.hart.close()


def test_a_block_that_jumps_back_into_itself_and_faults_there_has_retired() -> None:
    """It takes its own page away, so that the jump at its end cannot be fetched: all its bytes count, and the trap."""
    guest = Guest()
    tables = PageTables(guest, RAM_BASE + 0x20_0000)
    flags = PageTables.V | PageTables.R | PageTables.W | PageTables.X | PageTables.A | PageTables.D
    tables.map(RAM_BASE, RAM_BASE, flags)
    tables.map(0x4000_0000, RAM_BASE + 0x5_0000, flags)
    entry = tables.entry_address(0x4000_0000)
    tables.map(0x4000_1000, entry & ~4095, flags)
    tables.map(UART, UART, flags)
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("s0", 0x4000_1000 + (entry & 4095))
    code.li("s1", UART)
    code.li("t0", tables.satp)
    code.csrw("satp", "t0")
    code.sfence_vma()
    code.li("t0", 0x4000_0000)
    code.jalr("zero", 0, "t0")
    code.label("handler")
    code.csrr("s2", "sepc")
    code.lw("t0", 0, "s1")
    shutdown(code)
    before = Asm(0x4000_0000)
    before.lw("t0", 0, "s1")
    before.label("back")
    before.sd("zero", 0, "s0")
    before.sfence_vma()
    before.j("back")
    guest.load(code)
    guest.hart.load_ram(0x5_0000, before.image())
    clocks = []
    guest.on_read = lambda address, size: clocks.append(guest.hart.clock) or 0
    guest.finish()
    assert guest.x(18) == 0x4000_0004
    assert clocks[1] - clocks[0] == 16 + 1 + 4  # the block, the trap, and the handler's first block
