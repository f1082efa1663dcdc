# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold at every step of a simulated pair, whatever happens to it. A breach is a `Violation`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.event import Output
from ftvm.pair.link import LinkState
from ftvm.pair.member import Role
from tests.sim.history import Spine, Violation

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.process import Process

_GUARDED = (LinkState.PROTECTED, LinkState.LOST)


class Checks:
    """Looks at everything from outside, with knowledge that no side has."""

    def __init__(self, cluster: Cluster) -> None:
        self.spine = Spine(cluster.boot)
        self.outputs = 0
        self.held_back = 0.0
        self._cluster = cluster

    # -- what leaves --------------------------------------------------------------------------------------------

    def released(self, process: Process, sequence: int, index: int, output: Output) -> None:
        """An output leaves the pair."""
        if process.dead or process.over:
            raise Violation(f"{process.name} releases {sequence}.{index} after its end")
        if process.machine.corrupt:
            raise Violation(f"{process.name} has diverged and releases {sequence}.{index}")
        node = process.machine.node.before(sequence)
        self._cluster.note(process.name, "releases", sequence, index, output.kind, output.offset)
        fresh = self.spine.released(process.name, node, index, output)
        self.outputs += 1
        if fresh:
            self._output_rule(process, sequence, index)
        if output.durable:
            self._durable(process, node.changes[index], sequence)

    def _output_rule(self, process: Process, sequence: int, index: int) -> None:
        link = process.member.link
        if link is None or link.state not in _GUARDED:
            return
        told = max((life.told_acks for life in process.side.other.lives), default=0)
        if sequence > told:
            raise Violation(
                f"{process.name} releases {sequence}.{index}, but its backup has only acknowledged entry {told}"
            )

    def _durable(self, process: Process, changes: int, sequence: int) -> None:
        sides = [process.side]
        link = process.member.link
        if link is not None and link.state in _GUARDED:
            sides.append(process.side.other)
        for side in sides:
            if side.storage.stable < changes:
                raise Violation(
                    f"{process.name} releases a durable output of entry {sequence}, which needs {changes} changes of "
                    f"the disk; side {side.name}'s storage has synced {side.storage.stable}"
                )

    # -- what members do ----------------------------------------------------------------------------------------

    def took_over(self, process: Process, term: int) -> None:
        """A member is live in `term` from now on."""
        if process.machine.corrupt:
            raise Violation(f"{process.name} has diverged and goes live")
        if process.machine.node.final and process.member.role is not Role.PRIMARY:
            raise Violation(f"{process.name} goes live although it has executed the guest's last entry")
        self._cluster.note(process.name, "takes over term", term, "at entry", process.machine.sequence)
        self.spine.took_over(process.name, term, process.machine.node)

    def finished(self, process: Process) -> None:
        """A member says that the guest has ended in order."""
        self.spine.ended(process.machine.node)

    def ran(self, process: Process) -> None:
        """A member's machine is inside an entry."""
        member, sequence = process.member, process.machine.sequence
        if member.role in (Role.JOINING, Role.BACKUP) and sequence > process.told_acks:
            raise Violation(f"{process.name} executes entry {sequence}, it has acknowledged {process.told_acks}")
        link = member.link
        if member.role is Role.PRIMARY and link is not None and link.state is LinkState.PROTECTED:
            self._window(process)

    def _window(self, process: Process) -> None:
        cluster, link = self._cluster, process.member.link
        assert link is not None and link.sender is not None
        window, limits = link.sender.window, cluster.limits
        if window.entries > limits.max_entries or window.bytes > limits.max_bytes + (1 << 20):
            raise Violation(f"{process.name} has {window.entries} entries, {window.bytes} bytes in its window")
        lag = window.lag_ms(cluster.now)
        if lag > limits.lag_max_ms and process.stopped_until < cluster.now - 0.5:
            raise Violation(f"{process.name} runs on while its backup lags {lag:.1f} ms")

    def stepped(self, process: Process) -> None:
        """A member has done a step."""
        member = process.member
        if member.alarms and not self._cluster.planted:
            raise Violation(f"{process.name} raises an alarm without a reason: {member.alarms}")
        if member.role is Role.PRIMARY and member.gate.rule.held > 5000:
            raise Violation(f"{process.name} holds {member.gate.rule.held} outputs: nothing bounds them")
