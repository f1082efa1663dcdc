# SPDX-License-Identifier: GPL-2.0-or-later
"""`Timeline`: one recording and one machine, which goes to any instruction of it, forwards and backwards.

Going back means going forth from an earlier *still*, the machine's whole state between two entries: they are kept on
the way, thinned out where they are old and dense, and one more in front of the latest position, so that single steps
backwards cost one epoch each.

    still    entry entry entry [position] entry        end of the log
      |--------run as recorded-->|   |
      |                              one more still

Every entry that is run to its end is compared with what was recorded: `Divergence` says where the two part.
Breakpoints and watched memory are the machine's: it pauses at the first, and notes hits of both when it is told to
record them. Going back to the last hit is going forth from still after still, the latest first, and taking the last
hit that was noted; over a long way, several stretches at the same time (replay/scouts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from devices.event import Event
from replay.divergence import Divergence, differences
from replay.entries import Entries
from replay.entry import Entry, EpochResult
from replay.errors import StateLost
from replay.position import Position
from replay.scouts import Interrupted, ScoutLost, Scouts
from replay.stills import Kept, Stills

INSN_MAX: Final = 4  # an instruction moves the clock by 1 (a trap), 2 or 4
TRAIL: Final = 128  # of the clock: how far a step back looks, since more of them are likely to follow
WRITES: Final = 2
SPACING: Final = 150_000_000  # of the clock, between two stills: some 0.1 s
STILLS_MAX: Final = 256
SCOUT_FROM: Final = 600_000_000  # of the clock: a way back that is shorter is gone without help
NEVER: Final = 1 << 63

Range = tuple[int, int, int]
"""Physical address, length, 1: reads | 2: writes"""


class Hit(Protocol):
    """What the machine notes of a breakpoint or of watched memory."""

    @property
    def clock(self) -> int: ...


Still = TypeVar("Still")
H = TypeVar("H", bound=Hit)


class Traveller(Protocol[Still, H]):
    """The machine, as far as a timeline moves it. `keep` and `go_back` are called between two entries."""

    @property
    def clock(self) -> int: ...

    def begin(self, entry: Entry) -> None: ...

    def advance(self) -> bool: ...

    def finish(self) -> EpochResult: ...

    def pause_at(self, clock: int | None) -> None: ...

    def breakpoints(self, addresses: Sequence[int], *, record: bool = False) -> None: ...

    def watch(self, ranges: Sequence[Range]) -> None: ...

    def hits(self) -> list[H]: ...

    def keep(self) -> Still: ...

    def go_back(self, still: Still) -> None: ...

    def drop(self, still: Still) -> None: ...

    @property
    def full(self) -> bool: ...

    def may_have_written(self, since: Still, until: Still, ranges: Sequence[Range]) -> bool: ...

    def made(self, kind: int) -> int: ...


class Why(Enum):
    """Why a run has stopped."""

    BREAKPOINT = "breakpoint"
    WATCH = "watch"
    PLACE = "place"  # the position that was asked for
    EDGE = "edge"  # the recording's end, or its beginning
    INTERRUPTED = "interrupted"


class When(Enum):
    """At which point of an entry something was noted."""

    EVENTS = "events"  # before its first instruction, when its events were delivered
    INSIDE = "inside"
    END = "end"  # behind its last instruction, by what devices do between entries


@dataclass(frozen=True, slots=True)
class Stop(Generic[H]):
    """Where a run has stopped, and why. `hit` is of watched memory."""

    why: Why
    position: Position
    hit: H | None = None
    when: When = When.INSIDE


@dataclass(frozen=True, slots=True)
class _Found(Generic[H]):
    sequence: int
    hit: H
    when: When = When.INSIDE

    @property
    def position(self) -> Position:
        """In front of it; of one at an entry's end, the nearest that can be named, which is behind it."""
        return Position(self.sequence - (self.when is When.EVENTS), self.hit.clock)


