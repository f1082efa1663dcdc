# SPDX-License-Identifier: GPL-2.0-or-later
"""Many seeds of the simulated pair; every failure names the command that replays it.

FTVM_SIM_SEEDS=5000 python -m pytest tests/sim/test_seeds.py      more seeds
python -m tests.sim --from 100000 --budget-seconds 600            a campaign
"""

from __future__ import annotations

import os

import pytest

from tests.sim.run import Report, simulate

SEEDS = int(os.environ.get("FTVM_SIM_SEEDS", "500"))
BATCH = 50


@pytest.mark.timeout(0)
@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_a_simulated_pair_keeps_its_promises(first: int) -> None:
    """Whatever happens to it: see `checks`, `history` and `client` for the promises."""
    reports = [simulate(seed) for seed in range(first, min(first + BATCH, SEEDS))]
    assert sum(report.terms for report in reports) > BATCH, "hardly anything went wrong: the seeds test nothing"
    assert sum(report.outputs for report in reports) > 20 * BATCH


def test_a_seed_is_the_same_again() -> None:
    """Else it could not be replayed."""

    def facts(report: Report) -> tuple[object, ...]:
        return report.steps, report.outputs, report.repeats, report.terms, report.seconds

    assert facts(simulate(7)) == facts(simulate(7))


@pytest.mark.timeout(0)
@pytest.mark.parametrize("guest", ["blockd", "console"])
def test_a_pair_of_real_machines_keeps_them_too(guest: str) -> None:
    """Few seeds, because each boots several machines."""
    for seed in range(4):
        assert simulate(seed, None, guest).outputs > 0
