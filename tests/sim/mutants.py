# SPDX-License-Identifier: GPL-2.0-or-later
"""Broken rules, one at a time: the simulation must notice each of them, else it proves nothing.

`with MUTANTS["the output rule is off"]():` gives every pair in that block the bug of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from ftvm.arbiter.arbiter import Grant
from ftvm.disk.barrier import BarrierDisk
from ftvm.gate import Gate
from ftvm.machine import Sections
from ftvm.pair.backup import Backup, BackupState
from ftvm.pair.link import BackupLink, LinkState
from ftvm.pair.member import Member, Role
from ftvm.pair.transfer import StateSource
from ftvm.ram_snapshot import Pages
from logging_channel.messages import Ack
from logging_channel.output_rule import OutputMode, OutputRule
from logging_channel.receiver import Receiver
from logging_channel.window import Window
from tests.pair.toy_ram import ToyRam, ToySeries, ToySnapshot
from tests.sim.arbiter import SimArbiter
from tests.sim.toy import ToyMachine

Mutant = Callable[[], AbstractContextManager[None]]
MUTANTS: Final[dict[str, Mutant]] = {}


def _mutant(name: str, owner: type, attribute: str) -> Callable[[Any], None]:
    """Register a replacement of a method; a replacement gets the original as its first argument."""

    def register(replacement: Any) -> None:
        @contextmanager
        def apply() -> Iterator[None]:
            original = owner.__dict__[attribute]

            def method(self: Any, *args: Any) -> Any:
                return replacement(original, self, *args)

            setattr(owner, attribute, property(method) if isinstance(original, property) else method)
            try:
                yield
            finally:
                setattr(owner, attribute, original)

        MUTANTS[name] = apply

    return register


# -- outputs ----------------------------------------------------------------------------------------------------------


@_mutant("the output rule is off", OutputRule, "_allowed")
def _rule_off(original: Any, self: Any, sequence: int, durable: bool) -> bool:
    return self.mode is not OutputMode.SHADOW and (not durable or bool(original(self, sequence, durable)))


@_mutant("a durable output leaves like any other", OutputRule, "_allowed")
def _never_durable(original: Any, self: Any, sequence: int, durable: bool) -> bool:
    return bool(original(self, sequence, False))


@_mutant("only the own disk counts", OutputRule, "_allowed")
def _own_disk(original: Any, self: Any, sequence: int, durable: bool) -> bool:
    self._durable_peer = 1 << 60
    return bool(original(self, sequence, durable))


@_mutant("only the backup's disk counts", OutputRule, "_allowed")
def _peer_disk(original: Any, self: Any, sequence: int, durable: bool) -> bool:
    self._durable_own = 1 << 60
    return bool(original(self, sequence, durable))


@_mutant("a flush is durable at once", BarrierDisk, "durable")
def _flush_at_once(original: Any, self: Any, executed: int) -> int:
    return executed


@_mutant("everything is said to have left", OutputRule, "left_through")
def _all_left(original: Any, self: Any, finished: int) -> int:
    return finished + 1


@_mutant("nothing is emitted again on going live", Gate, "alone")
def _no_repeats(original: Any, self: Any) -> None:
    if self.rule.mode is OutputMode.SHADOW:
        self.rule.forget(1 << 60)
    original(self)


@_mutant("a backup emits its outputs, too", Gate, "offer")
def _backup_emits(original: Any, self: Any, sequence: int, index: int, output: Any) -> None:
    if self.rule.mode is OutputMode.SHADOW:
        self.world.deliver(sequence, index, output)
    else:
        original(self, sequence, index, output)


@_mutant("a lost backup is forgotten without asking", Member, "_go_on_alone")
def _alone_unasked(original: Any, self: Any, now: float) -> bool:
    self.link.alone(self.term)
    return True


# -- acknowledgements -------------------------------------------------------------------------------------------------


@_mutant("acknowledged entries are dropped on going live", Member, "_step_backup")
def _acked_dropped(original: Any, self: Any, now: float) -> float:
    self.drain_dialer(now)
    if self.backup.suspect(now) is not None:
        self.backup.receiver._queue.clear()
    return float(original(self, now))


@_mutant("entries are acknowledged before they are there", Receiver, "ack")
def _ack_ahead(original: Any, self: Any) -> Ack | None:
    ack = original(self)
    return None if ack is None else Ack(ack.received + 1, ack.executed, ack.digest, ack.durable, ack.flags)


@_mutant("stopping to acknowledge is not for good", Backup, "stop_acknowledging")
def _not_for_good(original: Any, self: Any) -> int:
    return int(self.receiver.acked)


# -- terms ------------------------------------------------------------------------------------------------------------


@_mutant("the arbiter grants a term twice", SimArbiter, "acquire")
def _granted_twice(original: Any, self: Any, term: int, winner: str, members: tuple[str, ...]) -> Grant:
    original(self, term, winner, members)
    self.grants[term] = Grant(term, winner, members)
    return Grant(term, winner, members)


@_mutant("a joiner asks before it is in sync", Member, "_suspect")
def _unsynced_asks(original: Any, self: Any, why: str, now: float) -> float:
    if self.role is Role.JOINING and self.backup.state is BackupState.FOLLOWING:
        self.role, self.term = Role.BACKUP, self.backup.term
    return float(original(self, why, now))


@_mutant("a loser asks for the term after", Member, "_ask")
def _asks_on(original: Any, self: Any, now: float, term: int) -> bool | None:
    me = self.parts.identity.member
    while (grant := self.parts.arbiter.acquire(term, me, (me,))).winner != me:
        term += 1
    self.term = grant.term - 1
    return True


@_mutant("an end is ignored when the primary is suspected", Member, "_backup_ends")
def _end_ignored(original: Any, self: Any) -> float:
    why = self.backup.suspect(self.parts.clock())
    if self.backup.end is None or why is None:
        return float(original(self))
    self.backup.end = None
    return float(self._suspect(why, self.parts.clock()))


@_mutant("a backup's farewell is a failure", Member, "_ended_on_both")
def _farewell_fails(original: Any, self: Any) -> bool:
    return False


# -- channel and transfer ---------------------------------------------------------------------------------------------


@_mutant("the window is always open", Window, "delay")
def _no_window(original: Any, self: Any, now: float) -> float:
    return 0.0


@_mutant("a snapshot misses what was written last", StateSource, "_dirty")
def _misses_dirty(original: Any, self: Any) -> list[tuple[int, int]]:
    original(self)
    return []


@_mutant("a snapshot has pages as they are when they are sent", ToySnapshot, "before_write")
def _no_copies(original: Any, self: Any, number: int) -> None:
    if not self._exact:
        original(self, number)


@_mutant("a page that was written while RAM was sent is not sent again", ToySeries, "before_write")
def _forgets_written(original: Any, self: Any, number: int) -> None:
    original(self, number)
    self.written.discard(number)


@_mutant("a page that became zero keeps what the joiner has", ToyRam, "put")
def _keeps_stale(original: Any, self: Any, pages: Pages) -> None:
    original(self, Pages(pages.numbers, pages.content))


@_mutant("a snapshot is taken before the last entry", ToyMachine, "save_state")
def _stale_snapshot(original: Any, self: Any) -> Sections:
    sections: Sections = original(self)
    previous = getattr(self, "_previous", sections)
    self._previous = sections
    return previous


@_mutant("protection is marked before the joiner has caught up", BackupLink, "wants_protection")
def _protects_early(original: Any, self: Any) -> bool:
    return self.state is LinkState.TAIL


@_mutant("digests are not compared", BackupLink, "_judge")
def _blind(original: Any, self: Any, mismatch: Any) -> None:
    return None


@_mutant("a backup hears keys twice", ToyMachine, "_type")
def _hears_twice(original: Any, self: Any, data: bytes) -> None:
    if isinstance(getattr(self.emit, "__self__", None), Gate):
        self._typed += 1
    original(self, data)


@_mutant("a joiner's disks are not synced", Backup, "_restore")
def _unsynced_joiner(original: Any, self: Any, sections: Sections) -> None:
    self._sync_disks = lambda: None
    original(self, sections)
