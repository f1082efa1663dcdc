# SPDX-License-Identifier: GPL-2.0-or-later
"""The harness: runs one program after another in supervisor mode and writes down what became of each.

It is the same bytes on both sides. On the reference a machine-mode shim starts it and stands in for the firmware:
it delegates what ftvm's hart takes in supervisor mode (every exception but environment calls from there, the three
supervisor interrupts), allows cycle, time and instret, and answers every firmware call but shutdown with "not
supported", as the other runner does.

The trap handler logs a trap and goes on: behind the instruction; after a fetch fault or an environment call where the
program said (once, in supervisor mode); after an interrupt where it was, with SSIP cleared. It finds its slot through
the header and reads the length of the instruction from the code pages, so it needs nothing of the program's own; what a
program finds in sscratch after a trap is its x31.
"""

from __future__ import annotations

from functools import cache

from tests.ftvm.asm import Asm
from tests.isa.layout import (
    CODE,
    CODE_MASK,
    DIRECT,
    FINAL_CSRS,
    HARNESS,
    HEADER,
    HEADER_COUNT,
    HEADER_RUNNING,
    RAM_BASE,
    SLOT_SIZE,
    TRAP_SIZE,
    TRAPS_MAX,
    VECTORS,
    Control,
    Ended,
)

SSIP = 2
SHUTDOWN = 8  # legacy firmware call
FINISHER, FINISHER_PASS, FINISHER_FAIL = 0x10_0000, 0x5555, 0x3333
FP_ON = 3 << 13
SPP = 1 << 8
CSR = {"fcsr": 0x003, "mtvec": 0x305, "medeleg": 0x302, "mideleg": 0x303, "mcounteren": 0x306, "mepc": 0x341,
       "mcause": 0x342, "pmpcfg0": 0x3A0, "pmpaddr0": 0x3B0}  # fmt: skip
EXCEPTIONS_DELEGATED = 0xB1FF
INTERRUPTS_DELEGATED = 0x222
SUPERVISOR_ECALL, BREAKPOINT = 9, 3
A, B, C, SLOT = "t3", "t4", "t5", "t6"  # the handler's registers, x28 to x31; saved in this order
A_NUMBER = 28


@cache
def shim() -> bytes:
    """Machine mode: delegates, enters the harness, answers firmware calls. A second hart sleeps, see batch.py."""
    code = Asm(RAM_BASE)
    code.csrr("t0", "mhartid")
    code.label("not the first")
    code.beqz("t0", "first")
    code.wfi()
    code.j("not the first")
    code.label("first")
    code.la("t0", "trap")
    code.csrw(CSR["mtvec"], "t0")
    for csr, value in (("pmpaddr0", (1 << 64) - 1), ("pmpcfg0", 0x1F), ("medeleg", EXCEPTIONS_DELEGATED),
                       ("mideleg", INTERRUPTS_DELEGATED), ("mcounteren", 7), ("mepc", HARNESS)):  # fmt: skip
        code.li("t0", value)
        code.csrw(CSR[csr], "t0")
    code.li("t0", 1 << 11)  # MPP: supervisor
    code.csrw("mstatus", "t0")
    code.mret()
    code.align(4)
    code.label("trap")
    code.csrw("mscratch", "t0")
    code.csrr("t0", CSR["mcause"])
    code.addi("t0", "t0", -SUPERVISOR_ECALL)
    code.bnez("t0", "broken")
    code.addi("t0", "zero", SHUTDOWN)
    code.beq("a7", "t0", "shutdown")
    code.csrr("t0", CSR["mepc"])
    code.addi("t0", "t0", 4)
    code.csrw(CSR["mepc"], "t0")
    code.li("a0", -2)
    code.li("a1", 0)
    code.csrr("t0", "mscratch")
    code.mret()
    for label, value in (("broken", FINISHER_FAIL | 1 << 16), ("shutdown", FINISHER_PASS)):
        code.label(label)
        code.li("t1", FINISHER)
        code.li("t2", value)
        code.sw("t2", 0, "t1")
        code.j(code.here)
    return code.image()


def _floats(code: Asm, base: str, at: Control, *, load: bool) -> None:
    for number in range(32):
        (code.fld if load else code.fsd)(f"f{number}", at + 8 * number, base)


def _find_slot(code: Asm) -> None:
    code.li(SLOT, HEADER)
    code.ld(SLOT, HEADER_RUNNING, SLOT)


def _start(code: Asm) -> None:
    _find_slot(code)
    code.j("next")


def _vectors(code: Asm) -> None:
    code.at(HARNESS + DIRECT)
    _enter(code, 0)
    code.at(HARNESS + VECTORS)
    for entry in range(16):
        code.j(f"vector {entry}")
    for entry in range(16):
        code.label(f"vector {entry}")
        _enter(code, entry + 1)


def _enter(code: Asm, vector: int) -> None:
    code.csrw("sscratch", SLOT)
    _find_slot(code)
    code.sd(C, Control.SAVED + 16, SLOT)
    code.addi(C, "zero", vector)
    code.j("handler")


def _leave(code: Asm) -> None:
    for index, register in enumerate((A, B, C, SLOT)):
        code.ld(register, Control.SAVED + 8 * index, SLOT)
    code.sret()


