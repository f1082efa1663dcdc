# SPDX-License-Identifier: GPL-2.0-or-later
"""A campaign: batch after batch of programs on both sides, until one differs or the budget is used up.

Program `i` of seed S is the program of seed "S:i", and always lies in slot `i % BATCH`. So it can be run alone at the
same addresses; when it differs only in company, the whole batch is what replays it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.isa.batch import Batch, Stuck, run_hart, run_reference
from tests.isa.compare import Difference, differences, ended
from tests.isa.layout import Ended
from tests.isa.program import Program, generate
from tests.isa.report import listing
from tests.isa.shrink import shrink

BATCH = 1000
Alter = Callable[[list[bytes]], list[bytes]]
"""For negative controls: does something to the hart's slots."""


class Mismatch(Exception):
    """A program ran differently; the text says how, and how to replay it."""


@dataclass
class Tally:
    """What a campaign ran."""

    programs: int = 0
    seconds: float = 0.0
    ends: Counter[Ended] = field(default_factory=Counter)

    def __str__(self) -> str:
        ends = ", ".join(f"{count:,} {end.name.lower().replace('_', ' ')}" for end, count in self.ends.most_common())
        return f"{self.programs:,} programs ({ends}) in {self.seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Slots of one batch: before, and after on either side."""

    before: bytes
    hart: list[bytes]
    reference: list[bytes]

    def wrong(self) -> list[int]:
        """Which programs differ."""
        pairs = zip(self.hart, self.reference, strict=True)
        return [index for index, (ours, theirs) in enumerate(pairs) if differences(ours, theirs)]


def run(batch: Batch, alter: Alter | None = None) -> Outcome:
    """A batch on both sides."""
    pieces = batch.pieces()
    reference = run_reference(batch, pieces)
    hart = run_hart(batch, pieces)
    return Outcome(pieces[-1][1], alter(hart) if alter else hart, reference)


def explain(seed: str, number: int, program: Program, found: Sequence[Difference], alter: Alter | None = None) -> str:
    """The report of one program that differed in its batch."""
    slot = number % BATCH

    def differ(programs: Sequence[Program]) -> list[bool]:
        outcome = run(Batch(programs, slot), alter)
        wrong = set(outcome.wrong())
        return [index in wrong for index in range(len(programs))]

    head = f"program {seed}:{number} ({program.theme}) ran differently:\n" + "\n".join(f"  {one}" for one in found[:8])
    alone = differ([program])[0]
    if not alone:
        first = number - slot
        return (
            f"{head}\nbut not when it ran alone: something that an earlier program left behind.\n"
            f"replay: python -m tests.isa {seed} --first {first} --programs {slot + 1}"
        )
    small = shrink(program, differ)
    outcome = run(Batch([small], slot), alter)
    left = differences(outcome.hart[0], outcome.reference[0])
    lines = "\n".join(f"  {one}" for one in left[:8])
    return (
        f"{head}\nsmallest form, {len(small.atoms)} of {len(program.atoms)} parts:\n{lines}\n"
        f"{listing(small, outcome.before, outcome.hart[0], outcome.reference[0])}\n"
        f"replay: python -m tests.isa {seed} --first {number} --programs 1"
    )


def campaign(
    seed: str,
    programs: int,
    *,
    first: int = 0,
    seconds: float = float("inf"),
    alter: Alter | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Tally:
    """Raises `Mismatch` at the first program that differs."""
    tally, started = Tally(), time.monotonic()
    number, end = first, first + programs
    while number < end and tally.seconds < seconds:
        slot = number % BATCH
        count = min(BATCH - slot, end - number)
        batch = Batch([generate(f"{seed}:{index}") for index in range(number, number + count)], slot)
        try:
            outcome = run(batch, alter)
        except Stuck as stuck:
            stuck_at = number - slot + stuck.slot
            raise Mismatch(f"{stuck}\nreplay: python -m tests.isa {seed} --first {stuck_at} --programs 1") from stuck
        for index in outcome.wrong():
            found = differences(outcome.hart[index], outcome.reference[index])
            raise Mismatch(explain(seed, number + index, batch.programs[index], found, alter))
        number += count
        tally.programs += count
        tally.ends.update(ended(slot_) for slot_ in outcome.reference)
        tally.seconds = time.monotonic() - started
        say(str(tally))
    return tally
