# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills under load, by the demo: from SIGKILL of the primary to the next reply, and the silence when a driver dies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.effort import Bench
from bench.figure import Figure, percentile
from ftvm.demo.kills import KillResult, Target
from ftvm.demo.pair import MACHINE
from ftvm.demo.run import Options, run_demo
from ftvm.pair_process import PairProcess

SECONDS_A_KILL: Final = 6.0
NOTICED_LATE: Final = ("endless loop", "dropped request")  # only the watchdog sees these


def kills(bench: Bench) -> Iterator[Figure]:
    """As many kills of the primary's process as of the driver, in a seeded order, 2 clients with 8 in flight each."""
    count = bench.effort.kills
    machine = bench.path("kills.toml")
    machine.write_text(MACHINE)
    options = Options(seed=1, kill="both", count=count, calm_s=(0.2, 0.5), seconds_max=20 + 2 * SECONDS_A_KILL * count)
    with PairProcess(machine, bench.path("state")) as pair:
        pair.start()
        report = run_demo(pair, pair.addresses[0], options, bench.say)
        pair.stop()
    hosts = [kill for kill in report.kills if kill.kill.target is Target.HOST and kill.hit]
    drivers = [kill for kill in report.kills if kill.kill.target is Target.DRIVER and kill.hit]
    watched = [kill for kill in drivers if kill.kill.way in NOTICED_LATE]
    at_once = [kill for kill in drivers if kill not in watched]
    again = [kill.protected_ms for kill in hosts if kill.protected_ms is not None]
    note = f"{len(hosts)} kills; lost {report.lost}, doubled {report.doubled}, errors {len(report.errors)}"
    yield Figure("failover p50", percentile(_replies(hosts), 50), "ms", at_most=50, note=note)
    yield Figure("failover p99", percentile(_replies(hosts), 99), "ms", at_most=200, note="SIGKILL to the next reply")
    yield Figure("kill to protected again p50", percentile(again, 50), "ms", note="a new process joins")
    yield Figure("kill to protected again p99", percentile(again, 99), "ms")
    yield Figure(
        "driver restart p50", percentile(_replies(at_once), 50), "ms", at_most=100, note=f"{len(at_once)} deaths"
    )
    yield Figure("driver restart max", percentile(_replies(at_once), 100), "ms", note="longest silence")
    late = "includes the watchdog's 500 ms of guest time"
    yield Figure("hung driver restart p50", percentile(_replies(watched), 50), "ms", note=late)


def _replies(kills: list[KillResult]) -> list[float]:
    return [kill.reply_ms for kill in kills if kill.reply_ms is not None]