def _log(code: Asm) -> None:
    """To the trap log; then registers A and B are free."""
    code.sd(A, Control.SAVED, SLOT)
    code.sd(B, Control.SAVED + 8, SLOT)
    code.csrr(A, "sscratch")
    code.sd(A, Control.SAVED + 24, SLOT)
    code.ld(A, Control.TRAPS, SLOT)
    code.addi(B, A, 1)
    code.sd(B, Control.TRAPS, SLOT)
    code.slli(B, A, 5)
    code.slli(A, A, 3)
    code.add(A, A, B)
    code.add(A, A, SLOT)
    assert TRAP_SIZE == 32 + 8
    code.sd(C, Control.LOG + 32, A)
    for index, csr in enumerate(("scause", "sepc", "stval")):
        code.csrr(B, csr)
        code.sd(B, Control.LOG + 8 * index, A)
    _even_breakpoint(code)
    code.csrr(B, "sstatus")
    code.ld(C, Control.SSTATUS_SEEN, SLOT)
    code.and_(B, B, C)
    code.sd(B, Control.LOG + 24, A)


def _even_breakpoint(code: Asm) -> None:
    """A breakpoint's stval may be its address or 0 (privileged specification 4.1.9): make it 0."""
    code.csrr(B, "scause")
    code.addi(B, B, -BREAKPOINT)
    code.bnez(B, "even")
    code.csrr(B, "sepc")
    code.csrr(C, "stval")
    code.bne(B, C, "even")
    code.csrw("stval", "zero")
    code.sd("zero", Control.LOG + 16, A)
    code.label("even")


def _handler(code: Asm) -> None:
    code.label("handler")
    _log(code)
    code.addi(C, "zero", Ended.TOO_MANY_TRAPS)
    code.ld(A, Control.TRAPS, SLOT)
    code.addi(B, "zero", TRAPS_MAX)
    code.bge(A, B, "program ends")
    code.csrr(A, "scause")
    code.blt(A, "zero", "interrupt")
    for cause in (1, 8, 12):
        code.addi(B, "zero", cause)
        code.beq(A, B, "resume")
    code.csrr(B, "sepc")
    code.li(C, CODE_MASK)
    code.and_(C, B, C)
    code.addi(A, A, -BREAKPOINT)
    code.bnez(A, "skip")
    code.ld(A, Control.END, SLOT)
    code.bne(A, C, "skip")
    code.addi(C, "zero", Ended.WHOLE)
    code.j("program ends")
    code.label("skip")  # B is sepc, C its place in the code pages
    code.add(C, C, SLOT)
    code.li(A, CODE)
    code.add(C, C, A)
    code.lbu(C, 0, C)
    code.andi(C, C, 3)
    code.addi(A, "zero", 3)
    code.addi(B, B, 2)
    code.bne(C, A, "skipped")
    code.addi(B, B, 2)
    code.label("skipped")
    code.csrw("sepc", B)
    _leave(code)
    code.label("interrupt")
    code.csrrci("zero", "sip", SSIP)
    _leave(code)
    code.label("resume")
    code.addi(C, "zero", Ended.NOWHERE_TO_GO)
    code.ld(B, Control.RESUME, SLOT)
    code.beq(B, "zero", "program ends")
    code.sd("zero", Control.RESUME, SLOT)
    code.csrw("sepc", B)
    code.li(B, SPP)
    code.csrs("sstatus", B)
    _leave(code)


def _program_ends(code: Asm) -> None:
    """Everything to the control page; C says how it ended."""
    code.label("program ends")
    code.sd(C, Control.ENDED, SLOT)
    for number in range(1, A_NUMBER):
        code.sd(number, Control.FINAL_X + 8 * number, SLOT)
    for index in range(4):
        code.ld(A, Control.SAVED + 8 * index, SLOT)
        code.sd(A, Control.FINAL_X + 8 * (A_NUMBER + index), SLOT)
    code.csrr(A, "sstatus")
    code.ld(C, Control.SSTATUS_SEEN, SLOT)
    code.and_(A, A, C)
    code.li(C, FP_ON)
    code.csrs("sstatus", C)
    for index, csr in enumerate(FINAL_CSRS):
        if csr != "sstatus":
            code.csrr(A, CSR.get(csr, csr))
        code.sd(A, Control.FINAL_CSRS + 8 * index, SLOT)
    _floats(code, SLOT, Control.FINAL_F, load=False)
    code.csrw("satp", "zero")
    code.sfence_vma()
    code.li(A, SLOT_SIZE)
    code.add(SLOT, SLOT, A)


def _next(code: Asm) -> None:
    code.label("next")
    code.li(A, HEADER)
    code.sd(SLOT, HEADER_RUNNING, A)
    code.ld(B, HEADER_COUNT, A)
    code.beq(B, "zero", "all done")
    code.addi(B, B, -1)
    code.sd(B, HEADER_COUNT, A)
    code.la(A, "direct")
    code.csrw("stvec", A)
    code.csrw("sip", "zero")
    for csr, at in (("sie", Control.SIE), ("scounteren", Control.SCOUNTEREN), ("sepc", Control.ENTRY)):
        code.ld(A, at, SLOT)
        code.csrw(csr, A)
    code.csrw("scause", "zero")
    code.csrw("stval", "zero")
    code.li(A, FP_ON)
    code.csrs("sstatus", A)
    _floats(code, SLOT, Control.F, load=True)
    code.ld(A, Control.FCSR, SLOT)
    code.csrw(CSR["fcsr"], A)
    code.ld(A, Control.SATP, SLOT)
    code.csrw("satp", A)
    code.sfence_vma()
    code.fence_i()
    code.ld(A, Control.SSTATUS, SLOT)
    code.csrw("sstatus", A)
    for number in range(1, 32):
        code.ld(number, Control.X + 8 * number, SLOT)
    code.sret()
    code.label("all done")
    code.li("a7", SHUTDOWN)
    code.ecall()
    code.j(code.here)


@cache
def harness() -> bytes:
    """Supervisor mode."""
    code = Asm(HARNESS)
    code.labels["direct"] = HARNESS + DIRECT
    _start(code)
    _vectors(code)
    _handler(code)
    _program_ends(code)
    _next(code)
    image = code.image()
    assert HARNESS + len(image) <= HEADER
    return image
