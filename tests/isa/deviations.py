# SPDX-License-Identifier: GPL-2.0-or-later
"""What may differ, and why: the engine's own deviations (`ftvm.reference.hart`), and those of the reference.

Differences of the reference, found here and judged by the specification; ftvm is right in each:

    sstatus.VS            can be written though there are no vectors: programs leave it alone
    sstatus.UXL           can be written, and makes user mode 32 bits wide: programs leave it alone
    read-modify-writes    on memory that is not there fault as loads, and set D first
    access faults         of misaligned loads and stores: stval is rounded down
    page tables           that lie where there is no memory give page faults instead of access faults: not generated
    csrrs, csrrc          of a read-only CSR with a register that holds 0 count as no write: not generated
    S executes U pages    that were loaded from with SUM, as long as its TLB remembers: a fence before such jumps
    opcode 0x03, f3 7     is ldu, though there is no such instruction in RV64: not generated

Where the specification leaves a choice: stval of a breakpoint is its address or 0 (the harness makes it 0); A may be
set by an access that faults in the end (a read-modify-write without the right to write).
"""

from __future__ import annotations

from tests.isa.memory import NOWHERE

SSTATUS_UNSEEN = 3 << 32 | 3 << 9
"""UXL and VS."""
LOAD_ACCESS, STORE_ACCESS = 5, 7
AMO = 0x2F
A, D = 0x40, 0x80


def rounded_down(hart: int, reference: int) -> bool:
    """stval of an access fault; see above."""
    return 0 < hart - reference < 8


def excused_trap(hart: dict[str, int], reference: dict[str, int], insn: int) -> bool:
    """Two entries of the trap log that differ only as they may."""
    if {**hart, "stval": 0} == {**reference, "stval": 0} and hart["scause"] in (LOAD_ACCESS, STORE_ACCESS):
        return rounded_down(hart["stval"], reference["stval"])
    as_load = {**hart, "scause": LOAD_ACCESS}
    return hart["scause"] == STORE_ACCESS and as_load == reference and insn & 0x7F == AMO


def excused_single(hart: int, reference: int) -> bool:
    """The upper half of a single: ftvm's deviation `nan-boxing`."""
    return reference >> 32 == 0xFFFF_FFFF and hart & 0xFFFF_FFFF == reference & 0xFFFF_FFFF


def excused_entry(hart: int, reference: int) -> bool:
    """A page table entry: A that only ftvm set, or D that only the reference set where there is no memory."""
    if hart ^ reference == A:
        return hart & A != 0
    return hart ^ reference == D and reference & D != 0 and reference >> 10 << 12 & (1 << 56) - 1 >= NOWHERE
