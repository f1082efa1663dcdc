# SPDX-License-Identifier: GPL-2.0-or-later
"""One seed from its setup to its verdict.

    start -> protected -> (fault, fault, ...) -> healed: protected again, all clients done -> the guest is ended -> over

"Tame" seeds wait for a protected pair before each fault, so that nothing may ever be lost; "wild" ones do not, so both
sides may die, and the pair starts cold from its disks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from unittest.mock import patch

from ftvm.pair import link, ram_feed, transfer
from logging_channel.memory import Conditions
from logging_channel.window import Limits
from tests.sim import faults
from tests.sim.cluster import Cluster, Setup
from tests.sim.history import Violation

SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a seed has shown."""

    seed: int
    steps: int
    outputs: int
    repeats: int
    terms: int
    cold_starts: int
    requests: int
    seconds: float  # of virtual time


class Simulation:
    """One seed."""

    def __init__(self, seed: int, faults_max: int | None = None, guest: str = "toy") -> None:
        self.seed = seed
        chance = Random(seed)
        self.setup = replace(choose_setup(chance), guest=guest)
        if guest == "console":
            self.setup = replace(self.setup, clients=0)
        self.tame = chance.random() < 0.7
        self.planted = self.tame and chance.random() < 0.1
        self.count = chance.randint(1, 5)
        if faults_max is not None:
            self.count = min(self.count, faults_max)
        self.cluster = Cluster(seed, self.setup)
        self._chance = chance

    def run(self) -> Report:
        """Raises Violation, or whatever else breaks."""
        with patch.object(transfer, "FEW_PAGES", self.setup.few_pages), patch.object(ram_feed, "PAGES_AT_ONCE", 8):
            if self.setup.chunks_at_once > 1:
                return self._run()
            with patch.object(link, "CHUNKS_AT_ONCE", 1), patch.object(transfer, "FEW_CHUNKS", 0):
                return self._run()

    def _run(self) -> Report:
        cluster = self.cluster
        cluster.start()
        if self.tame:
            cluster.wait("not protected at the beginning", lambda: cluster.protected, 10.0)
        for _ in range(self.count):
            self._fault()
        if self.planted:
            self._divergence()
        faults.heal(cluster)
        cluster.run_until(cluster.now + 2 * self.setup.timing.timeout_ms / 1e3)  # what was done may be noticed late
        cluster.wait(
            "the pair is not protected again, or clients wait",
            lambda: cluster.calm and cluster.protected and all(client.finished for client in cluster.clients),
            SETTLE_S,
        )
        self._quiet()
        self._end()
        return self._report()

    def _fault(self) -> None:
        cluster, chance = self.cluster, self._chance
        if self.tame:
            faults.heal(cluster)
            cluster.run_until(cluster.now + 2 * self.setup.timing.timeout_ms / 1e3)
            cluster.wait("not protected before the next fault", lambda: cluster.calm and cluster.protected, SETTLE_S)
        cluster.run_until(cluster.now + chance.random() ** 2 * 0.3)
        cluster.peace = False
        table = faults.FAULTS if self.tame else faults.WILD
        together = 1 if self.tame and chance.random() < 0.6 else 2
        for fault in chance.choices(list(table), list(table.values()), k=together):
            fault(cluster)
            cluster.run_until(cluster.now + chance.random() ** 3 * 0.4)

    def _divergence(self) -> None:
        cluster = self.cluster
        faults.heal(cluster)
        cluster.run_until(cluster.now + 2 * self.setup.timing.timeout_ms / 1e3)
        cluster.wait("not protected before the divergence", lambda: cluster.calm and cluster.protected, SETTLE_S)
        faults.diverge(cluster)
        if cluster.planted:
            cluster.type("x")
            cluster.wait("the planted divergence is not noticed", self._alarmed, 5.0)

    def _alarmed(self) -> bool:
        primary = self.cluster.primary
        return primary is not None and bool(primary.member.alarms)

    def _quiet(self) -> None:
        """Everything that the guest has said has left, in whole streams."""
        spine = self.cluster.checks.spine

        def all_left() -> bool:
            return spine.console_left() >= spine.console_due()

        self.cluster.wait("outputs of the console are held for ever", all_left, 5.0)

    # -- ends ---------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        cluster, chance = self.cluster, self._chance
        cluster.ending = True
        calm = chance.random() < 0.6
        terms = cluster.arbiter.highest
        self._ask_to_end(chance.random() < 0.5)
        if not calm:
            cluster.run_until(cluster.now + chance.random() * 0.004)
            chance.choice(faults.AT_THE_END)(cluster)
        end = cluster.now + SETTLE_S
        while any(side.process is not None for side in cluster.sides):
            if cluster.now > end:
                raise Violation("the guest was told to end, but a side goes on for ever")
            cluster.run_until(cluster.now + 1.0)
            if not calm:
                self._ask_to_end(True)  # what was asked may have died with its primary
        last = [side.lives[-1] for side in cluster.sides]
        if calm and not all(life.member.finished for life in last):
            raise Violation("the guest has ended, but not in order on both sides")
        if calm and cluster.arbiter.highest != terms:
            raise Violation("the guest's end was taken for a failure: a term was granted")
        if not any(life.member.finished for life in last) and not any(life.dead for life in last):
            raise Violation("both sides are over, and nobody saw the guest end")

    def _ask_to_end(self, by_operator: bool) -> None:
        primary = self.cluster.primary
        if by_operator or self.setup.guest == "blockd":
            if primary is not None:
                primary.member.stop()
        else:
            self.cluster.type({"toy": "q", "console": "\rquit\r"}[self.setup.guest])

    def _report(self) -> Report:
        cluster = self.cluster
        return Report(
            self.seed,
            cluster.steps,
            cluster.checks.outputs,
            cluster.checks.spine.repeats,
            cluster.arbiter.highest,
            cluster.cold_starts,
            sum(client.done for client in cluster.clients),
            cluster.now,
        )


