# SPDX-License-Identifier: GPL-2.0-or-later
"""The deviations that a program can see are as `ftvm.reference.hart` says: one that is gone leaves the list."""

from __future__ import annotations

from ftvm.hart import RAM_BASE
from ftvm.reference.hart import DEVIATIONS
from tests.ftvm.asm import Asm
from tests.ftvm.guest import Guest, shutdown

FS = 3 << 13
ONE, SIGNALLING, QUIET = 0x3F80_0000, 0x7F80_0001, 0x7FC0_0000
BOX = 0xFFFF_FFFF << 32


def run(*body: int, a: int = 0, b: int = 0, status: int = FS) -> Guest:
    """Runs instructions with a and b in x10, x11 and, as they are, in f10, f11."""
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", FS)
    code.csrs("sstatus", "t0")
    code.li("a0", a)
    code.li("a1", b)
    code.fmv_d_x("f10", "a0")
    code.fmv_d_x("f11", "a1")
    code.csrc("sstatus", "t0")
    code.li("t0", status)
    code.csrs("sstatus", "t0")
    for word in body:
        code.word(word)
    shutdown(code)
    guest.load(code)
    guest.finish()
    return guest


def test_every_deviation_is_told_in_full() -> None:
    assert len({one.name for one in DEVIATIONS}) == len(DEVIATIONS)
    assert all(one.section and one.specified and one.here and one.why for one in DEVIATIONS)


def test_nan_boxing() -> None:
    """fadd.s f12, f10, f11 of unboxed ones; the sum has zeros above it."""
    assert run(0x00B57653, a=ONE, b=ONE).registers()["f12"] == 0x4000_0000
    assert run(0x00B57653, a=BOX | ONE, b=BOX | ONE).registers()["f12"] == 0x4000_0000


def test_minimum_of_signalling_nan() -> None:
    """fmin.s f12, f10, f11."""
    guest = run(0x28B50653, a=BOX | ONE, b=BOX | SIGNALLING)
    assert guest.registers()["f12"] & 0xFFFF_FFFF == QUIET
    assert guest.registers()["fcsr"] & 0x10


def test_infinity_times_zero() -> None:
    """fmadd.d f12, f10, f13, f11: f13 is 0."""
    guest = run(0x5AD57643, a=0x7FF0 << 48, b=0x7FF8 << 48)
    assert guest.registers()["f12"] == 0x7FF8 << 48
    assert guest.registers()["fcsr"] & 0x10 == 0


def test_uxl() -> None:
    """csrr s1, sstatus."""
    assert run(0x100024F3).x(9) >> 32 & 3 == 0


def test_sepc_bit_0() -> None:
    """csrw sepc, a0; csrr s1, sepc."""
    assert run(0x14151073, 0x141024F3, a=0x8000_0001).x(9) == 0x8000_0001


def test_flags_without_dirty() -> None:
    """flt.s s1, f10, f11 of a NaN raises the invalid flag."""
    guest = run(0xA0B514D3, 0x10002973, a=BOX | ONE, b=BOX | QUIET, status=2 << 13)
    assert guest.x(18) >> 13 & 3 == 2
    assert guest.registers()["fcsr"] & 0x10


def test_counters() -> None:
    """rdinstret s1; nop; rdinstret s2: eight bytes."""
    guest = run(0xC02024F3, 0x13, 0xC0202973)
    assert guest.x(18) - guest.x(9) == 8
