# SPDX-License-Identifier: GPL-2.0-or-later
"""What GDB's `monitor` command offers here, beside what GDB can do by itself.

monitor when                      where in the recording the guest stands
monitor where                     the same, with the function and the instruction
monitor seek PLACE                ENTRY:CLOCK, a clock, +/-CLOCK, entry N, time SECONDS, start, end, live,
                                  [next|previous|last] event|output [KIND] [TEXT] [N]
monitor refresh                   read what has been added to a recording that is still being written
monitor events [N]                the next N entries that brought something from outside, from here on
monitor checkpoints               the states from which seeking starts
monitor last-write ADDRESS [LEN]  who wrote there last, before here
monitor digest                    of registers and devices, to compare with another recording
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from replay.divergence import Divergence, event_words
from replay.places import Places
from replay.position import TICKS_PER_SECOND, Position
from replay.timeline import Timeline

EVENTS_SHOWN: Final = 20
HELP: Final = (__doc__ or "").split("\n\n", 1)[1].strip("\n") + "\n"


class Commanded(Protocol):
    """What the commands need."""

    timeline: Timeline[Any, Any]
    places: Places

    def monitor(self, words: list[str]) -> str | None: ...


class Monitor:
    """Runs one command and tells what it says; what it does not know itself the target may."""

    def __init__(self, target: Commanded) -> None:
        self.target = target
        self.timeline = target.timeline
        self.notice = ""

    def run(self, line: str) -> str:
        """The command's words to its answer."""
        words = line.split()
        commands = {
            "when": self._when, "refresh": self._refresh, "events": self._events, "checkpoints": self._checkpoints
        }  # fmt: skip
        try:
            if words[:1] == ["seek"]:
                return self._seek(line.strip().removeprefix("seek"))
            if words and words[0] in commands:
                return commands[words[0]](words[1:])
            return self.target.monitor(words) or HELP
        except Divergence as divergence:
            return f"{divergence}\n"
        except (ValueError, IndexError) as error:
            return f"{line.strip()}: {error}\n"

    def _when(self, _: list[str]) -> str:
        place, end = self.timeline.position, self.timeline.end
        seconds = self.time_at(place) / TICKS_PER_SECOND
        where = "inside" if self.timeline.inside else "behind"
        notice = f"{self.notice}\n" if self.notice else ""
        there = f"{where} entry {place.sequence} of {end.sequence}, clock {place.clock} of {end.clock}"
        return f"{notice}{there}, {seconds:.6f} s\n"

    def time_at(self, place: Position) -> int:
        """Guest time at the start of the position's entry, or behind it, in ticks."""
        entries = self.timeline.entries
        if place.sequence < entries.first or not len(entries):
            return entries[entries.first][0].time if len(entries) else 0
        entry, result = entries[place.sequence]
        return entry.time if self.timeline.inside else result.time

    def _seek(self, text: str) -> str:
        here = self.timeline.position
        try:
            self.timeline.seek(self.target.places.parse(text))
        except ValueError:
            self.timeline.seek(here)
            raise
        return self._when([])

    def _refresh(self, _: list[str]) -> str:
        more = self.timeline.entries.refresh()
        return f"{more} more entries; the end is {self.timeline.end}\n"

    def _events(self, words: list[str]) -> str:
        count = int(words[0]) if words else EVENTS_SHOWN
        lines: list[str] = []
        for entry, _ in self.timeline.entries.since(self.timeline.position.sequence + 1):
            if len(lines) >= count:
                break
            lines += [f"{entry.sequence}:{entry.clock} {event_words(event)}" for event in entry.events]
        return "\n".join(lines[:count]) + "\n" if lines else "no more events\n"

    def _checkpoints(self, _: list[str]) -> str:
        return "".join(f"{still.sequence}:{still.clock}\n" for still in self.timeline.stills)
