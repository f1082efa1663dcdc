# SPDX-License-Identifier: GPL-2.0-or-later
"""Where blocks end depends on the guest's code alone, though a block with a counter read is translated in another way.

The engine ends a long block after so many operations of its own, of which its checks behind memory accesses are some.
"""

from __future__ import annotations

import pytest

from ftvm.hart import RAM_BASE, StopReason
from tests.ftvm.asm import Asm
from tests.ftvm.guest import Guest, shutdown

AMOADD_D_A0_A1 = 0x00B5_352F  # amoadd.d a0, a1, (a0): many operations of the engine
STRETCH = 500
ROUNDS = 6


def _stretches(reads: bool) -> Asm:
    """Long straight runs of atomics, each with a counter read at its end or with an addition in its place."""
    code = Asm(RAM_BASE)
    code.li("s0", ROUNDS)
    code.li("a1", 0)
    code.li("s1", RAM_BASE + 0x10_0000)
    code.label("again")
    for _ in range(STRETCH):
        code.mv("a0", "s1")
        code.word(AMOADD_D_A0_A1)
    if reads:
        code.csrr("s3", "cycle")
    else:
        code.addi("s3", "zero", 0)
    code.addi("s0", "s0", -1)
    code.beqz("s0", "done")
    code.j("again")
    code.label("done")
    shutdown(code)
    return code


def _boundaries(reads: bool, forget: bool) -> list[tuple[int, int]]:
    """Clock and pc of every block entry, since each epoch is as short as it gets."""
    guest = Guest()
    guest.load(_stretches(reads))
    found = []
    while guest.run(1) != StopReason.STOPPED:
        found.append((guest.hart.clock, guest.registers()["pc"]))
        if forget and len(found) % 3 == 0:
            guest.hart.restore(guest.hart.save())  # which drops all translations
    return found


@pytest.mark.parametrize("reads", [False, True])
def test_blocks_end_at_the_same_places_after_translations_were_dropped(reads: bool) -> None:
    usual = _boundaries(reads, forget=False)
    assert len(usual) > 2 * ROUNDS, "the stretch is one block: nothing is tested"
    assert _boundaries(reads, forget=True) == usual


def test_a_counter_read_at_the_end_of_a_long_stretch_reads_the_clock() -> None:
    guest = Guest()
    code = _stretches(True)
    guest.load(code)
    guest.finish()
    assert guest.x(19) == guest.hart.clock - (4 + 4 + 4 + 4 + 1), "the read, addi, beqz, li and the call lie behind it"


def test_a_device_access_in_the_middle_of_a_block_is_made_once() -> None:
    """The line that it raises makes a slice, and the block goes on to its end first."""
    guest = Guest()
    guest.on_read = lambda address, size: guest.hart.set_external(True) or 7
    code = Asm(RAM_BASE)
    code.li("s0", 0x1000_0000)
    code.lbu("s1", 5, "s0")
    code.addi("s2", "s1", 1)
    code.lbu("s3", 5, "s0")
    shutdown(code)
    guest.load(code)
    guest.finish()
    assert (guest.reads, guest.x(9), guest.x(18), guest.x(19)) == ([(0x1000_0005, 1)] * 2, 7, 8, 7)
