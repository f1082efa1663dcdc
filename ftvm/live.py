# SPDX-License-Identifier: GPL-2.0-or-later
"""The live side: decides each entry, tells the backup and the log, runs it, and lets its outputs go.

    world -> events --+
    host clock -> time +--> Entry --> link (backup)  --> machine.run --> gate --> world
    pace -> budget ----+          `-> recorder (log) <-- result

An entry is a promise: it is sent before it is run, and nothing that is not in it or in the machine's state decides how
the epoch goes. `step` runs at most one epoch and says how long there is nothing to do; it never waits itself, so the
same code runs in a process, in a test and in a simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from devices.event import Event, EventKind, Output
from ftvm.gate import Gate
from ftvm.machine import FINAL, STOP, EpochEnd, Machine
from ftvm.pace import TICKS_PER_SECOND, Pace
from ftvm.world.world import World
from replay.entry import Entry, EntryFlag, EpochResult

PAGES_EVERY_S: Final = 2.0
IDLE_WAIT_S: Final = 10.0
EVENTS_PER_ENTRY_MAX: Final = 256


class Link(Protocol):
    """What the live side needs of whoever follows it."""

    def delay(self, now: float) -> float:
        """Seconds to hold the next entry back, 0 when it may go."""

    def boundary(self) -> None:
        """The machine is between two epochs; a snapshot may be taken."""

    def announce(self, entry: Entry, released: int, now: float) -> None:
        """The entry is about to be run."""

    def ran(self, result: EpochResult, now: float) -> None:
        """The entry has been run here, with this result."""

    def wants_protection(self) -> bool:
        """The backup has caught up: mark the next entry as the one from which on the output rule holds."""

    def protect(self, sequence: int) -> None:
        """The entry with this sequence carries the mark."""


class Sink(Protocol):
    """A recorder of what was run."""

    def append(self, entry: Entry, result: EpochResult, now: float) -> None: ...


class Live:
    """Runs a machine in real time, alone or with a backup that follows."""

    def __init__(
        self, machine: Machine, world: World, gate: Gate, clock: Callable[[], float], pace: Pace | None = None
    ) -> None:
        self.machine = machine
        self.world = world
        self.gate = gate
        self.clock = clock
        self.pace = pace or Pace()
        self.link: Link | None = None
        self.recorder: Sink | None = None
        self.end: EpochEnd | None = None
        self.entries = 0
        self.on_result: Callable[[Entry, EpochResult], None] | None = None
        self._next = machine.sequence + 1
        self._time = machine.time
        self._idle = False
        self._control: list[bytes] = []
        self._backlog: list[Event] = []
        self._pages_due = clock() + PAGES_EVERY_S
        self._pages_clock = machine.clock
        self.pace.start(clock(), self._time)
        machine.emit = self._emit

    @property
    def executed(self) -> int:
        """Sequence of the last entry that was run."""
        return self._next - 1

    @property
    def time(self) -> int:
        """Guest time reached, in ticks."""
        return self._time

    def control(self, command: bytes) -> None:
        """Put a control event into the next entry."""
        self._control.append(command)

    def stop(self) -> None:
        """End the guest by a control entry, so that a follower does not take it for a failure."""
        if STOP not in self._control:
            self.control(STOP)

    def step(self, now: float) -> float:
        """Run one epoch if there is a reason to; returns seconds that the caller may wait for input (0: none)."""
        if self.end is not None:
            return IDLE_WAIT_S
        self.gate.flush()
        if self.link is not None:
            self.link.boundary()
            if (delay := self.link.delay(now)) > 0:
                return delay
        events = self._gather()
        protect = self.link is not None and self.link.wants_protection()
        if self._idle and not events and not protect and (wait := self._idle_seconds(now)) > 0:
            return wait
        self._epoch(now, events, protect)
        return 0.0

    def _gather(self) -> list[Event]:
        events = self._backlog + self.world.take_events()
        self._backlog = events[EVENTS_PER_ENTRY_MAX:]
        del events[EVENTS_PER_ENTRY_MAX:]
        if wanted := self.machine.entropy_wanted:
            events.append(Event(EventKind.ENTROPY, 0, self.world.entropy(wanted)))
        if self._control:
            events += [Event(EventKind.CONTROL, 0, command) for command in self._control]
            self._control = []
        return events

    def _idle_seconds(self, now: float) -> float:
        deadline = self.machine.deadline
        if deadline is None:
            return IDLE_WAIT_S
        return min(IDLE_WAIT_S, self.pace.seconds_until(max(deadline, 0), now))

    def _epoch(self, now: float, events: list[Event], protect: bool) -> None:
        if events:
            self.pace.input()
        time, time_max, budget = self.pace.next(now, self._time, self.machine.outstanding > 0)
        entry = Entry(self._next, self.machine.clock, time, time_max, budget, tuple(events), self._flags(now, protect))
        if self.link is not None:
            if protect:
                self.link.protect(entry.sequence)
            self.link.announce(entry, self.gate.released(self.executed), now)
        result = self.machine.run(entry)
        after = self.clock()
        self._account(entry, result, now, after)

    def _account(self, entry: Entry, result: EpochResult, before: float, after: float) -> None:
        self._next += 1
        self.entries += 1
        self._time = result.time
        self._idle = result.reason == EpochEnd.IDLE
        self.pace.ran(after - before, result.reason == EpochEnd.LIMIT)
        if self.recorder is not None:
            self.recorder.append(entry, result, after)
        if self.link is not None:
            self.link.ran(result, after)
        if self.on_result is not None:
            self.on_result(entry, result)
        self.gate.flush()
        if result.reason in FINAL:
            self.end = EpochEnd(result.reason)

    def _flags(self, now: float, protect: bool) -> int:
        flags = int(EntryFlag.PROTECTED) if protect else 0
        if now >= self._pages_due and self.machine.clock != self._pages_clock:
            self._pages_due = now + PAGES_EVERY_S
            self._pages_clock = self.machine.clock
            flags |= EntryFlag.DIGEST_PAGES
        return flags

    def _emit(self, sequence: int, index: int, output: Output) -> None:
        self.gate.offer(sequence, index, output)


def seconds(ticks: int) -> float:
    """Guest ticks as seconds."""
    return ticks / TICKS_PER_SECOND
