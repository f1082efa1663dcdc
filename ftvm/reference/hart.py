# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the hart departs from the RISC-V specification, as far as is known: a table for documentation and tests.

Each was found, or is held, by running generated programs on the hart and on an independent reference
(`python -m tests.isa`); `tests/isa/test_deviations.py` shows those that a program can see, so that a repaired engine is
noticed. What the engine does wrong and the core repairs is not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deviation:
    """One departure from the specification's volumes `unprivileged` (version 20191213) and `privileged` (1.12)."""

    name: str
    section: str
    specified: str
    here: str
    why: str


DEVIATIONS = (
    Deviation(
        "nan-boxing",
        "unprivileged 12.2",
        "A single in a 64-bit float register has 32 ones above it; one that has not is read as a quiet NaN.",
        "Operations on singles look at the lower half only and leave zeros above it; fmv.w.x copies 64 bits.",
        "The engine's helpers and inlined code work so. Compilers never look at the upper half of a single.",
    ),
    Deviation(
        "minimum-of-signalling-nan",
        "unprivileged 11.6",
        "fmin and fmax of a signalling NaN and a number give the number.",
        "They give the quiet NaN.",
        "The engine follows IEEE 754-2008 here. Signalling NaNs do not come about by computing.",
    ),
    Deviation(
        "infinity-times-zero",
        "unprivileged 11.6",
        "A fused multiplication of infinity and zero raises the invalid flag, also when it adds a quiet NaN.",
        "It does not when it adds a quiet NaN.",
        "The engine follows IEEE 754-2008, which leaves it open.",
    ),
    Deviation(
        "uxl",
        "privileged 4.1.1",
        "sstatus.UXL says 2: user mode is 64 bits wide.",
        "It reads 0. User mode is 64 bits wide all the same.",
        "The engine lacks the field, and a hook on every read of sstatus would slow every trap.",
    ),
    Deviation(
        "sepc-bit-0",
        "privileged 4.1.7",
        "Bit 0 of sepc is always 0.",
        "It keeps what is written; sret then goes to an odd address.",
        "The engine stores all bits (so does QEMU). Traps never set it.",
    ),
    Deviation(
        "flags-without-dirty",
        "privileged 3.1.6.6",
        "FS becomes dirty with every change of fcsr.",
        "Comparisons and conversions to integers that only raise a flag leave it clean.",
        "The engine marks writes of float registers and of the float CSRs only (so does QEMU).",
    ),
    Deviation(
        "fence-within-a-block",
        "privileged 4.2.1",
        "After sfence.vma, instructions are fetched by the new page tables.",
        "Up to the next jump or CSR instruction, at most to the end of the page, those already translated go on.",
        "The engine translates code in blocks; sfence.vma does not end one. Data accesses obey at once.",
    ),
    Deviation(
        "reservations",
        "unprivileged 8.2",
        "sc fails when a device wrote to the reserved bytes.",
        "It succeeds if they hold the value that was loaded.",
        "The engine compares values. A reservation never outlives a trap or the beginning of an epoch.",
    ),
    Deviation(
        "counters",
        "unprivileged 10.1",
        "instret counts retired instructions.",
        "It and `cycle` count bytes of retired code, plus one for each synchronous exception: no measure of speed.",
        "That is the machine's clock: exact, the same on both sides of a pair, and cheap.",
    ),
)
