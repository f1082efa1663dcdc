# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate between machine and world: outputs pass when the output rule lets them.

An output is offered at the moment the guest makes it, inside the epoch. Its entry went to the backup before the epoch
began, so the acknowledgement is usually there already and the output leaves at once. What has to wait is released by
`flush`, in order within each stream (Scales et al. 2010, section 2.2: the output rule). A backup's gate is shut: it
keeps what the primary has not reported as released, and going live opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from devices.event import Output, OutputKind
from ftvm.delays import Delays
from ftvm.world.world import World
from logging_channel.output_rule import OutputMode, OutputRule

Held = tuple[int, int, Output, float]
LOOK_EVERY_S = 50e-6  # outputs that come in a burst do not each look for acknowledgements


class Gate:
    """Holds outputs until they may leave."""

    def __init__(
        self, world: World, now: Callable[[], float], durable: Callable[[], int], mode: OutputMode = OutputMode.ALONE
    ) -> None:
        """`durable()` is the last sequence up to which this side's own disks are synced."""
        self.world = world
        self.delays = Delays()  # of ordinary outputs, under the output rule
        self.durable_delays = Delays()  # of those that also wait for disks
        self.rule: OutputRule[Held] = OutputRule(mode)
        self._now = now
        self._durable = durable
        self._received = 0
        self._durable_peer = 0
        self._look_at = 0.0
        self._pump: Callable[[], None] | None = None

    def listen(self, pump: Callable[[], None] | None) -> None:
        """`pump` takes in acknowledgements that have arrived; None when nobody acknowledges."""
        self._pump = pump

    def acknowledged(self, received: int, durable_peer: int) -> None:
        """The backup holds everything up to `received`, and its disks are synced up to `durable_peer`."""
        self._received, self._durable_peer = received, durable_peer

    def offer(self, sequence: int, index: int, output: Output) -> None:
        """The guest made this output just now."""
        if output.kind == OutputKind.PACKET:
            self.world.observe(output)
        stream, rule = _stream(output), self.rule
        if rule.may_leave(sequence, output.durable, stream):
            (self.durable_delays if output.durable else self.delays).at_once += 1
            self.world.deliver(sequence, index, output)
            return
        made = self._now()
        if made >= self._look_at:
            self._look_at = made + LOOK_EVERY_S
            self._look()
        if rule.may_leave(sequence, output.durable, stream):
            self._deliver([(sequence, index, output, made)])
        else:
            rule.hold(sequence, index, (sequence, index, output, made), output.durable, stream)

    def flush(self) -> None:
        """Let go what may leave by now."""
        if self.rule.held:
            self._look()

    def _look(self) -> None:
        if self.rule.mode is OutputMode.SHADOW:
            return
        if self._pump is not None:
            self._pump()
        self._deliver(self.rule.release(self._received, self._durable(), self._durable_peer))

    def protect(self) -> None:
        """The backup is in sync: from here on its acknowledgements count."""
        self.rule.protect(self._received, self._durable_peer)
        self.delays.clear()
        self.durable_delays.clear()

    def alone(self) -> None:
        """The arbiter has granted that this side is live without a backup."""
        self._deliver(self.rule.alone())

    def released(self, executed: int) -> int:
        """The last sequence all of whose outputs have left, given the last one that was executed."""
        return self.rule.left_through(executed)

    def _deliver(self, ready: list[Held]) -> None:
        if not ready:
            return
        now = self._now()
        for sequence, index, output, since in ready:
            (self.durable_delays if output.durable else self.delays).add(now - since)
            self.world.deliver(sequence, index, output)


def _stream(output: Output) -> Hashable:
    """Outputs of one stream keep their order; block replies carry a number and may pass each other."""
    if output.kind == OutputKind.BLOCK_REPLY:
        return (output.kind, output.offset)
    return (output.kind, output.unit)
