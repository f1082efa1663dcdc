# SPDX-License-Identifier: GPL-2.0-or-later
"""Atoms of the supervisor's world: CSRs, counters, exceptions, interrupts, firmware calls.

In user mode most of them trap, instruction by instruction, which is as good a test.
"""

from __future__ import annotations

from tests.isa.chance import Chance
from tests.isa.encode import CSR_IMMEDIATE, CSR_REGISTER, OP_IMM, SYSTEM, i_type
from tests.isa.harness import SSIP
from tests.isa.integer import addi, half, load_number, word, words
from tests.isa.layout import DIRECT, HARNESS, VECTORS

SSTATUS, SIE, STVEC, SCOUNTEREN, SSCRATCH, SEPC, SCAUSE, STVAL, SIP, SATP = (
    0x100, 0x104, 0x105, 0x106, 0x140, 0x141, 0x142, 0x143, 0x144, 0x180
)  # fmt: skip
COUNTERS = (0xC00, 0xC01, 0xC02)
KNOWN = {1, 2, 3, SSTATUS, SIE, STVEC, SCOUNTEREN, SSCRATCH, SEPC, SCAUSE, STVAL, SIP, SATP, *COUNTERS}
OTHERS = [csr for csr in range(4096) if csr not in KNOWN]
NOTABLE = [
    *range(0xC03, 0xC20), *range(0xB00, 0xB20), 0x005, 0x008, 0x009, 0x00A, 0x00F, 0x015, 0x10A, 0x10C, 0x14D, 0x150,
    *range(0x200, 0x206), 0x240, 0x280, *range(0x300, 0x307), 0x320, 0x323, *range(0x340, 0x345), 0x3A0, 0x3B0, 0x5A8,
    0x600, 0x602, 0x680, 0x7A0, 0x7B0, 0xC20, 0xC80, 0xDA0, 0xE12, 0xF11, 0xF12, 0xF13, 0xF14,
]  # fmt: skip
FS, VS, UXL, UXL_64 = 3 << 13, 3 << 9, 3 << 32, 2 << 32
SIE_BIT, SPIE, SPP, SUM, MXR = 1 << 1, 1 << 5, 1 << 8, 1 << 18, 1 << 19
UNKNOWN_CALL = 0x0F00_0000
WFI, ECALL, EBREAK, C_EBREAK, FENCE_I = 0x10500073, 0x73, 0x100073, 0x9002, 0x100F


# Zero, quadrant 0 function 4, between c.addw and nothing (2), c.lui x0 0, c.lwsp x0, c.ldsp x0, c.jr x0, c.addiw x0.
SHORT_RESERVED = (0, 0x8000, 0x9C41, 0x9C61, 0x6001, 0x4002, 0x6002, 0x8002, 0x2001)


def csr(f3: int, rd: int, number: int, source: int) -> int:
    return i_type(SYSTEM, f3, rd, source, number)


def _any_use(g: Chance, number: int, rd: int) -> int:
    """x5 or an immediate, or x0: no write."""
    if g.bits(1):
        return csr(g.pick(CSR_IMMEDIATE), rd, number, g.rs())
    return csr(g.pick(CSR_REGISTER), rd, number, g.pick((5, 5, 5, 0)))


def status(g: Chance) -> bytes:
    """Bits 32 and above of what was read are dropped; UXL stays 2 and VS 0: see `deviations`."""
    bits = g.pick((SUM, MXR, SUM | MXR, SIE_BIT, SPIE, SPP, FS, 1 << 13, 2 << 13, g.number(), g.bits(20))) & ~(UXL | VS)
    rd = g.free()
    g.whole = True
    kind = g.bits(2)
    if kind == 0:
        use = csr(g.pick((6, 7)), rd, SSTATUS, g.rs())
    elif kind == 1:
        bits |= UXL_64
        use = csr(1, rd, SSTATUS, 5)
    else:
        use = csr(kind, rd, SSTATUS, g.pick((5, 5, 0)))
    code = load_number(5, bits) + words(use, i_type(OP_IMM, 1, rd, rd, 32), i_type(OP_IMM, 5, rd, rd, 32))
    return code + floats_on(g) if g.bits(1) else code


def floats_on(g: Chance) -> bytes:
    return load_number(5, g.pick((FS, 1 << 13))) + word(csr(2, 0, SSTATUS, 5))


def plain(g: Chance) -> bytes:
    """CSRs that may hold anything, or say what they hold."""
    number = g.pick((SIE, SCOUNTEREN, SSCRATCH, SEPC, SCAUSE, STVAL, SIP))
    use = _any_use(g, number, g.rd()) if number not in (SCAUSE, STVAL) else csr(1, 0, number, 5)
    return load_number(5, g.number()) + words(use, csr(2, g.rd(), number, 0))


def vector(g: Chance) -> bytes:
    """stvec: direct or vectored; reserved modes leave it as it was."""
    target = g.pick((HARNESS + DIRECT, HARNESS + VECTORS + 1, HARNESS + DIRECT + 2, HARNESS + VECTORS + 3))
    return load_number(6, target) + words(csr(1, g.free(), STVEC, 6), csr(2, g.rd(), STVEC, 0))


