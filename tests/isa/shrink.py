# SPDX-License-Identifier: GPL-2.0-or-later
"""A program that differs, made as small as deleting atoms makes it: all candidates of a round run in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.isa.program import Program

ROUNDS_MAX = 40
Differs = Callable[[Sequence[Program]], list[bool]]
"""Which of these programs differ."""


def shrink(program: Program, differ: Differs) -> Program:
    """The smallest program found that still differs. `program` itself does."""
    step = max(1, len(program.atoms) // 2)
    for _ in range(ROUNDS_MAX):
        candidates = [program.without(range(i, i + step)) for i in range(0, len(program.atoms), step)]
        bad = [one for one, differs in zip(candidates, differ(candidates), strict=True) if differs]
        if bad:
            program = min(bad, key=lambda one: len(one.code))
            step = min(step, max(1, len(program.atoms) // 2))
        elif step == 1:
            break
        else:
            step //= 2
        if not program.atoms:
            break
    return program
