# SPDX-License-Identifier: GPL-2.0-or-later
"""The same epochs from the same state give the same digests: cut otherwise, saved and restored, in another process.

The guest here does a bit of everything: paging with demand faults, timers, external interrupts, self-modifying code,
floating point, counters, atomics, calls to the firmware.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from ftvm.hart import RAM_BASE, Hart
from tests.ftvm.asm import Asm
from tests.ftvm.guest import SBI_TIME, UART, Guest, PageTables, shutdown

ROOT = Path(__file__).parents[2]
V, R, W, X, U, A, D = PageTables.V, PageTables.R, PageTables.W, PageTables.X, PageTables.U, PageTables.A, PageTables.D
TABLES = RAM_BASE + 0x20_0000
CODE_PAGE = RAM_BASE + 0x4_0000
STATE = RAM_BASE + 0x10_0000
HEAP = 0x4020_0000
EPOCHS = 40


def busy_guest() -> Guest:
    guest = Guest()
    tables = PageTables(guest, TABLES)
    for page in range(16):
        tables.map(RAM_BASE + 4096 * page, RAM_BASE + 4096 * page, V | R | X)
    tables.map(STATE, STATE, V | R | W)
    tables.map(0x4000_1000, CODE_PAGE, V | R | X)
    tables.map(0x4000_2000, CODE_PAGE, V | R | W)
    tables.map(0x4000_3000, CODE_PAGE + 4096, V | R | W | X)
    tables.map(UART, UART, V | R | W)
    for page in range(64):
        tables.map(HEAP + 4096 * page, RAM_BASE + 0x30_0000 + 4096 * page, 0)  # mapped by the fault handler
    heap_entries = tables.entry_address(HEAP)
    tables.map(0x4100_0000, heap_entries & ~4095, V | R | W | A | D)
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", tables.satp)
    code.csrw("satp", "t0")
    code.sfence_vma()
    code.li("sp", STATE)
    code.li("t0", 0x222)
    code.csrw("sie", "t0")
    code.li("t0", 3 << 13 | 2)
    code.csrs("sstatus", "t0")
    code.csrr("a0", "time")
    code.addi("a0", "a0", 50)
    code.sbi(SBI_TIME)
    code.li("s0", 12345)  # the seed
    code.label("loop")
    code.li("t0", 6364136223846793005)
    code.mul("s0", "s0", "t0")
    code.li("t0", 1442695040888963407)
    code.add("s0", "s0", "t0")
    code.srli("s1", "s0", 40)  # touch the heap, which faults pages in
    code.li("t0", 0x3_FFF8)
    code.and_("s1", "s1", "t0")
    code.li("t0", HEAP)
    code.add("s1", "s1", "t0")
    code.ld("t1", 0, "s1")
    code.add("t1", "t1", "s0")
    code.sd("t1", 0, "s1")
    code.csrr("t2", "cycle")
    code.xor("s2", "s2", "t2")
    code.csrr("t2", "time")
    code.add("s2", "s2", "t2")
    code.fmv_d_x("f1", "s0")
    code.word(0x02108153)  # fadd.d f2, f1, f1
    code.fsd("f2", 64, "sp")
    code.ld("t3", 64, "sp")
    code.xor("s3", "s3", "t3")
    code.andi("t0", "s0", 0x700)
    code.bnez("t0", "no_patch")
    code.srli("t1", "s0", 50)  # new code through an alias, and through its own page
    code.andi("t1", "t1", 0x3FF)
    code.slli("t1", "t1", 20)
    code.li("t2", 0x513)
    code.or_("t1", "t1", "t2")
    code.li("t3", 0x8067)
    for target in (0x4000_2000, 0x4000_3000):
        code.li("t0", target)
        code.sw("t1", 0, "t0")
        code.sw("t3", 4, "t0")
    code.fence_i()
    for target in (0x4000_1000, 0x4000_3000):
        code.li("t0", target)
        code.jalr("ra", 0, "t0")
        code.add("s4", "s4", "a0")
    code.label("no_patch")
    code.li("t0", STATE + 128)
    code.label("retry")
    code.lr_d("t1", "zero", "t0")
    code.addi("t1", "t1", 1)
    code.sc_d("t2", "t1", "t0")
    code.bnez("t2", "retry")
    code.andi("t0", "s0", 0x3C0)
    code.bnez("t0", "no_device")
    code.li("t0", UART)
    code.sw("s0", 0, "t0")
    code.lw("t1", 4, "t0")
    code.add("s5", "s5", "t1")
    code.label("no_device")
    code.srli("t0", "s0", 52)
    code.bnez("t0", "no_wait")
    code.wfi()
    code.label("no_wait")
    code.andi("t0", "s0", 0x1F0)
    code.bnez("t0", "no_unmap")
    code.li("t0", 0x4100_0000 + (heap_entries & 4095))  # take a page of the heap away again
    code.srli("t1", "s0", 30)
    code.andi("t1", "t1", 63 * 8 & ~7)
    code.add("t0", "t0", "t1")
    code.sd("zero", 0, "t0")
    code.sfence_vma()
    code.label("no_unmap")
    code.j("loop")
    code.align(4)
    code.label("handler")
    code.csrw("sscratch", "t0")
    code.sd("t1", 0, "sp")
    code.sd("t2", 8, "sp")
    code.sd("a0", 16, "sp")
    code.sd("a1", 24, "sp")
    code.sd("a6", 32, "sp")
    code.sd("a7", 40, "sp")
    code.csrr("t0", "scause")
    code.bge("t0", "zero", "fault")
    code.addi("s6", "s6", 1)
    code.andi("t0", "t0", 15)
    code.addi("t0", "t0", -5)
    code.beqz("t0", "timer")
    code.addi("t0", "t0", -4)
    code.bnez("t0", "out")
    code.li("t0", UART)  # the external one: the device lowers its line
    code.sw("s6", 8, "t0")
    code.j("out")
    code.label("timer")
    code.csrr("a0", "time")
    code.addi("a0", "a0", 40)
    code.sbi(SBI_TIME)
    code.j("out")
    code.label("fault")  # a page of the heap: map it
    code.addi("s7", "s7", 1)
    code.csrr("t0", "stval")
    code.li("t1", HEAP)
    code.sub("t0", "t0", "t1")
    code.srli("t0", "t0", 12)
    code.slli("t1", "t0", 3)
    code.li("t2", 0x4100_0000 + (heap_entries & 4095))
    code.add("t1", "t1", "t2")
    code.slli("t0", "t0", 10)
    code.li("t2", (RAM_BASE + 0x30_0000) >> 12 << 10 | V | R | W)
    code.add("t0", "t0", "t2")
    code.sd("t0", 0, "t1")
    code.sfence_vma()
    code.label("out")
    code.ld("t1", 0, "sp")
    code.ld("t2", 8, "sp")
    code.ld("a0", 16, "sp")
    code.ld("a1", 24, "sp")
    code.ld("a6", 32, "sp")
    code.ld("a7", 40, "sp")
    code.csrr("t0", "sscratch")
    code.sret()
    guest.load(code)

    def write(address: int, size: int, value: int) -> None:
        if address == UART + 8:
            guest.hart.set_external(False)
        elif value % 3 == 0:
            guest.hart.set_external(True)
        if value % 5 == 0:  # DMA into code and data
            guest.hart.writes(RAM_BASE + 0x4_0F00, 8)
            guest.hart.ram[0x4_0F00:0x4_0F08] = value.to_bytes(8, "little")

    guest.on_write = write
    guest.on_read = lambda address, size: guest.hart.clock & 0xFFFF
    return guest


def ram_digest(hart: Hart) -> int:
    return zlib.crc32(hart.ram)


def script(seed: int) -> list[tuple[int, int, bool]]:
    """(ticks to advance, budget, raise the line) of each epoch."""
    chance = random.Random(seed)
    return [
        (chance.choice([0, 10, 100]), chance.choice([50, 1000, 20_000, 50_000]), chance.random() < 0.3)
        for _ in range(EPOCHS)
    ]


def step(guest: Guest, entry: tuple[int, int, bool]) -> int:
    ticks, budget, line = entry
    if line:
        guest.hart.set_external(True)
    now = guest.hart.time + ticks
    guest.hart.run(now, now + 1000, budget)
    return guest.hart.digest()


def run_whole(seed: int) -> list[int]:
    guest = busy_guest()
    digests = [step(guest, entry) for entry in script(seed)]
    return [*digests, ram_digest(guest.hart)]


def replay_hint(seed: int) -> str:
    return f"replay with: python -m pytest tests/ftvm/test_hart_state.py -k 'seed{seed}' (seed {seed})"


SEEDS = [pytest.param(seed, id=f"seed{seed}") for seed in range(4)]


def test_the_busy_guest_is_busy() -> None:
    guest = busy_guest()
    for entry in script(0):
        step(guest, entry)
    counters = guest.hart.counters()
    for name in ("faults", "counter_reads", "time_reads", "mmio_reads", "mmio_writes", "sbi_calls", "code_to_writable",
                 "host_writes_to_code"):  # fmt: skip
        assert counters[name] > 5, (name, counters)
    assert counters["address_unknown"] == 0
    assert guest.x(22) > 10  # interrupts


@pytest.mark.parametrize("seed", SEEDS)
def test_two_runs_agree(seed: int) -> None:
    assert run_whole(seed) == run_whole(seed), replay_hint(seed)


def disturb(guest: Guest, chance: random.Random) -> None:
    """Things that a replica may do between epochs and the other not, and that must not show."""
    if chance.random() < 0.3:
        guest.hart.writes(RAM_BASE + 4096 * chance.randrange(1024), 4096)
    if chance.random() < 0.2:
        guest.hart.digest()
    if chance.random() < 0.2:
        guest.hart.clear_dirty()
    if chance.random() < 0.2:
        guest.hart.snapshots().begin().take(chance.randrange(1, 300))
    if chance.random() < 0.2:
        guest.hart.save()


@pytest.mark.parametrize("seed", SEEDS)
def test_dropped_translations_do_not_show(seed: int) -> None:
    chance = random.Random(seed)
    guest = busy_guest()
    digests = []
    for entry in script(seed):
        disturb(guest, chance)
        digests.append(step(guest, entry))
    assert [*digests, ram_digest(guest.hart)] == run_whole(seed), replay_hint(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restored_hart_goes_on_alike(seed: int) -> None:
    chance = random.Random(seed)
    guest = busy_guest()
    digests = []
    for entry in script(seed):
        if chance.random() < 0.3:
            state, ram = guest.hart.save(), bytes(guest.hart.ram)
            guest = busy_guest()
            guest.hart.load_ram(0, ram)
            guest.hart.restore(state)
            assert guest.hart.save() == state
        digests.append(step(guest, entry))
    assert [*digests, ram_digest(guest.hart)] == run_whole(seed), replay_hint(seed)


CONTINUE = """
import json, sys
from tests.ftvm.test_hart_state import busy_guest, ram_digest, script, step
job = json.load(sys.stdin)
guest = busy_guest()
guest.hart.load_ram(0, bytes.fromhex(job["ram"]))
guest.hart.restore(bytes.fromhex(job["state"]))
digests = [step(guest, entry) for entry in script(job["seed"])[job["done"]:]]
print(json.dumps([*digests, ram_digest(guest.hart)]))
"""


@pytest.mark.parametrize("seed", SEEDS)
def test_another_process_goes_on_alike(seed: int) -> None:
    done = random.Random(seed).randrange(5, EPOCHS - 5)
    guest = busy_guest()
    for entry in script(seed)[:done]:
        step(guest, entry)
    job = {"seed": seed, "done": done, "ram": bytes(guest.hart.ram).hex(), "state": guest.hart.save().hex()}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", CONTINUE]
    result = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=environment, check=True)
    assert json.loads(result.stdout) == run_whole(seed)[done:], replay_hint(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_epochs_cut_in_two_end_alike(seed: int) -> None:
    """Guest time runs through, so a cut epoch reaches the same state as a whole one."""
    whole, cut = busy_guest(), busy_guest()
    chance = random.Random(seed)
    clock = 0
    for _ in range(20):
        end = clock + chance.randrange(1000, 30_000)
        for guest, cuts in ((whole, []), (cut, sorted(chance.randrange(clock, end) for _ in range(5)))):
            for limit in (*cuts, end):
                while guest.hart.clock < limit:  # no ticks pass between, so waiting just ends the epoch
                    guest.hart.run(guest.hart.time, guest.hart.time, limit - guest.hart.clock)
        clock = whole.hart.clock
        assert cut.hart.clock == clock, replay_hint(seed)
        assert cut.hart.digest() == whole.hart.digest(), replay_hint(seed)


def test_one_changed_register_is_another_digest() -> None:
    guest = busy_guest()
    guest.run(10_000, ticks=1000)
    state = guest.hart.save()
    seen = {guest.hart.digest()}
    names = list(guest.registers())
    for index in range(len(names)):
        word = bytearray(state)
        word[16 + 8 * index] ^= 2 if names[index] in ("sip", "sie", "sstatus") else 4 if names[index] == "stvec" else 1
        try:
            guest.hart.restore(bytes(word))
        except ValueError:
            continue
        digest = guest.hart.digest()
        assert digest not in seen, names[index]
        seen.add(digest)
    assert len(seen) > len(names) - 3


def test_a_state_that_is_not_one_is_refused_in_words() -> None:
    guest = Guest()
    state = guest.hart.save()
    words = {name: 16 + 8 * index for index, name in enumerate(guest.registers())}

    def with_byte(offset: int, value: int) -> bytes:
        changed = bytearray(state)
        changed[offset] = value
        return bytes(changed)

    for bad, why in (
        (b"", "size"),
        (state[:-8], "size"),
        (state + bytes(8), "size"),
        (with_byte(0, 0), "not the state"),
        (with_byte(8, 99), "another version"),
        (with_byte(words["priv"], 3), "privilege"),
        (with_byte(words["sip"], 1), "interrupt line"),
        (with_byte(words["external"], 2), "interrupt line"),
    ):
        with pytest.raises(ValueError, match=why):
            guest.hart.restore(bad)
    guest.hart.restore(state)


def test_floating_point_state_survives_even_when_it_is_switched_off() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", 3 << 13)
    code.csrs("sstatus", "t0")
    code.li("t1", 0x7F)
    code.csrw("fcsr", "t1")
    code.fmv_d_x("f5", "t1")
    code.csrc("sstatus", "t0")
    shutdown(code)
    guest.load(code)
    guest.finish()
    assert guest.registers()["fcsr"] == 0x7F
    assert guest.registers()["f5"] == 0x7F
    assert guest.registers()["sstatus"] & 3 << 13 == 0
    other = Guest()
    other.hart.restore(guest.hart.save())
    assert other.registers() == guest.registers()


def test_the_reservation_is_lost_at_every_epoch_boundary() -> None:
    """A restored hart cannot have it, so no hart may keep it."""
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("s0", RAM_BASE + 0x8000)
    code.lr_d("t0", "zero", "s0")
    code.li("s2", 1)
    code.j(code.here + 4)
    code.sc_d("s1", "t0", "s0")
    shutdown(code)
    for budget, failed in ((1, 1), (1000, 0)):
        guest.load(code)
        guest.run(budget)
        if not guest.calls:
            guest.finish()
        assert (guest.x(9), guest.x(18)) == (failed, 1)
        guest.calls.clear()


def test_a_raised_line_survives_a_restore_and_can_still_fall() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", 1 << 9)
    code.csrw("sie", "t0")
    code.wfi()
    code.label("read")
    code.csrr("s1", "sip")
    code.wfi()
    code.j("read")
    guest.load(code)
    guest.hart.set_external(True)
    guest.run(100)
    state = guest.hart.save()
    other = Guest()
    other.hart.load_ram(0, guest.hart.ram)
    other.hart.restore(state)
    other.run(100)
    assert other.x(9) == 1 << 9
    other.hart.restore(state)
    other.hart.set_external(False)
    other.run(100)
    other.run(100)
    assert other.x(9) == 0


def test_a_pending_software_interrupt_survives_a_restore() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.csrrsi("zero", "sip", 2)
    code.csrrsi("zero", "sie", 2)
    code.label("here")
    code.j("here")
    code.nop()
    code.nop()
    code.label("handler")
    code.csrr("s1", "scause")
    shutdown(code)
    guest.load(code)
    guest.run(40)
    assert guest.registers()["sip"] == 2
    other = Guest()
    other.hart.load_ram(0, guest.hart.ram)
    other.hart.restore(guest.hart.save())
    more = Asm(RAM_BASE + 0x1000)
    more.csrrsi("zero", "sstatus", 2)
    more.label("spin")
    more.j("spin")
    other.hart.load_ram(code.labels["here"] - RAM_BASE, more.image())
    other.finish()
    assert other.x(9) == 1 << 63 | 1