def choose_setup(chance: Random) -> Setup:
    """What the seed's world is like."""
    slow = chance.random() < 0.2
    conditions = Conditions(
        delay=(0.0001, 0.004) if slow else (0.00002, 0.0002),
        late_chance=chance.choice((0.0, 0.5)),
    )
    small = chance.random() < 0.15
    one_host = chance.random() < 0.6
    return Setup(
        conditions=conditions,
        limits=Limits(max_entries=8) if small else Limits(),
        one_host=one_host,
        fencing=one_host or chance.random() < 0.3,
        threaded=chance.random() < 0.6,
        clients=chance.randint(1, 3),
        quota=chance.choice((10, 40, 80)),
        depth=chance.choice((1, 4, 16)),
        deadly=chance.choice((0.0, 0.0, 0.03)),
        pad=chance.choice((0, 0, 0, 100, 3 << 20)),
        sync_s=chance.choice(((0.0002, 0.004), (0.005, 0.05))),
        slowness=(chance.choice((1.0, 1.0, 2.5)), chance.choice((1.0, 1.0, 2.5))),
        arbiter_s=chance.choice((0.004, 0.03, 0.1)),
        chunks_at_once=chance.choice((16, 1)),
        few_pages=chance.choice((0, 4, 2048)),
        busy=chance.random() < 0.3,
    )


def simulate(seed: int, faults_max: int | None = None, guest: str = "toy") -> Report:
    """Run a seed; a failure tells the last events and names the command that replays it."""
    simulation = Simulation(seed, faults_max, guest)
    try:
        return simulation.run()
    except Exception as error:
        error.add_note("\n".join(tell(simulation.cluster)))
        error.add_note(command(seed, faults_max, guest))
        raise


def command(seed: int, faults_max: int | None, guest: str) -> str:
    """What replays a seed."""
    options = "" if faults_max is None else f" --steps {faults_max}"
    options += "" if guest == "toy" else f" --guest {guest}"
    return f"replay: python -m tests.sim {seed}{options}"


def tell(cluster: Cluster, last: int = 60) -> list[str]:
    """The last events, readable."""
    lines = []
    for at, *what in list(cluster.trace)[-last:]:
        lines.append(f"{at * 1e3:11.3f} ms  " + " ".join(str(word) for word in what))
    return lines