class Timeline(Generic[Still, H]):
    """Between its methods the machine stands at `position`."""

    def __init__(
        self,
        machine: Traveller[Still, H],
        entries: Entries,
        *,
        verify: bool = True,
        spacing: int = SPACING,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """The machine stands where the log begins. `interrupted` is asked before each entry of a long way."""
        self.machine = machine
        self.entries = entries
        self.verify = verify
        self.interrupted = interrupted
        self.scouts = 1  # forks that look back at the same time, when it is more
        self.scout_from = SCOUT_FROM
        self._spacing = spacing
        self._done = entries.base  # last entry that the machine has finished
        self._open: Entry | None = None  # the one that it is in
        self._event: tuple[int, Event] | None = None
        self._breakpoints: tuple[int, ...] = ()
        self._watched: tuple[Range, ...] = ()
        self._trail: list[Position] = []  # positions that follow one another, the last of them in front of ...
        self._trail_end = -1  # ... this clock
        self.stills: Stills[Still] = Stills(STILLS_MAX, machine.drop)
        self.stills.add(self._done, machine.clock, machine.keep())
        self.start = Position(self._done, machine.clock)

    # -- where ------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Where the machine stands."""
        return Position(self._done if self._open is None else self._open.sequence, self.machine.clock)

    @property
    def inside(self) -> bool:
        """Whether that is inside an entry, after its events were delivered."""
        return self._open is not None

    @property
    def end(self) -> Position:
        """The last position of the recording."""
        return self.behind(self.entries.last)

    def behind(self, sequence: int) -> Position:
        """The position behind an entry; the start for those before the recording."""
        return self.start if sequence <= self.start.sequence else self.entries.behind(sequence)

    def place_of(self, clock: int) -> Position:
        """The position at a clock value: before the first instruction that begins there or later."""
        return self.entries.place_of(clock) if len(self.entries) else self.start

    # -- to a place -------------------------------------------------------------------------------------------------

    def seek(self, place: Position) -> Position:
        """Go to a place, or to the first position behind it; where the machine stands then."""
        place = max(self.start, min(place, self.end))
        if self._open is not None and self.position == place:
            return place
        if self._open is not None and self.position <= place and place.sequence == self._open.sequence:
            return self._go_on_to(place.clock)
        if place == self.start or (self._is_end(place) and self.stills.at(place.sequence) is not None):
            self._go_behind(place.sequence)
            return self.position
        self._go_behind(place.sequence - 1)
        if place.sequence != self.entries.last or place.clock < self.end.clock:
            self._keep()
        self._begin()
        return self._go_on_to(place.clock)

    def _is_end(self, place: Position) -> bool:
        return place.clock == self.entries[place.sequence][1].clock

    def step(self) -> bool:
        """Go on to the first position whose clock is higher; False at the end."""
        clock = self.machine.clock
        while self.machine.clock == clock:
            if self._open is None:
                if self._done == self.entries.last:
                    return False
                self._begin()
            self._go_on_to(clock + 1)
        return True

    def step_back(self) -> bool:
        """Go back to the last position whose clock is lower; False at the beginning."""
        clock = self.machine.clock
        if clock <= self.start.clock:
            return self._back_to_start()
        while self._trail and self._trail[-1].clock >= clock:
            self._trail.pop()
        if self._trail_end != clock or not self._trail:
            self._trail = self._leading_to(clock)
        before = self._trail.pop()
        self._trail_end = before.clock
        self.seek(before)
        return True

    def _leading_to(self, clock: int) -> list[Position]:
        """Some positions with lower clocks: one after the other, up to the last."""
        self.seek(self._entered_before(clock))
        found = [self.position]
        while self.step() and self.machine.clock < clock:
            found.append(self.position)
        return found

    def _back_to_start(self) -> bool:
        moved = self.position != self.start
        self.seek(self.start)
        return moved

    def _entered_before(self, clock: int) -> Position:
        """A position some instructions before this clock, in the same entry as the last of them."""
        sequence = self.entries.at_clock(clock)
        while sequence > self.entries.first and self.entries[sequence][0].clock >= clock:
            sequence -= 1
        begins = self.entries[sequence][0].clock
        if begins > clock - INSN_MAX:
            return Position(sequence - 1, begins)
        return Position(sequence, max(begins, clock - TRAIL))

    def results(self, first: int, last: int) -> Iterator[EpochResult]:
        """Run these entries, and give what each has done; ValueError when that was interrupted."""
        self._go_behind(first - 1)
        while self._done < last:
            if self._done < first - 1 or self.interrupted():
                raise ValueError("interrupted")
            self._keep_now_and_then()
            self._begin()
            self.machine.pause_at(None)
            self.machine.advance()
            yield self._finish()

    # -- until something happens ------------------------------------------------------------------------------------

    def set_breakpoints(self, addresses: Sequence[int]) -> None:
        """Virtual addresses where `run` and `run_back` stop."""
        self._breakpoints = tuple(addresses)

    def set_watched(self, ranges: Sequence[Range]) -> None:
        """Memory whose accesses stop `run` (behind them) and `run_back` (in front of them)."""
        self._watched = tuple(ranges)

    def run(self, *, behind: bool = True, until: Position | None = None) -> Stop[H]:
        """Go on to a breakpoint, an access to watched memory (behind its instruction, or in front), or the end.

        With `until`, no further than to that position, or just behind it.
        """
        place = self.position
        self.machine.breakpoints(self._breakpoints)
        self.machine.watch(self._watched)
        try:
            stop = self._run_on(self.end if until is None else until)
        finally:
            self._look_away()
        return stop if isinstance(stop, Stop) else self._at_access(place, stop, behind)

    def _run_on(self, until: Position) -> Stop[H] | _Found[H]:
        while True:
            if self._open is None:
                if self._done == self.entries.last:
                    return Stop(Why.EDGE, self.position)
                if self.position >= until:
                    return Stop(Why.PLACE, self.position)
                if self.interrupted():
                    return Stop(Why.INTERRUPTED, self.position)
                self._keep_now_and_then()
                self._begin()
                if hits := self.machine.hits():
                    return _Found(self.position.sequence, hits[0], When.EVENTS)
            sequence = self.position.sequence
            within = sequence == until.sequence and until.clock < self.entries[sequence][1].clock
            self.machine.pause_at(until.clock if within else None)
            paused = self.machine.advance()
            if hits := self.machine.hits():
                return _Found(sequence, hits[0])
            if paused:
                return Stop(Why.PLACE if within and self.position >= until else Why.BREAKPOINT, self.position)
            self._finish()
            if hits := self.machine.hits():
                return _Found(sequence, hits[0], When.END)

    def _at_access(self, place: Position, found: _Found[H], behind: bool) -> Stop[H]:
        """To the instruction that made an access, the events, the end. It is noted only when it has happened."""
        if not behind or found.when is When.INSIDE:
            self._in_front_of(found, place)
        if behind and found.when is When.INSIDE:
            self.step()
        return Stop(Why.WATCH, self.position, found.hit, found.when)

    def _in_front_of(self, found: _Found[H], place: Position) -> None:
        """Not before `place`, where the run began that found it."""
        self.seek(max(place, found.position))
        if found.when is When.END and self.position > place:
            self.step_back()

    def run_back(self) -> Stop[H]:
        """Go back to the last breakpoint or access to watched memory before here, or to the beginning."""
        here = self.position
        later: Kept[Still] | None = None
        looked = 0
        while (still := self.stills.before(here.sequence - 1)) is not None:
            if later is None or not self._nothing_between(still, later):
                if looked == 1 and self.scouts > 1 and here.clock - self.start.clock > self.scout_from:
                    looked += 1
                    try:
                        here, later = self._scouted(here, later)
                    except Interrupted:
                        return Stop(Why.INTERRUPTED, self.seek(here))
                    continue
                found = self._last_hit(still, here)
                looked += 1
                if found is not None:
                    self._in_front_of(found, self.start)
                    why = Why.BREAKPOINT if self._is_breakpoint(found.hit) else Why.WATCH
                    return Stop(why, self.position, found.hit, found.when)
                if self.interrupted():
                    return Stop(Why.INTERRUPTED, self.seek(Position(still.sequence, still.clock)))
            here, later = Position(still.sequence, still.clock), still
        self.seek(self.start)
        return Stop(Why.EDGE, self.position)

    def _scouted(self, here: Position, later: Kept[Still] | None) -> tuple[Position, Kept[Still] | None]:
        """From where to look back: nothing is behind it, and the last of anything before is in the entry just before.

        With the still that lies there, if one does. Interrupted.
        """
        stretches = list(self._stretches(here, later))
        jobs = iter([partial(self._scout, still, before) for still, before in stretches])
        with suppress(ScoutLost), Scouts(jobs, self.scouts) as scouts:
            for (still, before), sequence in zip(stretches, scouts.answers(self.interrupted), strict=False):
                if sequence:
                    self._go_behind(sequence - 1)
                    self._keep()
                    return min(before, self.behind(sequence)), None
                here, later = Position(still.sequence, still.clock), still
        return here, later

    def _stretches(self, here: Position, later: Kept[Still] | None) -> Iterator[tuple[Kept[Still], Position]]:
        """From still to still before a position, the latest first, as far as there is something to be looked for."""
        while (still := self.stills.before(here.sequence - 1)) is not None:
            if later is None or not self._nothing_between(still, later):
                yield still, here
            here, later = Position(still.sequence, still.clock), still

    def _scout(self, still: Kept[Still], before: Position) -> int:
        """In a fork: the entry of the last hit in a stretch, 0 for none."""
        self.interrupted = lambda: False
        self._spacing = NEVER
        found = self._last_hit(still, before)
        return 0 if found is None else found.sequence

    def _nothing_between(self, still: Kept[Still], later: Kept[Still]) -> bool:
        """Whether nothing that was asked for can have happened between two stills, as the pages written there tell."""
        if self._breakpoints or any(access != WRITES for _, _, access in self._watched):
            return False
        return not self.machine.may_have_written(still.state, later.state, self._watched)

    def _last_hit(self, still: Kept[Still], before: Position) -> _Found[H] | None:
        """The last hit from a still up to (and without) a position."""
        self._return_to(still)
        self.machine.breakpoints(self._breakpoints, record=True)
        self.machine.watch(self._watched)
        found: _Found[H] | None = None
        try:
            while self._done < before.sequence:
                sequence = self._done + 1
                self._keep_now_and_then()
                self._begin()
                for hit in self.machine.hits():
                    found = _Found(sequence, hit, When.EVENTS)
                ends = self.entries[sequence][1].clock
                self.machine.pause_at(before.clock if sequence == before.sequence and before.clock < ends else None)
                paused = self.machine.advance()
                for hit in self.machine.hits():
                    if Position(sequence, hit.clock) < before:
                        found = _Found(sequence, hit)
                if paused:
                    break
                self._finish()
                for hit in self.machine.hits():
                    found = _Found(sequence, hit, When.END)
        finally:
            self._look_away()
        return found

    def _is_breakpoint(self, hit: H) -> bool:
        return getattr(hit, "kind", 0) == 0

    def _look_away(self) -> None:
        self.machine.breakpoints(())
        self.machine.watch(())
        self.machine.hits()

    # -- the machine ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        entry, _ = self.entries[self._done + 1]
        if entry.events:
            self._event = (entry.sequence, entry.events[-1])
        self.machine.begin(entry)
        self._open = entry

    def _go_on_to(self, clock: int) -> Position:
        """In the entry that is open: to this clock, or to the entry's end."""
        assert self._open is not None
        ends = self.entries[self._open.sequence][1].clock
        self.machine.pause_at(clock if clock < ends else None)
        if not self.machine.advance():
            self._finish()
        return self.position

    def _finish(self) -> EpochResult:
        entry = self._open
        assert entry is not None
        self.machine.pause_at(None)
        result = self.machine.finish()
        self._open = None
        self._done = entry.sequence
        if self.verify and (found := differences(self.entries[entry.sequence][1], result)):
            raise Divergence(entry, found, self._event)
        return result

    def _go_behind(self, sequence: int) -> None:
        """To the end of an entry, from here or from a still, whichever is nearer."""
        still = self.stills.before(sequence)
        assert still is not None, "the recording's beginning is always kept"
        ahead = self._open is None and still.sequence <= self._done <= sequence
        if not ahead:
            self._return_to(still)
        while self._done < sequence:
            if self.interrupted():
                return
            self._keep_now_and_then()
            self._begin()
            self._go_on_to(self.entries[self._done + 1][1].clock)

    def _return_to(self, still: Kept[Still]) -> None:
        """To a still; or to one before it, when it cannot be read."""
        while True:
            try:
                self.machine.go_back(still.state)
                break
            except StateLost:
                self.stills.remove(still)
                before = self.stills.before(still.sequence)
                assert before is not None, "the recording's beginning is always kept"
                still = before
        self._open = None
        self._done = still.sequence

    def _keep_now_and_then(self) -> None:
        before = self.stills.before(self._done)
        if before is None or self.machine.clock - before.clock >= self._spacing:
            self._keep()

    def leave(self) -> EpochResult | None:
        """Let the machine go, which stands between two epochs then: one that it is in ends here, with this result."""
        if self._open is None:
            return None
        self.machine.pause_at(None)
        self._open = None
        return self.machine.finish()

    def return_to_still(self, sequence: int) -> None:
        """To the latest state that was kept behind this entry or an earlier one, whatever has become of the machine."""
        still = self.stills.before(sequence)
        assert still is not None, "the recording's beginning is always kept"
        self._return_to(still)

    def keep(self) -> None:
        """Keep the state here, behind an entry: from now on this place is reached at once."""
        assert not self.inside
        self._keep()

    def _keep(self) -> None:
        if self.stills.at(self._done) is None:
            self.stills.add(self._done, self.machine.clock, self.machine.keep())
            while self.machine.full and self.stills.thin_out(self._done):
                pass
