# SPDX-License-Identifier: GPL-2.0-or-later
"""Where everything of a batch lies in RAM, for the harness, the generator, both runners and the comparison.

    0x8000_0000  machine-mode shim (the reference only: ftvm's hart has no machine mode)
    0x8000_1000  harness, supervisor mode
    0x8000_F000  header: how many programs are to be run yet, and the slot of the one that is running
    0x8010_0000  slots, one for each program, 32 KiB each:
                   page 0     control: initial and final registers, trap log (`Control`)
                   pages 2-3  code, wherever it is mapped at 0 modulo 8 KiB
                   pages 4-5  data
                   pages 6, 1, 7  Sv39 page tables: root, level 1, level 0

A program sees its own slot only. When the batch is done the slots of both sides are compared byte by byte, so nothing
has to be sent out of the guest.
"""

from __future__ import annotations

from enum import IntEnum

RAM_BASE = 0x8000_0000
HARNESS = RAM_BASE + 0x1000
HEADER = RAM_BASE + 0xF000
HEADER_COUNT, HEADER_RUNNING = 0, 8
SLOTS = RAM_BASE + 0x10_0000
SLOT_SIZE = 0x8000
PAGE = 4096
CODE, DATA = 0x2000, 0x4000  # within a slot, two pages each
ROOT, LEVEL1, LEVEL0 = 0x6000, 0x1000, 0x7000
CODE_MASK = 0x1FFF  # of an address: its place in the code pages

TRAPS_MAX = 48
TRAP_SIZE = 40
TRAP_WORDS = ("scause", "sepc", "stval", "sstatus", "vector")
"""A trap log entry; `vector` is 0 from a direct vector, else 1 + the entry of the vectored table."""


class Control(IntEnum):
    """Offsets in a slot's control page."""

    X = 0x000
    F = 0x100
    FCSR = 0x200
    SSTATUS = 0x208
    SIE = 0x210
    SATP = 0x218
    ENTRY = 0x220
    SCOUNTEREN = 0x228
    END = 0x230
    """`pc & CODE_MASK` of the ebreak that ends the program."""
    RESUME = 0x238
    """Where the handler goes, once and in supervisor mode, after a fetch fault or an environment call."""
    SSTATUS_SEEN = 0x240
    """The bits of sstatus that are logged."""
    TRAPS = 0x248
    ENDED = 0x250
    SAVED = 0x258
    """x28 to x31 in the handler."""
    FINAL_X = 0x300
    FINAL_F = 0x400
    FINAL_CSRS = 0x500
    LOG = 0x600


class Ended(IntEnum):
    """How a program ended."""

    NEVER = 0
    WHOLE = 1
    TOO_MANY_TRAPS = 2
    NOWHERE_TO_GO = 3


FINAL_CSRS = ("sstatus", "fcsr", "sie", "sip", "stvec", "scounteren", "satp", "sepc", "scause", "stval")

VECTORS = 0x200
"""Of the vectored table behind the harness's start; the direct vector lies at VECTORS - 0x100."""
DIRECT = VECTORS - 0x100


def slot_address(index: int) -> int:
    return SLOTS + index * SLOT_SIZE


def ram_size(programs: int) -> int:
    """Bytes of RAM for a batch of so many programs, in whole MiB; the reference puts its device tree behind them."""
    return (slot_address(programs) - RAM_BASE + 0x4F_FFFF) & ~0xF_FFFF
