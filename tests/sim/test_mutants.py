# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulation notices broken rules: a test that cannot fail is worth nothing."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS
from tests.sim.run import simulate

SEEDS_MAX = 300
SEEDS_FIRST = {  # where a bug that takes rare circumstances was seen; only a shortcut, all seeds are tried in the end
    "everything is said to have left": 24,
    "nothing is emitted again on going live": 24,
    "acknowledged entries are dropped on going live": 63,
    "a joiner asks before it is in sync": 33,
    "an end is ignored when the primary is suspected": 20,
    "a backup's farewell is a failure": 28,
    "digests are not compared": 16,
    "a joiner's disks are not synced": 14,
}


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(name: str) -> None:
    """Within a bounded number of seeds."""
    first = SEEDS_FIRST.get(name, 0)
    with MUTANTS[name]():
        for seed in (*range(first, SEEDS_MAX), *range(first)):
            try:
                simulate(seed)
            except Exception:
                return
    pytest.fail(f"{SEEDS_MAX} seeds did not notice that {name}")
