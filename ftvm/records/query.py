# SPDX-License-Identifier: GPL-2.0-or-later
"""`Query`: which happenings are wanted: by kind, by entries, by guest time, by content.

A content pattern is a regular expression over bytes. It is searched in what was moved (a packet's frame, a write's
data, the text of the console) and, unless it is given in hexadecimal, also in the line that describes it; so `who
has` finds questions of ARP. In hexadecimal a byte is two digits, `..` is any byte, spaces are for the eye, and `( ) |
* + ? { }` mean what they mean elsewhere: `de ad (..){2} be ef`.

A guest writes its console in pieces. What is searched is lines: each as one happening, at the position of its first
piece.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from devices.event import OutputKind
from ftvm.records.happening import (
    DISK_REQUEST,
    INPUT_KINDS,
    INTERRUPT,
    OUTPUT_KINDS,
    TICKS_PER_SECOND,
    Happening,
    Output,
)

KINDS: Final = (*INPUT_KINDS.values(), *OUTPUT_KINDS.values(), INTERRUPT, DISK_REQUEST)
REPLAYED: Final = frozenset({*OUTPUT_KINDS.values(), INTERRUPT, DISK_REQUEST})
LINE_MAX: Final = 1 << 16  # bytes of a console line; a longer one is searched in pieces
_HEX: Final = re.compile(r"(?P<byte>[0-9a-fA-F]{2})|(?P<any>\.\.)|(?P<repeat>\{\d*,?\d*\})|(?P<sign>[()|*+?])|\s+")


class PatternError(ValueError):
    """A pattern that is none; the message says why."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is wanted. Without a kind, a bound or a pattern, everything is."""

    kinds: Collection[str] = ()
    first: int = 0  # entry
    last: int | None = None
    since: float | None = None  # guest seconds
    until: float | None = None
    pattern: re.Pattern[bytes] | None = None
    in_summary: bool = True  # search the description too
    inverted: bool = False  # those in which the pattern is not

    @property
    def needs_replay(self) -> bool:
        """Whether only a replay can tell: a wanted kind is not in the log."""
        return bool(REPLAYED & set(self.kinds))

    @property
    def needs_interrupts(self) -> bool:
        """Whether interrupts are wanted by name; they are told only then, since there are so many."""
        return INTERRUPT in self.kinds

    @property
    def needs_disks(self) -> bool:
        """Whether requests of the guest to its disks are wanted by name."""
        return DISK_REQUEST in self.kinds

    def is_behind(self, happening: Happening) -> bool:
        """Whether nothing from here on can be wanted: its time is behind the bound, and time never steps back."""
        return self.until is not None and happening.time > self.until * TICKS_PER_SECOND

    def wants(self, happening: Happening) -> bool:
        """Whether this one is meant."""
        if self.kinds and happening.kind not in self.kinds:
            return False
        if happening.sequence < self.first or (self.last is not None and happening.sequence > self.last):
            return False
        if self.since is not None and happening.time < self.since * TICKS_PER_SECOND:
            return False
        if self.is_behind(happening):
            return False
        return self.pattern is None or self._matches(happening, self.pattern) != self.inverted

    def _matches(self, happening: Happening, pattern: re.Pattern[bytes]) -> bool:
        if pattern.search(happening.payload):
            return True
        return self.in_summary and pattern.search(happening.summary.encode()) is not None


def text_pattern(text: str, *, ignore_case: bool = False) -> re.Pattern[bytes]:
    """A regular expression in Python's syntax; PatternError."""
    return _compiled(text.encode(), re.IGNORECASE if ignore_case else 0)


def hex_pattern(text: str) -> re.Pattern[bytes]:
    """A regular expression whose bytes are written in hexadecimal; PatternError."""
    at, out = 0, bytearray()
    while at < len(text):
        found = _HEX.match(text, at)
        if found is None:
            raise PatternError(
                f"{text!r} is not in hexadecimal: at {text[at : at + 8]!r} two digits or `..` are missing"
            )
        at = found.end()
        if found["byte"]:
            out += re.escape(bytes.fromhex(found["byte"]))
        elif found["any"]:
            out += b"."
        else:
            out += (found["repeat"] or found["sign"] or "").encode()
    return _compiled(bytes(out), re.DOTALL)


def _compiled(pattern: bytes, flags: int) -> re.Pattern[bytes]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of sets that a later Python may read otherwise
            return re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a regular expression: {error}") from None


def with_whole_lines(happenings: Iterable[Happening]) -> Iterator[Happening]:
    """The same, pieces of console output joined to lines; a line comes when it ends, or at the end."""
    lines = ConsoleLines()
    for happening in happenings:
        if isinstance(happening, Output) and happening.code == OutputKind.CONSOLE:
            yield from lines.feed(happening)
        else:
            yield happening
    yield from lines.rest()


class ConsoleLines:
    """Joins pieces of console output to lines; holds the one that has begun."""

    def __init__(self) -> None:
        self._head: Output | None = None
        self._text = bytearray()

    def feed(self, piece: Output) -> Iterator[Output]:
        """Lines that end in this piece."""
        at = 0
        while at < len(piece.data):
            end = piece.data.find(b"\n", at) + 1 or len(piece.data)
            if self._head is None:
                self._head = replace(piece, data=b"", offset=piece.offset + at)
            self._text += piece.data[at:end]
            at = end
            if self._text.endswith(b"\n") or len(self._text) >= LINE_MAX:
                yield from self.rest()

    def rest(self) -> Iterator[Output]:
        """The line as far as it has come."""
        if self._head is not None:
            yield replace(self._head, data=bytes(self._text))
        self._head, self._text = None, bytearray()
