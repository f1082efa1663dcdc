# SPDX-License-Identifier: GPL-2.0-or-later
"""`OutputIndex`: which entries of a recording made which outputs, learnt by running them; each at most once.

    scanned   one byte an entry: has it been run for this?
    made      by entry: its outputs in their order, with their bytes, as long as these do not fill BYTES_MAX

The console is one stream that leaves in pieces, so a text may lie across several; it is found where its last byte is.
All other outputs are looked at one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from devices.event import Output, OutputKind
from replay.timeline import Timeline

BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Made:
    """One output. `number` is what the machine's count (`Traveller.made`) is when it, or its last byte, is made."""

    sequence: int
    index: int  # among the outputs of its entry
    kind: int
    unit: int
    number: int
    length: int
    data: bytes | None  # None: not kept


class OutputIndex:
    """Of one timeline, whose machine it moves."""

    def __init__(self, timeline: Timeline[Any, Any], bytes_max: int = BYTES_MAX) -> None:
        self._timeline = timeline
        self._room = bytes_max
        self._scanned = bytearray()
        self._made: dict[int, tuple[Made, ...]] = {}

    def matching(
        self, kind: int | None, content: bytes | None, first: int | None, last: int | None, *, backwards: bool = False
    ) -> Iterator[Made]:
        """All outputs of a kind that contain something, of the entries from `first` to `last`, in order or reversed.

        The recording is run as far as one asks for more. ValueError when that was interrupted.
        """
        found = self.of_kind(kind, first, last, backwards=backwards)
        if content is None:
            return found
        return self._in_reverse(found, content) if backwards else self._in_order(found, content)

    def of_kind(
        self, kind: int | None, first: int | None = None, last: int | None = None, *, backwards: bool = False
    ) -> Iterator[Made]:
        """The same, whatever they contain."""
        entries = self._timeline.entries
        low = max(entries.first, entries.first if first is None else first)
        high = min(entries.last, entries.last if last is None else last)
        for sequence in range(high, low - 1, -1) if backwards else range(low, high + 1):
            self._learn(sequence, low if backwards else sequence)
            made = self._made.get(sequence, ())
            yield from (each for each in (reversed(made) if backwards else made) if kind in (None, each.kind))

    def data(self, made: Made) -> bytes:
        """What left there."""
        if made.data is not None:
            return made.data
        for result in self._timeline.results(made.sequence, made.sequence):
            data: bytes = result.outputs[made.index].data
        return data

    def _in_order(self, found: Iterator[Made], content: bytes) -> Iterator[Made]:
        said: dict[int, bytes] = {}  # the console's last bytes, in which a match may begin
        for made in found:
            data = self.data(made)
            if made.kind != OutputKind.CONSOLE:
                yield from [made] if content in data else []
                continue
            before = said.get(made.unit, b"")
            yield from _ends(made, before, data, content)
            said[made.unit] = (before + data)[-(len(content) - 1) :] if len(content) > 1 else b""

    def _in_reverse(self, found: Iterator[Made], content: bytes) -> Iterator[Made]:
        waiting: deque[tuple[Made, bytes]] = deque()  # pieces of the console: what lies before the first is not known
        for made in found:
            data = self.data(made)
            if made.kind != OutputKind.CONSOLE:
                yield from [made] if content in data else []
                continue
            waiting.append((made, data))
            while sum(len(piece) for _, piece in waiting) - len(waiting[0][1]) >= len(content) - 1 and len(waiting) > 1:
                yield from self._of_first(waiting, content)
        while waiting:
            yield from self._of_first(waiting, content)

    def _of_first(self, waiting: deque[tuple[Made, bytes]], content: bytes) -> list[Made]:
        made, data = waiting.popleft()
        before = b"".join(piece for _, piece in reversed(waiting))
        return list(reversed(list(_ends(made, before[len(before) - len(content) + 1 :], data, content))))

    # -- learning ---------------------------------------------------------------------------------------------------

    def _learn(self, sequence: int, low: int) -> None:
        """Run this entry, if it was not; from the still before it on, when all from `low` on will be wanted."""
        base = self._timeline.entries.base
        self._scanned += bytes(max(0, self._timeline.entries.last - base + 1 - len(self._scanned)))
        if self._scanned[sequence - base]:
            return
        first = sequence
        if low < sequence and (still := self._timeline.stills.before(sequence - 1)) is not None:
            first = max(low, still.sequence + 1)
        for result in self._timeline.results(first, sequence):
            if not self._scanned[result.sequence - base]:
                self._scanned[result.sequence - base] = 1
                self._take(result.sequence, result.outputs)

    def _take(self, sequence: int, outputs: tuple[Output, ...]) -> None:
        counts: dict[int, int] = {}
        made = []
        for index, output in enumerate(outputs):
            counts[output.kind] = counts.get(output.kind, 0) + 1
            size = len(output.data)
            number = output.offset + size if output.kind == OutputKind.CONSOLE else counts[output.kind]
            kept = size <= self._room
            self._room -= size if kept else 0
            data = output.data if kept else None
            made.append(Made(sequence, index, output.kind, output.unit, number, size, data))
        if made:
            self._made[sequence] = tuple(made)


def _ends(made: Made, before: bytes, data: bytes, content: bytes) -> Iterator[Made]:
    """The piece up to the end of each match that ends in it."""
    whole, at = before + data, -1
    while (at := whole.find(content, at + 1)) >= 0:
        end = at + len(content) - len(before)
        if end > 0:
            yield replace(made, number=made.number - len(data) + end)
