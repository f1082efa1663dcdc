# SPDX-License-Identifier: GPL-2.0-or-later
"""Tiny static programs for Linux, written by hand: all at the same address, and each does something else.

A program prints its letter as often as a computation of its own says, so that an instruction of another program, left
over in some cache, is seen.
"""

from __future__ import annotations

from struct import pack
from typing import Final

from tests.ftvm.asm import Asm

BASE: Final = 0x10000
HEADERS: Final = 64 + 56
_WRITE, _EXIT = 64, 93
NAMES: Final = "abcdefgh"


def _program(number: int) -> bytes:
    code = Asm(BASE + HEADERS)
    code.li("s0", number + 1)
    code.li("s1", 0)
    for step in range(40 + 7 * number):  # straight code that differs in every instruction
        code.addi("s1", "s1", (step * (number + 3)) % 97 + 1)
        code.xori("s1", "s1", (step + number) % 61)
    code.la("a1", "text")
    code.label("again")
    code.li("a0", 1)
    code.li("a2", 1)
    code.li("a7", _WRITE)
    code.ecall()
    code.addi("s0", "s0", -1)
    code.bnez("s0", "again")
    code.andi("a0", "s1", 0x7F)
    code.li("a7", _EXIT)
    code.ecall()
    code.label("text")
    code.code += NAMES[number].encode()
    return elf(code.image())


def expected_exit(number: int) -> int:
    """The exit code of a program."""
    value = 0
    for step in range(40 + 7 * number):
        value = (value + (step * (number + 3)) % 97 + 1) ^ ((step + number) % 61)
    return value & 0x7F


def elf(code: bytes) -> bytes:
    """An executable of one segment, entered at its first instruction."""
    entry, size = BASE + HEADERS, HEADERS + len(code)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + pack("<HHIQQQIHHHHHH", 2, 243, 1, entry, 64, 0, 0x5, 64, 56, 1, 0, 0, 0)
    segment = pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    return head + segment + code


PROGRAMS: Final = {name: _program(number) for number, name in enumerate(NAMES)}
