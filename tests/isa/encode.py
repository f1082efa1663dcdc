# SPDX-License-Identifier: GPL-2.0-or-later
"""Encodings of rv64imafdc as tables: one row an instruction, in the order of the specification's opcode listings.

Unprivileged specification 20191213, chapter 24; the C extension, chapter 16. Only what has registers and immediates to
choose is here: the generator builds control flow, CSR and privileged instructions itself.
"""

from __future__ import annotations

OP, OP_32, OP_IMM, OP_IMM_32 = 0x33, 0x3B, 0x13, 0x1B
LOAD, STORE, LOAD_FP, STORE_FP, AMO, OP_FP, SYSTEM = 0x03, 0x23, 0x07, 0x27, 0x2F, 0x53, 0x73
LUI, AUIPC = 0x37, 0x17

# (opcode, function 3, function 7)
REGISTER = [
    *((OP, function, 0) for function in range(8)), (OP, 0, 0x20), (OP, 5, 0x20),
    *((OP_32, function, 0) for function in (0, 1, 5)), (OP_32, 0, 0x20), (OP_32, 5, 0x20),
    *((OP, function, 1) for function in range(8)), *((OP_32, function, 1) for function in (0, 4, 5, 6, 7)),
]  # fmt: skip
# (opcode, function 3, width of the shift amount or 0, bits above it)
IMMEDIATE = [
    *((OP_IMM, function, 0, 0) for function in (0, 2, 3, 4, 6, 7)), (OP_IMM, 1, 6, 0), (OP_IMM, 5, 6, 0),
    (OP_IMM, 5, 6, 0x10), (OP_IMM_32, 0, 0, 0), (OP_IMM_32, 1, 5, 0), (OP_IMM_32, 5, 5, 0), (OP_IMM_32, 5, 5, 0x20),
]  # fmt: skip
# (opcode, function 3, log2 of the size)
LOADS = [(LOAD, 0, 0), (LOAD, 1, 1), (LOAD, 2, 2), (LOAD, 3, 3), (LOAD, 4, 0), (LOAD, 5, 1), (LOAD, 6, 2)]
STORES = [(STORE, 0, 0), (STORE, 1, 1), (STORE, 2, 2), (STORE, 3, 3)]
FLOAT_LOADS = [(LOAD_FP, 2, 2), (LOAD_FP, 3, 3)]
FLOAT_STORES = [(STORE_FP, 2, 2), (STORE_FP, 3, 3)]

# Function 5 of read-modify-writes: add, swap, xor, or, and, min, max, minu, maxu.
AMOS = [0x00, 0x01, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18, 0x1C]
AMO_LR, AMO_SC = 0x02, 0x03

# OP-FP: (function 7, rs2 or None, function 3 or None for a rounding mode, destination, sources).
# Kinds: s and d are float registers that hold a single and a double, x is an integer register.
FLOATS: list[tuple[int, int | None, int | None, str, str]] = [
    *((function, None, None, "s", "ss") for function in (0x00, 0x04, 0x08, 0x0C)),
    *((function, None, None, "d", "dd") for function in (0x01, 0x05, 0x09, 0x0D)),
    (0x2C, 0, None, "s", "s"), (0x2D, 0, None, "d", "d"),
    *((0x10, None, function, "s", "ss") for function in (0, 1, 2)), *((0x11, None, f, "d", "dd") for f in (0, 1, 2)),
    *((0x14, None, function, "s", "ss") for function in (0, 1)), *((0x15, None, f, "d", "dd") for f in (0, 1)),
    *((0x50, None, function, "x", "ss") for function in (0, 1, 2)), *((0x51, None, f, "x", "dd") for f in (0, 1, 2)),
    *((0x60, to, None, "x", "s") for to in range(4)), *((0x61, to, None, "x", "d") for to in range(4)),
    *((0x68, of, None, "s", "x") for of in range(4)), *((0x69, of, None, "d", "x") for of in range(4)),
    (0x20, 1, None, "s", "d"), (0x21, 0, None, "d", "s"),
    (0x70, 0, 0, "x", "d"), (0x71, 0, 0, "x", "d"), (0x70, 0, 1, "x", "s"), (0x71, 0, 1, "x", "d"),
    (0x78, 0, 0, "s", "x"), (0x79, 0, 0, "d", "x"),
]  # fmt: skip
FUSED = [0x43, 0x47, 0x4B, 0x4F]  # opcodes of fmadd, fmsub, fnmsub, fnmadd

BRANCHES = [0, 1, 4, 5, 6, 7]
CSR_REGISTER, CSR_IMMEDIATE = (1, 2, 3), (5, 6, 7)


def r_type(opcode: int, f3: int, f7: int, rd: int, rs1: int, rs2: int) -> int:
    return f7 << 25 | rs2 << 20 | rs1 << 15 | f3 << 12 | rd << 7 | opcode


def i_type(opcode: int, f3: int, rd: int, rs1: int, immediate: int) -> int:
    return (immediate & 0xFFF) << 20 | rs1 << 15 | f3 << 12 | rd << 7 | opcode


def s_type(opcode: int, f3: int, rs1: int, rs2: int, immediate: int) -> int:
    return (immediate >> 5 & 0x7F) << 25 | rs2 << 20 | rs1 << 15 | f3 << 12 | (immediate & 31) << 7 | opcode


def u_type(opcode: int, rd: int, immediate: int) -> int:
    """`immediate` is what goes to bits 12 to 31."""
    return (immediate & 0xFFFFF) << 12 | rd << 7 | opcode


def c_register(f3: int, quadrant: int, at7: int, rs2: int, immediate_bits: int) -> int:
    """Quadrants 0 and 1 with two registers of x8 to x15 (given as 0 to 7); the immediate's bits in place."""
    return f3 << 13 | at7 << 7 | rs2 << 2 | quadrant | immediate_bits


def scatter(value: int, places: tuple[tuple[int, int], ...]) -> int:
    """Bits of `value` to their places in an instruction: (bit of the value, bit of the instruction)."""
    word = 0
    for of, to in places:
        word |= (value >> of & 1) << to
    return word


def _places(first: int, names: str) -> tuple[tuple[int, int], ...]:
    """As the specification draws them: the value's bits from the instruction's bit `first` downwards."""
    return tuple((int(name), first - index) for index, name in enumerate(names.split()))


# Immediates of the compressed formats, by instruction.
CI = (*_places(12, "5"), *_places(6, "4 3 2 1 0"))
C_ADDI16SP = (*_places(12, "9"), *_places(6, "4 6 8 7 5"))
C_ADDI4SPN = _places(12, "5 4 9 8 7 6 2 3")
C_LW = (*_places(12, "5 4 3"), *_places(6, "2 6"))
C_LD = (*_places(12, "5 4 3"), *_places(6, "7 6"))
C_LWSP = (*_places(12, "5"), *_places(6, "4 3 2 7 6"))
C_LDSP = (*_places(12, "5"), *_places(6, "4 3 8 7 6"))
C_SWSP = _places(12, "5 4 3 2 7 6")
C_SDSP = _places(12, "5 4 3 8 7 6")
C_J = _places(12, "11 4 9 8 10 6 7 3 2 1 5")
C_B = (*_places(12, "8 4 3"), *_places(6, "7 6 2 1 5"))
