# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt controller: gateways, priorities, claims and completions."""

from __future__ import annotations

from devices.plic import CLAIM, ENABLE, PENDING, PRIORITY, SOURCES, THRESHOLD, Plic


class Bench:
    """A controller with all priorities 1 and everything enabled."""

    def __init__(self) -> None:
        self.levels: list[bool] = []
        self.plic = Plic(self.levels.append)
        self.lines = {source: self.plic.line(source) for source in range(1, SOURCES + 1)}
        for source in self.lines:
            self.put(PRIORITY + 4 * source, 1)
        for word in range((SOURCES + 32) // 32):
            self.put(ENABLE + 4 * word, 0xFFFFFFFF)

    def get(self, offset: int) -> int:
        return self.plic.read(offset, 4)

    def put(self, offset: int, value: int) -> None:
        self.plic.write(offset, 4, value)

    def external(self) -> bool:
        return bool(self.levels) and self.levels[-1]


def test_a_claim_takes_the_interrupt_and_a_completion_opens_the_gateway() -> None:
    """A line that stays high is pending again only after the completion."""
    bench = Bench()
    bench.lines[10](True)
    assert bench.external() and bench.get(PENDING) == 1 << 10
    assert bench.get(CLAIM) == 10
    assert not bench.external() and bench.get(PENDING) == 0
    bench.lines[10](False)
    bench.lines[10](True)
    assert bench.get(CLAIM) == 0
    bench.put(CLAIM, 10)
    assert bench.external() and bench.get(CLAIM) == 10
    bench.lines[10](False)
    bench.put(CLAIM, 10)
    assert not bench.external() and bench.get(CLAIM) == 0


def test_a_line_that_falls_before_the_claim_leaves_its_request() -> None:
    """The request remains present in the pending bit, as the specification says."""
    bench = Bench()
    bench.lines[3](True)
    bench.lines[3](False)
    assert bench.external() and bench.get(CLAIM) == 3
    bench.put(CLAIM, 3)
    assert bench.get(CLAIM) == 0


def test_the_highest_priority_wins_and_the_lowest_number_breaks_ties() -> None:
    """Across all words of the pending bits."""
    bench = Bench()
    bench.put(PRIORITY + 4 * 50, 7)
    bench.put(PRIORITY + 4 * 40, 5)
    for source in (53, 2, 40, 50, 9):
        bench.lines[source](True)
    assert [bench.get(CLAIM) for _ in range(6)] == [50, 40, 2, 9, 53, 0]


def test_the_threshold_masks_interrupts_but_not_claims() -> None:
    """Only a priority above the threshold interrupts; a claim takes what is pending (PLIC 8)."""
    bench = Bench()
    bench.put(THRESHOLD, 1)
    bench.lines[4](True)
    assert not bench.external()
    bench.put(THRESHOLD, 0)
    assert bench.external()
    bench.put(THRESHOLD, 0xFFFFFFFF)
    assert bench.get(THRESHOLD) == 7 and not bench.external()
    assert bench.get(CLAIM) == 4


def test_priority_zero_and_disabled_sources_never_interrupt() -> None:
    """They stay pending."""
    bench = Bench()
    bench.put(PRIORITY + 4 * 5, 0)
    bench.lines[5](True)
    bench.put(ENABLE, 0xFFFFFFFF & ~(1 << 6))
    bench.lines[6](True)
    assert not bench.external() and bench.get(CLAIM) == 0 and bench.get(PENDING) == 0x60
    bench.put(ENABLE, 0xFFFFFFFF)
    assert bench.external() and bench.get(CLAIM) == 6


def test_a_completion_of_a_disabled_or_unclaimed_source_is_ignored() -> None:
    """Only one that is enabled for the context opens the gateway (PLIC 9)."""
    bench = Bench()
    bench.lines[8](True)
    assert bench.get(CLAIM) == 8
    bench.put(ENABLE, 0)
    bench.put(CLAIM, 8)
    bench.put(ENABLE, 0xFFFFFFFF)
    assert bench.get(CLAIM) == 0
    for value in (0, 7, SOURCES + 1, 0xFFFFFFFF):
        bench.put(CLAIM, value)
    bench.put(CLAIM, 8)
    assert bench.get(CLAIM) == 8


def test_source_zero_does_not_exist() -> None:
    """Its bits and its priority read as zero."""
    bench = Bench()
    bench.put(PRIORITY, 7)
    assert bench.get(PRIORITY) == 0 and bench.get(ENABLE) == 0xFFFFFFFE


def test_the_machine_mode_context_reads_as_zero() -> None:
    """Context 0's registers exist and do nothing; so do other sizes and odd offsets."""
    bench = Bench()
    bench.lines[1](True)
    for offset in (0x2000, 0x200000, 0x200004, 0x202000, CLAIM + 1, 0x5FFFFC):
        bench.put(offset, 0xFFFFFFFF)
        assert bench.get(offset) == 0
    assert bench.plic.read(CLAIM, 8) == bench.plic.read(CLAIM, 1) == 0
    assert bench.get(CLAIM) == 1


def test_reset_keeps_lines_that_are_high() -> None:
    """They belong to the devices, and interrupt as soon as they are enabled."""
    bench = Bench()
    bench.lines[2](True)
    assert bench.get(CLAIM) == 2
    bench.plic.reset()
    assert not bench.external()
    bench.put(PRIORITY + 8, 1)
    bench.put(ENABLE, 4)
    assert bench.external() and bench.get(CLAIM) == 2
