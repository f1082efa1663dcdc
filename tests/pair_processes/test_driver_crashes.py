# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver dies in every way it knows, under load, alone and together with hosts; clients notice a pause."""

from __future__ import annotations

import random
import time

import pytest

from ftvm.demo.kills import EIO, WAYS_TO_DIE
from ftvm.pair_process import PairProcess
from tests.pair_processes.load import Load
from tests.pair_processes.test_launcher import until

SEEDS = range(10)
KILLS_APART_S = 0.1
JOIN_S = 0.5
"""About what a new backup takes until it is in sync, most of it its process."""


def restarts(pair: PairProcess) -> int:
    """How often the driver was restarted; 0 while no side can tell."""
    return int(pair.status()["driver_restarts"] or 0)


@pytest.mark.parametrize("mode", WAYS_TO_DIE, ids=lambda mode: WAYS_TO_DIE[mode].replace(" ", "-"))
def test_the_driver_dies_under_load(pair: PairProcess, mode: int) -> None:
    """The killing request is answered with EIO, everything else as if nothing had happened; no side is to blame."""
    before, term = restarts(pair), pair.status()["term"]
    with Load(pair.addresses) as load:
        assert load.crash_driver(mode).result(20).error == EIO
        load.answered(100)
        assert load.retried == 0
        load.finish()
    until(lambda: restarts(pair) > before, "the restart to be counted")
    status = pair.status()
    assert status["term"] == term and status["protected"] and not status["alarms"]


@pytest.mark.parametrize("mode", [1, 2])
def test_one_poisoned_request_of_sixty_four_is_the_only_error(pair: PairProcess, mode: int) -> None:
    """All were in flight when the driver died; the killer is found by sending them again one at a time."""
    with Load(pair.addresses) as load:
        outcomes = load.poisoned_burst(mode, 64)
        assert [index for index, outcome in enumerate(outcomes) if outcome.error] == [32]
        assert outcomes[32].error == EIO
        load.finish()


def test_hosts_die_while_the_driver_restarts(pair: PairProcess) -> None:
    """First the driver, then at once the primary's host: five seeds, each with another way and another distance."""
    with Load(pair.addresses) as load:
        for seed in SEEDS[:5]:
            rng = random.Random(seed)
            answer = load.crash_driver(rng.choice(list(WAYS_TO_DIE)))
            time.sleep(rng.uniform(0, KILLS_APART_S))
            pair.kill_primary()
            assert answer.result(30).error == EIO, f"seed {seed}"
            load.answered(50)
            pair.wait_protected()
        load.finish()
    assert not pair.status()["alarms"]


def test_the_driver_dies_while_the_backup_goes_live(pair: PairProcess) -> None:
    """First the primary's host, and the killing request is the first that its successor gets: five seeds."""
    with Load(pair.addresses) as load:
        for seed in SEEDS[5:]:
            rng = random.Random(seed)
            pair.kill_primary()
            time.sleep(rng.uniform(0, KILLS_APART_S) if rng.random() < 0.5 else 0)
            answer = load.crash_driver(rng.choice(list(WAYS_TO_DIE)))
            load.answered(50)
            assert answer.result(30).error == EIO, f"seed {seed}"
            pair.wait_protected()
        load.finish()
    assert not pair.status()["alarms"]


def test_the_driver_dies_while_a_joiner_takes_the_state(pair: PairProcess) -> None:
    """At five distances from the backup's death, twice each: before, in and after the transfer; all go on alike."""
    before, rng = restarts(pair), random.Random(1)
    with Load(pair.addresses) as load:
        for distance in range(5):
            pair.kill_backup()
            time.sleep(distance * JOIN_S / 5)
            for _ in range(2):
                assert load.crash_driver(rng.choice([1, 3, 6])).result(30).error == EIO, f"distance {distance}"
            pair.wait_protected()
            before += 2
            until(lambda known=before: restarts(pair) >= known, f"the restarts at distance {distance} to be counted")
        load.answered(100)
        pair.kill_primary()
        load.answered(100)
        load.finish()
    pair.wait_protected()
    assert restarts(pair) >= before, "the successor does not know all restarts"
    assert not pair.status()["alarms"]
