# SPDX-License-Identifier: GPL-2.0-or-later
"""Delays of outputs: percentiles, and what the gate counts."""

from __future__ import annotations

import random

import pytest

from devices.event import Output, OutputKind
from ftvm.delays import Delays
from ftvm.gate import Gate
from ftvm.world.simulated import SimulatedWorld
from logging_channel.output_rule import OutputMode


def test_percentiles_are_right_to_nine_percent() -> None:
    """Against the sorted values."""
    rng = random.Random(1)
    values = sorted(rng.lognormvariate(4, 2) for _ in range(5000))
    delays = Delays()
    for value in values:
        delays.add(value * 1e-6)
    for percent in (1, 50, 90, 99):
        exact = values[len(values) * percent // 100 - 1]
        if exact > 1:
            assert delays.percentile_us(percent) == pytest.approx(exact, rel=0.1)
    assert delays.report()["max"] == pytest.approx(values[-1], abs=0.1)
    assert delays.count == 5000


def test_outputs_that_do_not_wait_count_as_none() -> None:
    """A median of zero when most left at once, and the slow ones still show in the tail."""
    delays = Delays()
    delays.at_once = 90
    for _ in range(10):
        delays.add(0.004)
    assert delays.percentile_us(50) == 0.0
    assert delays.percentile_us(99) == pytest.approx(4000, rel=0.1)
    delays.clear()
    assert delays.report() == {"count": 0, "p50": 0.0, "p99": 0.0, "max": 0.0}


def test_extreme_delays_stay_in_range() -> None:
    """Neither a delay of nothing nor one of hours breaks a bucket."""
    delays = Delays()
    delays.add(0.0)
    delays.add(1e6)
    assert delays.count == 2
    assert delays.percentile_us(100) > 1e8


def test_the_gate_counts_from_the_guest_to_the_world_while_protected() -> None:
    """Waiting time of a held output, nothing for one whose entry was acknowledged, durable ones apart."""
    now = [10.0]
    world = SimulatedWorld()
    gate = Gate(world, lambda: now[0], lambda: 5, OutputMode.ALONE)
    gate.offer(1, 0, Output(OutputKind.CONSOLE, 0, b"before"))
    gate.protect()
    assert gate.delays.count == 0
    gate.offer(2, 0, Output(OutputKind.CONSOLE, 0, b"held"))
    gate.offer(2, 1, Output(OutputKind.BLOCK_REPLY, 0, b"flushed", 7, durable=True))
    now[0] += 0.002
    gate.acknowledged(2, 0)
    gate.flush()
    assert (gate.delays.at_once, gate.delays.count, gate.durable_delays.count) == (0, 1, 0)
    assert gate.delays.percentile_us(50) == pytest.approx(2000, rel=0.1)
    gate.offer(2, 2, Output(OutputKind.CONSOLE, 0, b"at once"))
    assert gate.delays.at_once == 1
    now[0] += 0.003
    gate.acknowledged(2, 2)
    gate.flush()
    assert gate.durable_delays.percentile_us(50) == pytest.approx(5000, rel=0.1)
    assert len(world.released) == 4
