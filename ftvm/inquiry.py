# SPDX-License-Identifier: GPL-2.0-or-later
"""`Inquiry`: a replay does not do what its recording says. Which of the two went wrong, where, and in what?

    again         a second replay. It gives what was recorded, or something else again: this host went wrong; its first
                  run's state is still there, and what differs in it is told
    checkpoints   of the recorder, in front of the divergence: the first whose state is not the replay's bounds the
                  place in time; run on from it, the guest does what was recorded, and the two runs are bisected
    trials        one bit or one field that makes the replay do what was recorded (ftvm/trials.py)

What is left is told as it is: the entry, what differs in its result, and in the first checkpoint behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ftvm.bisection import Bisection
from ftvm.debugger import Debugger
from ftvm.finding import Finding
from ftvm.state_diff import MEMORY, Spot, Whole, differences, told
from ftvm.trials import Trial, Trials, page_bit, register_bit_behind, register_bits, suspects
from replay.divergence import Divergence, event_words
from replay.position import Position

NAMES = ("the replay", "the recorder")


class Inquiry:
    """Into one divergence of a recording. `first` is the machine that showed it, as it stands behind that entry."""

    def __init__(
        self,
        path: Path,
        machine_file: Path | None,
        divergence: Divergence,
        first: Whole,
        tell: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._path = path
        self._machine_file = machine_file
        self._divergence = divergence
        self._sequence = divergence.sequence
        self._first = first
        self._tell = tell
        self._last_same = 0  # of the checkpoints, the last whose state is the replay's

    def finding(self) -> Finding:
        """Replays the recording once or twice more. LogError."""
        self._tell(f"entry {self._sequence} does not give what was recorded; replaying again to see why")
        with self._open(checkpoints=False) as again:
            found = self._of_host(again) or self._of_recorder(again)
        if self._divergence.event is not None:
            sequence, event = self._divergence.event
            found.event = f"the last event before was {event_words(event)} in entry {sequence}"
        return found

    def _open(self, *, checkpoints: bool = True) -> Debugger:
        debugger = Debugger.open(self._path, self._machine_file, checkpoints=checkpoints)
        debugger.timeline.verify = not checkpoints
        return debugger

    # -- the replay itself ------------------------------------------------------------------------------------------

    def _of_host(self, again: Debugger) -> Finding | None:
        """Whether a second replay does the same; None when it does."""
        second = None
        try:
            again.timeline.seek(again.timeline.behind(self._sequence))
        except Divergence as divergence:
            second = divergence
        again.timeline.verify = False
        if second is not None and (second.sequence, second.differences) == (
            self._sequence,
            self._divergence.differences,
        ):
            return None
        words = "a second replay of it gives what was recorded" if second is None else f"a second replay: {second}"
        summary = f"two replays differ on this host: the engine or the hardware has gone wrong in one; {words}"
        found = Finding("host", self._sequence, summary)
        if second is None or second.sequence == self._sequence:
            spots = differences(self._first, again)
            found.details = told(spots, "first", "second")
            if memory := [spot for spot in spots if spot.kind == MEMORY]:
                writer = Bisection(again, again).writer(again, memory[0].at)
                found.details.append(f"RAM at {memory[0].at:#x} was written last in the second {writer}")
        return found

    # -- the recorder ------------------------------------------------------------------------------------------------

    def _of_recorder(self, again: Debugger) -> Finding:
        with self._open() as recorder:
            kept = [each.sequence for each in recorder.timeline.stills][1:]
            pair = Bisection(again, recorder, NAMES)
            before = [each for each in kept if each < self._sequence]
            behind = [each for each in kept if each >= self._sequence]
            found = self._between(pair, before)
            if found is None:
                spots = self._spots_behind(pair, behind)
                found = self._by_trials(again, spots) or self._as_it_is(spots, behind)
        self._tell_digest_bits(again, found)
        return found

    def _between(self, pair: Bisection, kept: Sequence[int]) -> Finding | None:
        """The first checkpoint, of those in front of the divergence, whose state is not the replay's."""
        low, high = -1, len(kept)
        while high - low > 1:
            middle = (low + high) // 2
            pair.go_to(pair.one.timeline.behind(kept[middle]))
            low, high = (low, middle) if pair.spots() else (middle, high)
        self._last_same = kept[low] if low >= 0 else pair.one.timeline.start.sequence
        if high == len(kept):
            return None
        self._tell(f"the recorder's state behind entry {kept[high]} is not the replay's; looking into it")
        return self._from_checkpoint(pair, kept[high])

    def _from_checkpoint(self, pair: Bisection, sequence: int) -> Finding:
        place = pair.one.timeline.behind(sequence)
        pair.go_to(place)
        spots = pair.spots()
        changes = [f"behind entry {sequence}:", *(f"  {line}" for line in pair.told(spots))]
        if memory := [spot for spot in spots if spot.kind == MEMORY]:
            changes.append(self._written(pair, memory[0]))
        found = self._bisected(pair, spots, place)
        since = f"the recorder's state was the replay's behind entry {self._last_same}, and not behind entry {sequence}"
        found.summary = f"{since}\n{found.summary}"
        found.details += changes
        return found

    def _written(self, pair: Bisection, spot: Spot) -> str:
        """Whether the replay writes between the two checkpoints what is different in the second."""
        stop = pair.one.last_write(spot.at, len(spot.one))
        if stop is None or stop.position.sequence <= self._last_same:
            return f"the replay does not write to {spot.at:#x} in between: it has changed by itself in the recorder"
        return f"the replay writes to {spot.at:#x} in between, last at {stop.position}"

    def _bisected(self, pair: Bisection, spots: Sequence[Spot], place: Position) -> Finding:
        """From where the recorder's state is known, up to the divergence."""
        recorder = pair.other.timeline
        recorder.verify = True
        try:
            recorder.seek(pair.other.timeline.behind(self._sequence))
        except Divergence as divergence:
            words = f"and not even from there does the guest do what was recorded: {divergence}"
            return Finding("recorder", self._sequence, words, names=NAMES)
        finally:
            recorder.verify = False
        end = min(self._end(), recorder.entries[self._sequence][1].clock)
        found = pair.first_reader(spots, place, Position(self._sequence, end))
        found = found or pair.in_entry(self._sequence, end)
        if found is None:
            found = Finding("recorder", self._sequence, "registers are the same throughout", names=NAMES)
        found.kind = "recorder"
        return found

    def _end(self) -> int:
        """The clock at which the replay ends the entry."""
        for each in self._divergence.differences:
            if each.field == "clock":
                return each.actual
        return self._first.machine.clock

    def _spots_behind(self, pair: Bisection, kept: Sequence[int]) -> list[Spot]:
        """What the first checkpoint behind the divergence has otherwise than the replay, where that comes so far."""
        if not kept:
            return []
        pair.other.timeline.seek(pair.other.timeline.behind(kept[0]))
        for sequence in (kept[0], self._sequence):
            try:
                pair.one.timeline.seek(pair.one.timeline.behind(sequence))
                break
            except ValueError:  # the replay's clock does not fit the next entry's
                pair.one.timeline.return_to_still(self._sequence - 1)
        return pair.spots()

    # -- trials ------------------------------------------------------------------------------------------------------

    def _by_trials(self, again: Debugger, spots: Sequence[Spot]) -> Finding | None:
        trials = Trials(again, self._sequence)
        confirmed = trials.first(suspects(spots)) or trials.first(register_bits(again))
        if confirmed is None:
            return None
        trial, last = confirmed
        what = trial.spot.words(*NAMES) if trial.spot is not None else trial.words
        words = f"with this before entry {self._sequence}, the replay gives what was recorded, to entry {last}: {what}"
        found = self._changed(again, trial) if self._sequence - 1 > again.timeline.start.sequence else None
        if found is None:
            return Finding("recorder", self._sequence, words, names=NAMES)
        found.summary = f"{words}\n{found.summary}"
        found.kind = "recorder"
        return found

    def _changed(self, again: Debugger, trial: Trial) -> Finding | None:
        """Beside a second replay with that change, bisected."""
        with self._open(checkpoints=False) as other:
            place = other.timeline.behind(self._sequence - 1)
            other.timeline.verify = False
            other.timeline.seek(place)
            trial.apply(other)
            other.timeline.keep()
            pair = Bisection(again, other, NAMES)
            end = min(self._end(), other.timeline.entries[self._sequence][1].clock)
            spots = [] if trial.spot is None else [trial.spot]
            found = pair.first_reader(spots, place, Position(self._sequence, end))
            return found or pair.in_entry(self._sequence, end)

    # -- what the log alone tells ------------------------------------------------------------------------------------

    def _as_it_is(self, spots: Sequence[Spot], behind: Sequence[int]) -> Finding:
        found = Finding("recorder", self._sequence, "the recorder's guest has done something else than a replay does")
        found.names = NAMES
        found.details.append(f"behind entry {self._last_same} their states were the same" if self._last_same else
                             "no checkpoint of the recorder in front of it tells since when")  # fmt: skip
        if spots:
            found.details += [f"by entry {behind[0]} this differs:", *(f"  {line}" for line in told(spots, *NAMES))]
        return found

    def _tell_digest_bits(self, again: Debugger, found: Finding) -> None:
        """A bit that explains the digests behind the entry by itself."""
        changed = {each.field: each for each in self._divergence.differences}
        if not changed.keys() <= {"digest", "pages"} or found.instructions is not None:
            return
        again.timeline.seek(again.timeline.behind(self._sequence))
        if "pages" in changed:
            place = page_bit(again, changed["pages"].expected, changed["pages"].actual)
            if place is not None:
                writer = Bisection(again, again).writer(again, place[0])
                found.details.insert(0, f"RAM at {place[0]:#x}: bit {place[1]} alone is other in the recorder")
                found.details.insert(1, f"  written last in the replay {writer}")
        elif bit := register_bit_behind(again, changed["digest"].expected):
            found.details.insert(0, f"{bit} alone is other in the recorder, behind the entry")
