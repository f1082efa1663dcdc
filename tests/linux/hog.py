# SPDX-License-Identifier: GPL-2.0-or-later
"""`hog`: a tiny static program for Linux that uses more memory than there is, and verifies every page of it.

It maps 2**bits cold pages and visits all of them once a round, in an order that jumps about. Of each page it checks a
word in every quarter; pages of even number are then written anew, those of odd number are only read, so that page
reclaim meets accessed and dirty pages of every kind: clean ones that are in swap already, dirty ones, and pages that
were used again since it last looked. With each cold page it visits one of 64 hot pages, a counter each. Every 8 pages
it reads 32 KiB of /dev/vdb, so that reclaim is at work also while no page is unmapped and no TLB flushed: then it
clears the accessed bits of hot pages whose translations the TLB still holds.

Exit code 0 when every word was as it had been left; otherwise it says so and ends with 1.

    word of page p in quarter q, left by round r:   ((p + 1) * K ^ (r + 1) * L) + q
"""

from __future__ import annotations

from typing import Final

from tests.ftvm.asm import Asm
from tests.linux.programs import BASE, HEADERS, elf

_OPENAT, _LSEEK, _READ, _WRITE, _EXIT, _MMAP = 56, 62, 63, 64, 93, 222
_HERE = -100  # AT_FDCWD
_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22
_K, _L = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
_STEP, _SHIFT = 0x5851F42D4C957F2D, 0x3C6EF372FE94F82B  # a full period modulo any power of two
_MIDDLE = 2048
_QUARTERS = (-2048, -1024, 0, 1024)  # from the page's middle
_HOT = 16
_READ_BYTES, _READ_EVERY = 32 << 10, 32
_SPOILED: Final = b"hog: a page is not as it was left\n"


def hog(bits: int, rounds: int) -> bytes:
    """The program; 2**bits pages of 4 KiB, visited `rounds` times after they were first written."""
    code = Asm(BASE + HEADERS)
    _map(code, bits)
    _open(code, "disk", "/dev/vdb", 0, "s10")
    code.li("s1", -1)  # the round
    code.li("s9", 0)  # pages visited so far
    code.li("s2", (1 << bits) - 1)
    code.li("s3", 1)  # decides the next page
    for name, value in (("s4", _K), ("s5", _L), ("s6", _STEP), ("s7", _SHIFT)):
        code.li(name, value)
    code.label("round")
    code.addi("s1", "s1", 1)
    code.li("s8", 1 << bits)
    code.label("page")
    _choose(code)
    code.beqz("s1", "write")
    _check(code)
    code.andi("t1", "t0", 1)
    code.bnez("t1", "next")
    code.label("write")
    code.addi("t3", "s1", 1)
    _word(code)
    for quarter, offset in enumerate(_QUARTERS):
        code.addi("t5", "t4", quarter)
        code.sd("t5", offset, "t2")
    code.label("next")
    _hot(code, bits)
    _read(code, bits)
    code.addi("s9", "s9", 1)
    code.addi("s8", "s8", -1)
    code.bnez("s8", "page")
    code.li("t1", rounds)
    code.bne("s1", "t1", "round")
    code.li("a0", 0)
    _exit(code)
    return elf(code.image())


def _map(code: Asm, bits: int) -> None:
    hot_and_buffer = (4096 * _HOT) + _READ_BYTES
    values = (0, (4096 << bits) + hot_and_buffer, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    for number, value in enumerate(values):
        code.li(f"a{number}", value)
    code.li("a7", _MMAP)
    code.ecall()
    code.li("t0", _MIDDLE)
    code.add("s0", "a0", "t0")


def _open(code: Asm, name: str, path: str, flags: int, register: str) -> None:
    code.li("a0", _HERE)
    code.la("a1", name)
    code.li("a2", flags)
    code.li("a7", _OPENAT)
    code.ecall()
    code.mv(register, "a0")
    code.j(f"{name} opened")
    code.label(name)
    code.code += path.encode() + b"\0"
    code.align(4)
    code.label(f"{name} opened")


def _hot(code: Asm, bits: int) -> None:
    """Every hot page counts the visits."""
    code.li("t0", 4096 << bits)
    code.add("t0", "t0", "s0")
    code.li("t2", 4096)
    code.li("t3", _HOT)
    code.label("hot")
    code.ld("t1", 0, "t0")
    code.bne("t1", "s9", "spoiled")
    code.addi("t1", "t1", 1)
    code.sd("t1", 0, "t0")
    code.add("t0", "t0", "t2")
    code.addi("t3", "t3", -1)
    code.bnez("t3", "hot")


def _read(code: Asm, bits: int) -> None:
    """Every eighth time, a piece of the disk; from its beginning again when it ends."""
    code.andi("t0", "s9", _READ_EVERY - 1)
    code.bnez("t0", "read")
    code.mv("a0", "s10")
    code.li("a1", (4096 << bits) + (4096 * _HOT) - _MIDDLE)
    code.add("a1", "a1", "s0")
    code.li("a2", _READ_BYTES)
    code.li("a7", _READ)
    code.ecall()
    code.blt("a0", "zero", "spoiled")
    code.bnez("a0", "read")
    code.mv("a0", "s10")
    code.li("a1", 0)
    code.li("a2", 0)
    code.li("a7", _LSEEK)
    code.ecall()
    code.label("read")


def _choose(code: Asm) -> None:
    """t0 becomes the next page's number, t2 the address of its middle."""
    code.mul("s3", "s3", "s6")
    code.add("s3", "s3", "s7")
    code.and_("t0", "s3", "s2")
    code.slli("t2", "t0", 12)
    code.add("t2", "t2", "s0")


def _word(code: Asm) -> None:
    """t4 becomes the first word of page t0 as round t3 - 1 leaves it."""
    code.addi("t5", "t0", 1)
    code.mul("t4", "t5", "s4")
    code.mul("t5", "t3", "s5")
    code.xor("t4", "t4", "t5")


def _check(code: Asm) -> None:
    code.mv("t3", "s1")  # the round before wrote it
    code.andi("t1", "t0", 1)
    code.beqz("t1", "written")
    code.li("t3", 1)  # only the first did
    code.label("written")
    _word(code)
    for quarter, offset in enumerate(_QUARTERS):
        code.ld("t6", offset, "t2")
        code.addi("t5", "t4", quarter)
        code.bne("t5", "t6", "spoiled")
    code.j("checked")
    code.label("spoiled")
    code.li("a0", 1)
    code.la("a1", "text")
    code.li("a2", len(_SPOILED))
    code.li("a7", _WRITE)
    code.ecall()
    code.li("a0", 1)
    _exit(code)
    code.label("text")
    code.code += _SPOILED
    code.align(4)
    code.label("checked")


def _exit(code: Asm) -> None:
    code.li("a7", _EXIT)
    code.ecall()
