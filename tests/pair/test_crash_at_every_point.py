# SPDX-License-Identifier: GPL-2.0-or-later
"""A side is killed at every point of a scripted run, and nothing is lost, doubled or different.

A point is any effect of a process on its surroundings: a frame that it sends, an output that leaves, events that it
takes, a note, a question to the arbiter. Killing it at point n and n + 1 gives a frame that was not sent, and one that
was; of what was sent, either all still arrives or nothing. After each kill the pair must be protected again, every
request answered exactly once, and the entries that survived, run once more from power-on without any interruption on
a machine and disk of their own, must give exactly what has left.

The toy machine goes through all points, the real one with its guests through some; FTVM_CRASH_STRIDE=1 means all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from devices.event import Output
from ftvm.machine import Machine
from ftvm.pair.member import Role
from ftvm.scratch_disk import ScratchDisk
from ftvm.service.nbd import FLUSH, READ, VENDOR, WRITE
from tests.sim.cluster import Cluster, Setup
from tests.sim.disk import DISK_BYTES
from tests.sim.process import Process
from tests.sim.real import built
from tests.sim.run import tell

STRIDE = int(os.environ.get("FTVM_CRASH_STRIDE", "0"))
ALL = 1 << 30
SEED = 11
SETTLE_S = 20.0

BLOCK = (WRITE, WRITE, READ, FLUSH, WRITE, VENDOR, READ, WRITE, FLUSH, READ)


@dataclass(frozen=True, slots=True)
class Script:
    """What the outside does in a run."""

    guest: str
    requests: tuple[int, ...] = BLOCK
    lines: tuple[str, ...] = ()

    def setup(self) -> Setup:
        """A calm world: only the planned kill goes wrong."""
        clients = 1 if self.requests else 0
        return Setup(guest=self.guest, clients=clients, depth=3, script=self.requests, threaded=False, fencing=False)


class Run:
    """One scripted run, with at most one kill."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.cluster = Cluster(SEED, script.setup())
        self.cluster.start()
        self.cluster.wait("not protected at the beginning", lambda: self.cluster.protected, 10.0)

    def side(self, role: Role) -> Process:
        """The process that has this role."""
        primary = self.cluster.primary
        assert primary is not None
        found = primary if role is Role.PRIMARY else primary.side.other.process
        assert found is not None
        return found

    def kill(self, role: Role, point: int, survive: int) -> None:
        """That side dies at that point, counted from here."""
        victim = self.side(role)
        victim.at_point = lambda: victim.kill(survive)
        victim.points_left = point

    def finish(self) -> None:
        """Let the script run to its end, and the pair be whole again."""
        cluster = self.cluster
        for line in self.script.lines:
            cluster.type(line)
            cluster.run_until(cluster.now + 0.05)
        cluster.wait("clients wait", lambda: all(client.finished for client in cluster.clients), SETTLE_S)
        cluster.run_until(cluster.now + 0.3)
        cluster.wait("not protected again", lambda: cluster.protected, SETTLE_S)
        spine = cluster.checks.spine
        cluster.wait("outputs are held for ever", lambda: spine.console_left() >= spine.console_due(), SETTLE_S)

    def compare(self) -> int:
        """Run the surviving history without interruption; returns how many outputs of it have left."""
        config, image = built(self.script.guest)
        emitted: list[tuple[int, int, Output]] = []
        disks = [ScratchDisk(DISK_BYTES)]
        machine = Machine(config, image, disks, lambda *output: emitted.append(output))
        spine = self.cluster.checks.spine
        for node in spine.path():
            assert node.entry is not None and node.result is not None
            result = machine.run(node.entry)
            assert (result.reason, result.clock, result.time, result.digest) == node.result[:4], node.entry
        machine.close()
        made = {(sequence, index): output for sequence, index, output in emitted}
        for place, output in spine.left.items():
            assert made[place] == output, place
        return len(spine.left)


def one(script: Script, role: Role, point: int, survive: int) -> None:
    """One run with a kill; what fails tells its last events."""
    run = Run(script)
    try:
        run.kill(role, point, survive)
        run.finish()
        if script.guest != "toy":
            assert run.compare() > 0
    except Exception as error:
        error.add_note("\n".join(tell(run.cluster)))
        error.add_note(f"{script.guest}, {role.value} killed at point {point}, {survive} messages arrive")
        raise


def points(script: Script, role: Role) -> int:
    """How many points that side passes in an undisturbed run."""
    run = Run(script)
    process = run.side(role)
    before = process.points
    run.finish()
    assert not any(side.lives[1:] for side in run.cluster.sides), "an undisturbed run has no failover"
    return process.points - before


SCRIPTS = {
    "toy": Script("toy"),
    "blockd": Script("blockd"),
    "console": Script("console", (), ("hello\r", "second line\r", "x")),
}
STRIDES = {"toy": 1, "blockd": 4, "console": 2}


@pytest.mark.timeout(0)
@pytest.mark.parametrize("role", [Role.PRIMARY, Role.BACKUP], ids=lambda role: role.value)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_side_killed_at_any_point_loses_nothing(name: str, role: Role) -> None:
    """Of the frames in flight, all or none arrive."""
    script = SCRIPTS[name]
    count = points(script, role)
    assert count > 10
    for number, point in enumerate(range(1, count + 1, STRIDE or STRIDES[name])):
        for survive in (0, ALL) if STRIDE == 1 or name == "toy" else ((0, ALL)[number % 2],):
            one(script, role, point, survive)