def translation(g: Chance) -> bytes:
    """satp keeps its value when the mode is reserved; the address space number can be set."""
    keep = words(csr(2, 5, SATP, 0), i_type(OP_IMM, 1, 6, 5, 4), i_type(OP_IMM, 5, 6, 6, 4))
    if g.odds(3) and g.paged:
        return (
            keep[:4]
            + load_number(6, g.bits(16) << 44)
            + words(0x0062C333, csr(1, g.free(), SATP, 6), 0x12000073, csr(2, g.rd(), SATP, 0))
        )  # xor x6, x5, x6
    mode = g.pick((1, 2, 7, 11, 12, 15))
    return keep + load_number(7, mode << 60) + words(0x00736333, csr(1, g.free(), SATP, 6), csr(2, g.rd(), SATP, 0))


def counter(g: Chance) -> bytes:
    """Whether it may be read, and that it never falls; its value differs from run to run."""
    number = g.pick(COUNTERS)
    rd = g.free()
    g.whole = True
    if g.bits(1):
        return load_number(5, 1) + words(_any_use(g, number, rd), addi(rd, 0, 0))
    read = csr(g.pick((2, 3, 6, 7)), 6, number, 0)
    again = csr(2, 7, number, 0)
    order = 0x0063B2B3  # sltu x5, x7, x6
    return words(addi(6, 0, 0), addi(7, 0, 0), read, again, order, addi(6, 0, 0), addi(7, 0, 0))


def other_csr(g: Chance) -> bytes:
    """A CSR that is not there, or is not the supervisor's."""
    return word(_any_use(g, g.pick(NOTABLE if g.bits(1) else OTHERS), g.rd()))


def interrupt(g: Chance) -> bytes:
    """A software interrupt, enabled and raised in any order; now and then left pending or waited for."""
    steps = [csr(6, 0, SIE, SSIP), csr(6, 0, SSTATUS, SIE_BIT), csr(6, 0, SIP, SSIP)]
    g.shuffle(steps)
    if g.odds(4):
        steps.pop()
    after = [addi(rd := g.free(), rd, 1)] * g.bits(1)
    if g.odds(4) and not g.user:
        steps = [csr(7, 0, SSTATUS, SIE_BIT), csr(6, 0, SIE, SSIP), csr(6, 0, SIP, SSIP), WFI, csr(2, g.rd(), SIP, 0)]
        after = [csr(7, 0, SIP, SSIP)]
    return words(*steps, *after)


def firmware(g: Chance) -> bytes:
    """A call that no firmware knows."""
    if g.user:
        return word(csr(2, g.rd(), SIP, 0))
    return load_number(17, UNKNOWN_CALL + g.bits(16)) + word(ECALL)


def breakpoint_(g: Chance) -> bytes:
    return half(C_EBREAK) if g.bits(1) else word(EBREAK)


def fence(g: Chance) -> bytes:
    kind = g.bits(2)
    if kind == 0:
        return word(i_type(0x0F, 0, g.rd() if g.odds(4) else 0, g.rs() if g.odds(4) else 0, g.bits(12)))
    if kind == 1:
        return word(FENCE_I)
    return word(0x09 << 25 | g.rs() << 20 | g.rs() << 15 | SYSTEM)


def _reserved(g: Chance) -> int:
    """A word that means nothing, or nearly so: if it does, then only to a register that may be written."""
    rd, f3, upper = g.rd() << 7, g.bits(3) << 12, g.bits(17) << 15
    kind = g.randrange(12)
    if kind == 0:  # opcodes that nobody has, and those of vectors and longer instructions
        return g.pick((0x0B, 0x2B, 0x57, 0x5B, 0x6B, 0x77, 0x7B, 0x1F, 0x3F, 0x5F, 0x7F)) | rd | f3 | upper
    if kind == 1:
        return g.pick((0x23 | 5 << 12, 0x23 | 6 << 12, 0x23 | 7 << 12)) | rd | upper
    if kind == 2:
        return g.pick((0x07, 0x27)) | g.pick((0, 1, 4, 5, 6, 7)) << 12 | rd | upper
    if kind == 3:
        return 0x2F | g.pick((0, 1, 4, 5, 6, 7)) << 12 | rd | upper
    if kind == 4:
        return 0x2F | g.pick((2, 3)) << 12 | g.pick((5, 6, 7, 9, 0xA, 0xD, 0x1F)) << 27 | rd | g.bits(12) << 15
    if kind == 5:
        return g.pick((0x63 | 2 << 12, 0x63 | 3 << 12, 0x67 | g.randrange(1, 8) << 12)) | rd | upper
    if kind == 6:
        return 0x0F | g.randrange(2, 8) << 12 | rd | upper
    if kind == 7:  # privileged, of other privileges and extensions
        return g.pick((0x30200073, 0x00200073, 0x7B200073, 0x22000073, 0x62000073, 0x16000073, 0x18000073, 0x10400073,
                       0x10200073 | 1 << 7, 0x10500073 | 1 << 7, 0x00000073 | 1 << 7, 0x73 | 4 << 12))  # fmt: skip
    if kind == 8:
        return 0x53 | rd | f3 | upper & ~(1 << 19 | 1 << 24)  # floats of other sizes; even registers, see below
    return g.pick((0x33, 0x3B, 0x13, 0x1B)) | rd | f3 | upper


def illegal(g: Chance) -> bytes:
    if g.odds(3):
        return half(g.pick(SHORT_RESERVED))
    insn = _reserved(g)
    if insn & 0x7F == 0x53 and insn >> 25 & 3 < 2:  # it may well be an operation of F or D: on the right registers
        insn = insn & ~(3 << 25) | g.pick((2, 3)) << 25
    return word(insn)
