# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that outgrows its stack panics, whether it comes back or never does. Built here, since none does that."""

from __future__ import annotations

from pathlib import Path

import pytest

from .building import build
from .conftest import StartGuest

# The stack has 14 KiB, below it are 1 KiB of gap and the emergency stack.
SOURCE = """
#include "board.h"
#include "trap.h"

static void use(volatile u8 *stack) { *stack = 1; }

void guest_main(void)
{
    volatile u8 area[%d];
    for (u32 i = sizeof area; i-- > 0;)
        use(area + i);
    %s
}
"""
RETURNS = "if (area[0]) idle();"
TRAPS = '__asm__ volatile("unimp");'


@pytest.mark.parametrize(
    ("size", "then", "message"),
    [
        (13_000, TRAPS, "panic: trap: cause 2"),
        (14_700, TRAPS, "panic: stack overflow: sp 80"),
        (14_700, RETURNS, "panic: stack overflow: "),
        (14_300, RETURNS, "panic: stack overflow: the word at its limit is "),
    ],
    ids=["within", "trap beyond", "beyond", "at the limit"],
)
def test_an_outgrown_stack_is_a_panic(
    start_guest: StartGuest, tmp_path: Path, size: int, then: str, message: str
) -> None:
    """The message says so; a trap on a good stack is told from it."""
    (tmp_path / "overflow.c").write_text(SOURCE % (size, then))
    build(tmp_path, tmp_path, "GUESTS=overflow", "overflow_sources=overflow.c")
    guest = start_guest(str(tmp_path / "overflow.elf"))
    guest.wait_for_end()
    assert message in guest.console()
