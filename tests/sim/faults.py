# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong in a seed. Each fault is a function of the cluster; `FAULTS` says how often it is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ftvm.pair.member import Role
from tests.sim.cluster import Cluster, Side
from tests.sim.process import Process

Fault = Callable[[Cluster], None]
POINTS_MAX: Final = 60


def _someone(cluster: Cluster) -> Process | None:
    living = [side.process for side in cluster.sides if side.process is not None]
    return cluster.random.choice(living) if living else None


def kill(cluster: Cluster) -> None:
    """SIGKILL, now."""
    if (victim := _someone(cluster)) is not None:
        victim.kill()


def _at_point(cluster: Cluster, victim: Process, action: Callable[[], None]) -> None:
    victim.at_point = action
    victim.points_left = cluster.random.randint(1, POINTS_MAX)


def kill_at_point(cluster: Cluster) -> None:
    """SIGKILL between two effects of a process."""
    if (victim := _someone(cluster)) is not None:
        _at_point(cluster, victim, victim.kill)


def kill_primary_soon(cluster: Cluster) -> None:
    """SIGKILL of the primary, a few effects from now."""
    if (victim := cluster.primary) is not None:
        _at_point(cluster, victim, victim.kill)
        victim.points_left = cluster.random.randint(1, 6)


def kill_behind_a_pause(cluster: Cluster) -> None:
    """The primary dies while its backup is stopped: what was sent and the connection's end are found together."""
    primary = cluster.primary
    if primary is not None and (backup := primary.side.other.process) is not None:
        backup.stop(0.03)
        kill_primary_soon(cluster)


def stop(cluster: Cluster) -> None:
    """SIGSTOP, now, for less or more than the timeout."""
    if (victim := _someone(cluster)) is not None:
        victim.stop(_pause(cluster))


def stop_just_too_long(cluster: Cluster) -> None:
    """The primary goes on while its backup asks for the next term."""
    if cluster.primary is not None:
        asking = cluster.random.uniform(0.0, cluster.setup.arbiter_s)
        cluster.primary.stop(cluster.timing.timeout_ms / 1e3 + asking)


def stop_at_point(cluster: Cluster) -> None:
    """SIGSTOP between two effects of a process."""
    if (victim := _someone(cluster)) is not None:
        seconds = _pause(cluster)
        _at_point(cluster, victim, lambda: victim.stop(seconds))


def _pause(cluster: Cluster) -> float:
    near = cluster.random.random() < 0.5  # it is over just when the other side suspects something
    return cluster.random.uniform(*((0.95, 1.1) if near else (0.1, 4.0))) * cluster.timing.timeout_ms / 1e3


def cut(cluster: Cluster) -> None:
    """The connection breaks; both ends live."""
    if cluster.network.cut("a", "b"):
        cluster.note("network", "cut")


def partition(cluster: Cluster) -> None:
    """Nothing passes between the two, for a while."""
    seconds = _pause(cluster)
    cluster.note("network", f"partition for {seconds * 1e3:.0f} ms")
    cluster.network.partition("a", "b")
    cluster.after(seconds, lambda: cluster.network.heal("a", "b"))


def power(cluster: Cluster) -> None:
    """Both hosts lose power: what no sync has covered may be gone, sector by sector."""
    cluster.note("power", "fails")
    for side in cluster.sides:
        if side.process is not None:
            side.process.kill()
        side.storage.crash()


def arbiter_away(cluster: Cluster) -> None:
    """The arbiter cannot be reached, for a while; answers may be lost."""
    seconds = cluster.random.uniform(0.05, 0.6)
    cluster.note("arbiter", f"away for {seconds * 1e3:.0f} ms")
    cluster.arbiter.away = True

    def back() -> None:
        cluster.arbiter.away = False

    cluster.after(seconds, back)


def disk_fails(cluster: Cluster) -> None:
    """One side's storage fails at one of its next operations."""
    side = cluster.random.choice(cluster.sides)
    cluster.note(f"disk {side.name}", "will fail")
    side.storage.fail_at = side.storage.operations + cluster.random.randint(1, 20)


def clients_leave(cluster: Cluster) -> None:
    """Clients cut their connections with requests in flight, and come again."""
    for client in cluster.clients:
        if cluster.random.random() < 0.7:
            client.give_up()


def burst(cluster: Cluster) -> None:
    """The guest computes for a while, with entropy and echoes."""
    cluster.type("be")


def ambush(cluster: Cluster) -> None:
    """Something happens in the middle of the next join, wherever it is by then."""
    fault = cluster.random.choice((kill, kill_at_point, cut, cut, stop_at_point, partition))
    delay = cluster.random.choice((0.0, 0.0005, 0.002, 0.006))

    def strike() -> None:
        if not cluster.peace:
            fault(cluster)

    cluster.ambush_at = cluster.random.choice(("joining in term", "state taken over"))
    cluster.at_next_join = lambda: cluster.after(delay * cluster.random.random(), strike)
    kill(cluster)


def diverge(cluster: Cluster) -> None:
    """The backup's machine is not what it should be, from here on."""
    for side in cluster.sides:
        process = side.process
        if process is not None and process.member.role is Role.BACKUP and cluster.protected:
            cluster.planted = True
            cluster.note(process.name, "diverges")
            process.machine.plant_divergence()
            return


FAULTS: Final[dict[Fault, int]] = {
    kill: 10,
    kill_at_point: 14,
    stop: 6,
    stop_at_point: 10,
    cut: 6,
    partition: 6,
    arbiter_away: 5,
    disk_fails: 2,
    clients_leave: 4,
    burst: 6,
    ambush: 14,
    stop_just_too_long: 8,
    kill_behind_a_pause: 6,
}
WILD: Final[dict[Fault, int]] = {**FAULTS, power: 8}

AT_THE_END: Final = (
    kill,
    kill_primary_soon,
    kill_behind_a_pause,
    kill_behind_a_pause,
    kill_at_point,
    cut,
    stop_at_point,
    partition,
)


def heal(cluster: Cluster) -> None:
    """Nothing goes wrong any more."""
    cluster.peace = True
    cluster.arbiter.away = False
    cluster.network.heal("a", "b")
    for side in cluster.sides:
        _mend(side)


def _mend(side: Side) -> None:
    side.storage.fail_at = -1
    if side.process is not None:
        side.process.at_point = None
