# SPDX-License-Identifier: GPL-2.0-or-later
"""Code that is rewritten all the time, in every way there is, and called in between: what runs was written last.

A seed is a guest that runs straight through some hundred steps. It patches one of its functions (`li a0, n; ret`) by
one of three addresses of its page, or rings a device that patches it by DMA; and calls one by one of two addresses.
What each call has to return is known when the guest is made. Some functions lie across two pages. The host cuts its
run into epochs of random length, and flushes, saves and restores now and then.
"""

from __future__ import annotations

import random
import struct

import pytest

from ftvm.hart import RAM_BASE, StopReason
from tests.ftvm.asm import Asm, i_type
from tests.ftvm.guest import UART, Guest, shutdown
from tests.ftvm.test_hart_translation import A, D, P, R, V, W, X, paged_guest

EXEC, WRITE, BOTH = 0x4000_0000, 0x4010_0000, 0x4020_0000
PAGES = 4
FUNCTIONS = [
    page * 4096 + offset
    for page, across in enumerate((0xFFE, 0xFFC, 0xFFA))  # in its first instruction, between the two, in its second
    for offset in (0x10, 0x800, across)
]
RET = 0x8067
STEPS = 250


def function(value: int) -> bytes:
    return struct.pack("<II", i_type(0x13, 0, 10, 0, value), RET)


def churn(seed: int, *, tell: bool = True, lie: bool = False) -> Guest:
    """The guest of a seed at its end; s2 counts wrong results.

    With `tell` off, the hart is not told of DMA; `lie` expects one wrong result.
    """
    chance = random.Random(seed)
    code = Asm(RAM_BASE)
    code.li("s2", 0)
    code.li("s8", UART)
    now = dict.fromkeys(FUNCTIONS, 0)
    patches: list[tuple[int, bytes]] = []
    for step in range(STEPS):
        which = chance.choice(FUNCTIONS[: chance.choice((1, 3, len(FUNCTIONS)))])
        if chance.random() < 0.5:
            now[which] = chance.randrange(2048)
            if chance.random() < 0.3:
                patches.append((which, function(now[which])))
                code.sw("zero", 0, "s8")
            else:
                code.li("t0", chance.choice((WRITE, WRITE, BOTH)) + which)
                code.li("t1", struct.unpack("<I", function(now[which])[:4])[0])
                code.sw("t1", 0, "t0")
            code.fence_i()
        code.li("t0", chance.choice((EXEC, BOTH)) + which)
        code.jalr("ra", 0, "t0")
        code.li("t1", now[which] + (lie and step == STEPS - 1))
        code.beq("a0", "t1", code.here + 8)
        code.addi("s2", "s2", 1)
    shutdown(code)
    assert len(code.code) < 0x2_8000
    maps = {RAM_BASE + at: (RAM_BASE + at, V | R | X | A) for at in range(0x2000, 0x2_8000, 4096)}
    maps[UART] = (UART, V | R | W | A | D)
    for page in range(PAGES):
        physical = P + page * 4096
        maps[EXEC + page * 4096] = (physical, V | R | X | A)
        maps[WRITE + page * 4096] = (physical, V | R | W | A)
        maps[BOTH + page * 4096] = (physical, V | R | W | X | A)
    guest = paged_guest(code, maps)
    for offset in FUNCTIONS:
        guest.hart.load_ram(P - RAM_BASE + offset, function(0))
    waiting = iter(patches)

    def dma(address: int, size: int, value: int) -> None:
        offset, data = next(waiting)
        at = P - RAM_BASE + offset
        if tell:
            guest.hart.writes(P + offset, len(data))
        guest.hart.ram[at : at + len(data)] = data

    guest.on_write = dma
    while True:
        reason = guest.run(chance.choice((30, 300, 3000)))
        assert reason in (StopReason.LIMIT, StopReason.STOPPED), guest.hart.error
        if reason == StopReason.STOPPED:
            return guest
        if chance.random() < 0.1:
            guest.hart.clear_dirty()
        if chance.random() < 0.02:
            guest.hart.restore(guest.hart.save())


@pytest.mark.parametrize("seed", range(12))
def test_what_runs_is_what_was_written_last(seed: int) -> None:
    guest = churn(seed)
    assert guest.x(18) == 0, f"replay: churn({seed})"
    counters = guest.hart.counters()
    assert counters["code_to_writable"] > 0 and counters["host_writes_to_code"] > 0


def test_dma_that_the_hart_is_not_told_of_is_noticed() -> None:
    """The control: without the removal of translations, old code runs."""
    assert any(churn(seed, tell=False).x(18) > 0 for seed in range(4))


def test_a_wrong_result_is_counted() -> None:
    assert churn(0, lie=True).x(18) == 1
