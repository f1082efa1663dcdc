# SPDX-License-Identifier: GPL-2.0-or-later
"""Which control and status registers there are: a guest that tries all 4096 and notes which reads trap."""

from __future__ import annotations

from ftvm.hart import RAM_BASE
from tests.ftvm.asm import Asm
from tests.ftvm.guest import Guest, shutdown

CSRS = 4096
_FOUND = RAM_BASE + 0x10_0000  # 16 bytes a register: whether the read went through, and what it gave


def readable() -> dict[int, int]:
    """Number -> value, of every register that supervisor mode can read at reset, floating point switched on."""
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("t0", 1 << 13)
    code.csrs("sstatus", "t0")
    code.li("s0", _FOUND)
    for number in range(CSRS):
        code.li("s1", 1)
        code.csrr("a0", number)
        code.sd("s1", 0, "s0")
        code.sd("a0", 8, "s0")
        code.addi("s0", "s0", 16)
    shutdown(code)
    code.align(4)
    code.label("handler")
    code.csrr("t0", "sepc")
    code.addi("t0", "t0", 4)
    code.csrw("sepc", "t0")
    code.li("s1", 0)
    code.sret()
    guest.load(code)
    guest.finish()
    words = guest.words(_FOUND, 2 * CSRS)
    return {number: words[2 * number + 1] for number in range(CSRS) if words[2 * number]}
