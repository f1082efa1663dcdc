# SPDX-License-Identifier: GPL-2.0-or-later
"""Atoms of I, M and C without memory: arithmetic, and control flow that only goes forward or counts down.

An atom is a few instructions that make sense together and may stand anywhere: the unit that programs are made of and
that shrinking removes.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.ftvm.asm import b_type, j_type
from tests.isa.chance import Chance
from tests.isa.encode import (
    AUIPC,
    BRANCHES,
    C_ADDI4SPN,
    C_ADDI16SP,
    C_B,
    C_J,
    CI,
    IMMEDIATE,
    LUI,
    OP_IMM,
    REGISTER,
    i_type,
    r_type,
    scatter,
    u_type,
)

Emit = Callable[[Chance], bytes]
JALR = 0x67


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


def half(value: int) -> bytes:
    return value.to_bytes(2, "little")


def words(*values: int) -> bytes:
    return b"".join(word(value) for value in values)


def addi(rd: int, rs1: int, immediate: int) -> int:
    return i_type(OP_IMM, 0, rd, rs1, immediate)


def load_number(rd: int, value: int) -> bytes:
    """Any 64-bit constant, as `li` does it."""
    value = (value + (1 << 63)) % (1 << 64) - (1 << 63)
    low = (value + 2048) % 4096 - 2048
    if -2048 <= value < 2048:
        return word(addi(rd, 0, value))
    if -(1 << 31) <= value < 1 << 31:
        return words(u_type(LUI, rd, (value - low) >> 12), i_type(0x1B, 0, rd, rd, low))
    return load_number(rd, (value - low) >> 12) + words(i_type(OP_IMM, 1, rd, rd, 12), addi(rd, rd, low))


def full_arithmetic(g: Chance) -> bytes:
    kind = g.bits(3)
    if kind < 4:
        opcode, f3, f7 = g.pick(REGISTER)
        return word(r_type(opcode, f3, f7, g.rd(), g.rs(), g.rs()))
    if kind < 7:
        opcode, f3, width, above = g.pick(IMMEDIATE)
        immediate = above << 6 | g.bits(width) if width == 6 else above << 5 | g.bits(width) if width else g.bits(12)
        return word(i_type(opcode, f3, g.rd(), g.rs(), immediate))
    return word(u_type(g.pick((LUI, AUIPC)), g.rd(), g.bits(20)))


def _low(g: Chance) -> int:
    """One of x10 to x15, as 2 to 7: x8 and x9 hold addresses."""
    while (register := g.randrange(2, 8)) + 8 in g.kept:
        pass
    return register


def short_arithmetic(g: Chance) -> bytes:
    """Everything of C that computes, hints (rd = x0, shift by 0) and reserved forms included."""
    kind, immediate = g.randrange(11), scatter(g.bits(6), CI)
    if kind == 0:  # c.addi, c.addiw, c.li; c.addiw with x0 is reserved
        return half(g.pick((0, 1, 2)) << 13 | g.rd() << 7 | immediate | 1)
    if kind == 1:  # c.lui, not into sp
        return half(3 << 13 | g.rd() << 7 | immediate | 1)
    if kind in (2, 3):  # c.srli, c.srai, c.andi
        return half(4 << 13 | g.randrange(3) << 10 | _low(g) << 7 | immediate | 1)
    if kind in (4, 5):  # c.sub to c.addw and two reserved ones
        return half(4 << 13 | g.bits(1) << 12 | 3 << 10 | _low(g) << 7 | g.bits(2) << 5 | g.bits(3) << 2 | 1)
    if kind == 6:
        return half(g.rd() << 7 | immediate | 2)  # c.slli
    if kind == 7:  # c.mv; not c.jr
        return half(4 << 13 | g.rd() << 7 | g.randrange(1, 32) << 2 | 2)
    if kind == 8:  # c.add; not c.jalr or c.ebreak
        return half(4 << 13 | 1 << 12 | g.rd() << 7 | g.randrange(1, 32) << 2 | 2)
    if kind == 9:  # c.addi4spn; 0 is illegal
        return half(scatter(4 * g.bits(8), C_ADDI4SPN) | _low(g) << 2)
    there = 16 * g.randrange(1, 31)
    move = [half(3 << 13 | 2 << 7 | scatter(by, C_ADDI16SP) | 1) for by in (there, -there)]
    return move[0] + half(4 << 13 | g.free() << 7 | 2 << 2 | 2) + move[1]


def arithmetic(g: Chance) -> bytes:
    return short_arithmetic(g) if g.odds(3) else full_arithmetic(g)


def number(g: Chance) -> bytes:
    return load_number(g.free(), g.number())


def _body(g: Chance, emit: Emit, least: int = 1) -> bytes:
    return b"".join(emit(g) for _ in range(g.randrange(least, 4)))


def forward(g: Chance, emit: Emit) -> bytes:
    """A jump or branch over a little code, with and without a link."""
    body = _body(g, emit)
    kind = g.randrange(8)
    if kind == 0:
        return word(j_type(g.rd(), 4 + len(body))) + body
    if kind in (1, 2, 3):
        return word(b_type(g.pick(BRANCHES), g.rs(), g.rs(), 4 + len(body))) + body
    if kind == 4:
        return half(5 << 13 | scatter(2 + len(body), C_J) | 1) + body
    if kind == 5:  # c.beqz, c.bnez
        return half(g.pick((6, 7)) << 13 | g.bits(3) << 7 | scatter(2 + len(body), C_B) | 1) + body
    target = g.free()
    if kind == 6:  # jalr drops bit 0 of the sum
        odd = g.bits(1)
        away = g.randrange(-100, 100)
        to = words(u_type(AUIPC, target, 0), addi(target, target, 12 + len(body) - away))
        return to + word(i_type(JALR, 0, g.rd(), target, away + odd)) + body
    to = words(u_type(AUIPC, target, 0), addi(target, target, 10 + len(body)))
    if target == 1 or 1 not in g.kept:  # c.jr or c.jalr, which links to x1
        return to + half(4 << 13 | g.bits(1) << 12 | target << 7 | 2) + body
    return to + half(4 << 13 | target << 7 | 2) + body


def loop(g: Chance, emit: Emit) -> bytes:
    """A few rounds of a little code."""
    counter = g.free()
    kept, g.kept = g.kept, (*g.kept, counter)
    body = _body(g, emit)
    g.kept = kept
    rounds, step = g.randrange(1, 6), g.pick((1, 2))
    tail = word(addi(counter, counter, -step))
    back = -(len(body) + len(tail))
    first = word(addi(counter, 0, rounds * step))
    if 10 <= counter < 16 and g.bits(1):
        return first + body + tail + half(7 << 13 | (counter - 8) << 7 | scatter(back, C_B) | 1)
    return first + body + tail + word(b_type(1, counter, 0, back))
