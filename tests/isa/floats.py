# SPDX-License-Identifier: GPL-2.0-or-later
"""Atoms of F and D: every operation with every rounding mode, on corner cases, with the flags that it leaves."""

from __future__ import annotations

from tests.isa.chance import Chance
from tests.isa.encode import CSR_IMMEDIATE, CSR_REGISTER, FLOATS, FUSED, SYSTEM, i_type, r_type
from tests.isa.integer import load_number, word, words

MIN_MAX_S, MIN_MAX_D = 0x14, 0x15
FFLAGS, FRM, FCSR = 1, 2, 3


def _register(g: Chance, kind: str) -> int:
    return g.single() if kind == "s" else g.double() if kind == "d" else g.rs()


def _destination(g: Chance, kind: str) -> int:
    return g.rd() if kind == "x" else _register(g, kind)


def operation(g: Chance) -> bytes:
    if g.odds(5):
        return _fused(g)
    f7, rs2, f3, to, of = g.pick(FLOATS)
    if f7 in (MIN_MAX_S, MIN_MAX_D):
        return _least(g, f7, f3, to)
    second = rs2 if rs2 is not None else _register(g, of[1])
    f3 = g.rm() if f3 is None else f3
    return word(r_type(0x53, f3, f7, _destination(g, to), _register(g, of[0]), second))


def _least(g: Chance, f7: int, f3: int | None, kind: str) -> bytes:
    """fmin or fmax of two sums, which are no signalling NaNs: for those see ftvm's deviations."""
    one, other = (_register(g, kind) for _ in range(2))
    add = f7 & 1
    doubled = b"".join(word(r_type(0x53, g.randrange(5), add, it, it, it)) for it in (one, other))
    return doubled + word(r_type(0x53, f3 or 0, f7, _register(g, kind), one, other))


def _fused(g: Chance) -> bytes:
    """A fused operation that adds no NaN (see ftvm's deviations), but what is greater or less: a sum or a number."""
    double = g.bits(1)
    kind = "d" if double else "s"
    to, one, other, added, number = (_register(g, kind) for _ in range(5))
    return words(
        r_type(0x53, 0, double, added, added, added),
        r_type(0x53, 0, 0x68 | double, number, g.rs(), g.bits(2)),
        r_type(0x53, g.bits(1), MIN_MAX_S | double, added, added, number),
        r_type(g.pick(FUSED), g.rm(), added << 2 | double, to, one, other),
    )


def constant(g: Chance) -> bytes:
    """A corner case to a float register."""
    if g.bits(1):
        return load_number(5, g.single_number() & 0xFFFF_FFFF) + word(r_type(0x53, 0, 0x78, g.single(), 5, 0))
    return load_number(5, g.double_number()) + word(r_type(0x53, 0, 0x79, g.double(), 5, 0))


def control(g: Chance) -> bytes:
    """fflags, frm and fcsr, in all ways that a CSR can be used."""
    csr = g.pick((FFLAGS, FRM, FCSR))
    if g.bits(1):
        return word(i_type(SYSTEM, g.pick(CSR_IMMEDIATE), g.rd(), g.rs(), csr))
    return load_number(5, g.pick((0, g.bits(5), g.bits(8), g.number()))) + word(
        i_type(SYSTEM, g.pick(CSR_REGISTER), g.rd(), g.pick((0, 5, 5, 5)), csr)
    )
