# SPDX-License-Identifier: GPL-2.0-or-later
"""A hart that a debugger looks at: pauses at any instruction, breakpoints, watched memory; and that none of it shows.

The property is checked on generated programs: straight runs of 1,500 instructions, which the engine cuts into blocks
counted from where it entered them, with loads, stores, atomics, traps, counter reads and a timer. A run with pauses at
random places ends every epoch in the state of a run without.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

import pytest

from ftvm.hart import RAM_BASE, HitKind, StopReason
from tests.ftvm.asm import Asm
from tests.ftvm.guest import SBI_TIME, UART, Guest, PageTables, shutdown

DATA = RAM_BASE + 0x10_0000
STRAIGHT = 1500  # instructions
ROUNDS = 8
TICKS = 1_000_000
REGISTERS = ("a0", "a1", "a2", "a3")


def straight_program(chance: random.Random) -> Asm:
    """Long straight runs with everything in them that ends a block early, and a timer that ticks every 7 ticks."""
    code = Asm(RAM_BASE)
    code.la("t0", "trap")
    code.csrw("stvec", "t0")
    code.li("s0", DATA)
    code.li("s1", ROUNDS)
    code.li("t0", 1 << 5)
    code.csrw("sie", "t0")
    code.li("a0", 5)
    code.sbi(SBI_TIME)
    code.li("t0", 2)
    code.csrs("sstatus", "t0")
    code.label("loop")
    for _ in range(STRAIGHT):
        instruction(code, chance)
    code.addi("s1", "s1", -1)
    code.beqz("s1", "out")
    code.la("t2", "loop")
    code.jalr("zero", 0, "t2")
    code.label("out")
    shutdown(code)
    code.label("trap")
    code.csrr("t3", "scause")
    code.blt("t3", "zero", "timer")
    code.csrr("t1", "sepc")
    code.addi("t1", "t1", 4)
    code.csrw("sepc", "t1")
    code.sret()
    code.label("timer")
    code.csrr("a0", "time")
    code.addi("a0", "a0", 7)
    code.sbi(SBI_TIME)
    code.addi("s2", "s2", 1)
    code.sret()
    return code


def instruction(code: Asm, chance: random.Random) -> None:
    """One of them, or a few."""
    kind = chance.randrange(12)
    rare = chance.random() < 0.1
    if kind == 0:
        code.sd("a0", chance.randrange(64) * 8, "s0")
    elif kind == 1:
        code.ld("a1", chance.randrange(64) * 8, "s0")
    elif kind == 2 and rare:
        code.csrr("a2", chance.choice(("time", "cycle", "instret")))
    elif kind == 3 and rare:
        code.ebreak()
    elif kind == 4 and rare:
        code.sd("a0", 0, "zero")  # a fault
    elif kind == 5:
        code.lr_d("a4", "zero", "s0")
        code.addi("a4", "a4", 1)
        code.sc_d("a5", "a4", "s0")  # must not fail because somebody looked in between
        code.amoadd_d("a6", "a0", "s0")
    else:
        code.addi(chance.choice(REGISTERS), chance.choice(REGISTERS), chance.randrange(-9, 9))


@dataclass
class Run:
    """The state at the end of each epoch, and at each pause."""

    ends: list[tuple[int, int, int, str]]
    pauses: dict[int, tuple[int, ...]]
    ticked: int


def run(code: Asm, budgets: list[int], pauses: list[int] | None = None, watch: bool = False) -> Run:
    """Epochs until the guest shuts down, with a look at all registers at each pause."""
    guest = Guest(debug=pauses is not None)
    guest.load(code)
    if watch:
        guest.hart.watch([(DATA, 64, 3)])
    done = Run([], {}, 0)
    waiting = sorted(pauses or [])
    for budget in budgets:
        reason = _epoch(guest, budget, waiting, done) if pauses is not None else guest.run(budget, ticks=TICKS)
        memory = hashlib.sha256(guest.hart.ram[DATA - RAM_BASE : DATA - RAM_BASE + 4096]).hexdigest()
        done.ends.append((int(reason), guest.hart.clock, guest.hart.digest(), memory))
        if reason == StopReason.STOPPED:
            break
    done.ticked = guest.x(18)
    return done


def _epoch(guest: Guest, budget: int, waiting: list[int], done: Run) -> StopReason:
    _pause_at_next(guest, waiting)
    reason = guest.run(budget, ticks=TICKS)
    while reason == StopReason.PAUSED:
        done.pauses[guest.hart.clock] = tuple(guest.registers().values())
        _pause_at_next(guest, waiting)
        reason = guest.hart.resume()
    return reason


def _pause_at_next(guest: Guest, waiting: list[int]) -> None:
    while waiting and waiting[0] <= guest.hart.clock:
        waiting.pop(0)
    guest.hart.pause_at(waiting[0] if waiting else None)


@pytest.mark.parametrize("seed", range(12))
def test_pauses_anywhere_in_straight_runs_do_not_show(seed: int) -> None:
    chance = random.Random(seed)
    code = straight_program(chance)
    most = chance.choice([400, 5000, 40000])
    budgets = [chance.randrange(1, most) for _ in range(2000)]
    plain = run(code, budgets)
    end = plain.ends[-1][1]
    assert plain.ends[-1][0] == StopReason.STOPPED and plain.ticked > 20
    first = chance.randrange(end)
    places = [chance.randrange(end) for _ in range(60)] + [first + n for n in range(40)]
    paused = run(code, budgets, places)
    assert paused.ends == plain.ends, f"pauses of seed {seed} have changed the run"
    assert len(paused.pauses) > 50
    again = run(code, budgets, sorted(paused.pauses)[::2], watch=True)
    assert again.ends == plain.ends, f"watching with seed {seed} has changed the run"
    assert all(paused.pauses[clock] == registers for clock, registers in again.pauses.items())


def counting_loop() -> tuple[Asm, dict[str, int]]:
    """Five rounds of one straight block; addresses of its instructions."""
    code = Asm(RAM_BASE)
    at: dict[str, int] = {}
    code.li("s0", DATA)
    code.li("s1", 5)
    code.label("loop")
    at["add"] = code.here
    code.addi("a0", "a0", 1)
    at["store"] = code.here
    code.sd("a0", 8, "s0")
    at["load"] = code.here
    code.ld("a1", 8, "s0")
    code.sw("a0", 16, "s0")
    at["atomic"] = code.here
    code.amoadd_d("a2", "a0", "s0")
    code.addi("s1", "s1", -1)
    at["branch"] = code.here
    code.bnez("s1", "loop")
    shutdown(code)
    return code, at


def test_a_breakpoint_pauses_before_its_instruction_each_time() -> None:
    code, at = counting_loop()
    guest = Guest(debug=True)
    guest.load(code)
    guest.hart.breakpoints([at["store"], at["branch"]])
    seen = []
    reason = guest.run()
    while reason == StopReason.PAUSED:
        seen.append((guest.registers()["pc"], guest.x(10)))
        reason = guest.hart.resume()
    assert reason == StopReason.STOPPED
    assert seen == [(at[name], count) for count in range(1, 6) for name in ("store", "branch")]


def test_recorded_hits_are_those_that_would_have_paused() -> None:
    code, at = counting_loop()
    clocks = []
    for record in (False, True):
        guest = Guest(debug=True)
        guest.load(code)
        guest.hart.breakpoints([at["add"], at["load"]], record=record)
        reason = guest.run()
        while reason == StopReason.PAUSED:
            clocks.append((guest.hart.clock, guest.registers()["pc"]))
            reason = guest.hart.resume()
    hits = guest.hart.hits()
    assert [(hit.clock, hit.address) for hit in hits] == clocks and len(hits) == 10
    assert {hit.kind for hit in hits} == {HitKind.BREAKPOINT}
    assert guest.hart.hits() == []


def test_a_breakpoint_in_the_middle_of_an_instruction_is_never_met() -> None:
    code, at = counting_loop()
    counts = []
    for record, breakpoints in ((False, []), (False, [at["load"] + 2, at["atomic"] + 1]), (True, [at["load"] + 2])):
        guest = Guest(debug=True)
        guest.load(code)
        guest.hart.breakpoints(breakpoints, record=record)
        assert guest.run() == StopReason.STOPPED and guest.hart.hits() == []
        counts.append([guest.hart.counters()[name] for name in ("slices", "translations", "removals")])
    assert counts[0] == counts[1] == counts[2]


def test_of_very_many_hits_the_first_and_the_latest_are_kept() -> None:
    rounds = 800_000
    code = Asm(RAM_BASE)
    code.li("s1", rounds)
    code.label("loop")
    place = code.here
    code.addi("s1", "s1", -1)
    code.bnez("s1", "loop")
    shutdown(code)
    guest = Guest(debug=True)
    guest.load(code)
    guest.hart.breakpoints([place], record=True)
    assert guest.run(1 << 30, ticks=1 << 40) == StopReason.STOPPED
    hits = [hit.clock for hit in guest.hart.hits()]
    assert hits == sorted(set(hits)) and 100_000 < len(hits) < rounds
    size = hits[1] - hits[0]
    assert hits[0] == place - RAM_BASE and hits[-1] == hits[0] + (rounds - 1) * size


def test_recorded_hits_survive_pauses_in_their_block_once_each() -> None:
    code, at = counting_loop()
    expected = None
    for step in (None, 1, 3, 7):
        guest = Guest(debug=True)
        guest.load(code)
        guest.hart.breakpoints([at["add"], at["load"], at["branch"]], record=True)
        reason = guest.run() if step is None else stepping(guest, step)
        assert reason == StopReason.STOPPED
        hits = [(hit.clock, hit.address) for hit in guest.hart.hits()]
        assert len(hits) == 15
        expected = expected or hits
        assert hits == expected, step


def stepping(guest: Guest, step: int) -> StopReason:
    """A run with a pause every `step` of the clock."""
    guest.hart.pause_at(guest.hart.clock + step)
    reason = guest.run()
    while reason == StopReason.PAUSED:
        guest.hart.pause_at(guest.hart.clock + step)
        reason = guest.hart.resume()
    return reason


def test_a_breakpoint_behind_a_fault_in_its_block_is_not_hit() -> None:
    for record in (False, True):
        code = Asm(RAM_BASE)
        code.la("t0", "trap")
        code.csrw("stvec", "t0")
        code.ld("a0", 0, "zero")
        behind = code.here
        code.addi("a1", "a1", 1)
        code.label("trap")
        shutdown(code)
        guest = Guest(debug=True)
        guest.load(code)
        guest.hart.breakpoints([behind], record=record)
        guest.finish()
        assert guest.hart.hits() == [] and guest.x(11) == 0


def test_watched_memory_tells_who_when_and_what() -> None:
    code, at = counting_loop()
    guest = Guest(debug=True)
    guest.load(code)
    guest.hart.watch([(DATA + 8, 8, 2)])
    guest.hart.breakpoints([at["store"]], record=True)
    guest.finish()
    hits = guest.hart.hits()
    writes = [hit for hit in hits if hit.kind == HitKind.WRITE]
    assert [(hit.address, hit.value, hit.size) for hit in writes] == [(DATA + 8, n, 8) for n in range(1, 6)]
    assert [hit.clock for hit in writes] == [hit.clock for hit in hits if hit.kind == HitKind.BREAKPOINT]


def test_reads_and_atomics_are_seen_where_they_are_watched() -> None:
    code, _ = counting_loop()
    guest = Guest(debug=True)
    guest.load(code)
    guest.hart.watch([(DATA, 8, 3)])
    guest.finish()
    kinds = [hit.kind for hit in guest.hart.hits()]
    assert kinds.count(HitKind.WRITE) == 5 and HitKind.READ in kinds
    guest.hart.watch([])
    guest.load(code)
    guest.finish()
    assert guest.hart.hits() == []


def test_watched_memory_is_named_by_physical_address_under_paging() -> None:
    guest = Guest(debug=True)
    virtual = 0x4000_0000
    tables = PageTables(guest, RAM_BASE + 0x20_0000)
    every = tables.V | tables.R | tables.W | tables.X | tables.A | tables.D
    tables.map(virtual, DATA, every)
    tables.map(RAM_BASE, RAM_BASE, every, level=2)
    code = Asm(RAM_BASE)
    code.li("t0", tables.satp)
    code.csrw("satp", "t0")
    code.sfence_vma()
    code.li("s0", virtual)
    code.li("a0", 77)
    code.sd("a0", 24, "s0")
    shutdown(code)
    guest.load(code)
    guest.hart.watch([(DATA + 24, 8, 2)])
    guest.finish()
    (hit,) = guest.hart.hits()
    assert (hit.address, hit.value) == (DATA + 24, 77)
    assert guest.hart.translate(virtual + 24) == DATA + 24
    assert guest.hart.translate(virtual + 4096) is None


def test_what_a_device_writes_is_seen() -> None:
    guest = Guest(debug=True)

    def write(address: int, size: int, value: int) -> None:
        guest.hart.writes(DATA, 4)
        guest.hart.ram[DATA - RAM_BASE : DATA - RAM_BASE + 4] = b"data"

    guest.on_write = write
    code = Asm(RAM_BASE)
    code.li("s0", UART)
    code.sb("a0", 0, "s0")
    shutdown(code)
    guest.load(code)
    guest.hart.watch([(DATA + 2, 8, 2)])
    guest.finish()
    (hit,) = guest.hart.hits()
    assert (hit.kind, hit.address) == (HitKind.DEVICE, DATA + 2)


def test_a_paused_hart_can_only_be_looked_at_resumed_or_restored() -> None:
    code, at = counting_loop()
    guest = Guest(debug=True)
    guest.load(code)
    state = guest.hart.save()
    guest.hart.breakpoints([at["load"]])
    assert guest.run() == StopReason.PAUSED
    for act in (guest.hart.save, guest.hart.digest, guest.run):
        with pytest.raises(RuntimeError, match="paused"):
            act()
    assert guest.hart.registers()["clock"] == guest.hart.clock
    guest.hart.restore(state)
    guest.hart.breakpoints([])
    guest.finish()
    assert guest.x(9) == 0 and guest.x(11) == 5
    with pytest.raises(RuntimeError, match="has not paused"):
        guest.hart.resume()


def test_a_paused_hart_shows_what_the_guest_has_set() -> None:
    tables_at = RAM_BASE + 0x20_0000
    values = {
        "sepc": 0x1234, "scause": 7, "stval": 0xDEAD, "stvec": RAM_BASE + 0x4000, "sscratch": 0x77, "sie": 0x222,
        "scounteren": 5, "fcsr": 0x7F, "satp": 8 << 60 | tables_at >> 12,
    }  # fmt: skip
    guest = Guest(debug=True)
    tables = PageTables(guest, tables_at)
    tables.map(RAM_BASE, RAM_BASE, 0xCF, level=2)
    code = Asm(RAM_BASE)
    code.li("t0", 3 << 13)
    code.csrs("sstatus", "t0")
    for name, value in values.items():
        code.li("t0", value)
        code.csrw(name, "t0")
    code.li("t0", 1 << 18 | 1 << 5)
    code.csrs("sstatus", "t0")
    code.csrrwi("zero", "sip", 2)
    here = code.here
    code.nop()
    shutdown(code)
    guest.load(code)
    guest.hart.breakpoints([here])
    assert guest.run() == StopReason.PAUSED
    paused = guest.registers()
    guest.hart.restore(closed_at(guest, here))
    assert guest.registers() == paused
    assert {name: paused[name] for name in values} == values
    assert paused["sip"] == 2 and paused["pc"] == here and paused["priv"] == 1
    assert paused["sstatus"] & ~(1 << 63) == 3 << 13 | 1 << 18 | 1 << 5


def closed_at(guest: Guest, here: int) -> bytes:
    """The state at `here` as a second hart saves it, which does not pause but has its epoch end there."""
    other = Guest()
    other.hart.load_ram(0, bytes(guest.hart.ram))
    other.hart.reset(RAM_BASE, 0, 0)
    other.run(guest.hart.clock)
    assert (other.registers()["pc"], other.hart.clock) == (here, guest.hart.clock)
    return other.hart.save()


def test_a_hart_that_was_not_made_for_debugging_says_so() -> None:
    guest = Guest()
    for act in (lambda: guest.hart.pause_at(5), lambda: guest.hart.breakpoints([1]), guest.hart.hits):
        with pytest.raises(RuntimeError, match="not made for debugging"):
            act()


def test_only_ram_can_be_watched() -> None:
    guest = Guest(debug=True)
    for wrong in ((UART, 4, 1), (RAM_BASE, 0, 1), (RAM_BASE + (4 << 20) - 4, 8, 1), (RAM_BASE, 8, 4), (RAM_BASE, 8, 0)):
        with pytest.raises(ValueError, match="cannot be watched"):
            guest.hart.watch([wrong])
