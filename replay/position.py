# SPDX-License-Identifier: GPL-2.0-or-later
"""`Position`: a place in a recording, exact to the instruction; and `parse_place`, which all commands read places with.

Inside entry s, before the instruction that begins at clock c; or, where c is the clock at the end of s, behind it,
before anything of the next entry has been delivered. Written `s:c`.

    in words                            the place
    17:123456                           the position
    123456, 0x1e240, clock 123456       the first instruction at this clock or behind it
    +1000, -1000                        so much further on or back
    entry 17                            before this entry's events are delivered
    1.5s, 20ms, 3us, time 1.5           guest time
    start, end, live                    of the recording; of one that is still being written, what has come until now
    event [KIND] [TEXT] [N]             before the N-th event that came from outside, of a kind, and that contains TEXT
    output [KIND] [TEXT] [N]            before the instruction that made (of the console: completed) the N-th output
    next ..., previous ..., last ...    the same, counted from here, or from the end

N is 1 unless it is said, and -1 is the last. TEXT that looks like a number or holds spaces stands in quotes, bytes as
`hex:0a1b`. What is relative, or an event or output, is looked up in a recording: replay/places.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from devices.event import EventKind, OutputKind

TICKS_PER_SECOND: Final = 10_000_000
NUMBER_MAX: Final = 1 << 64
_UNITS: Final = {"s": TICKS_PER_SECOND, "ms": TICKS_PER_SECOND // 1000, "us": TICKS_PER_SECOND // 1_000_000}
_TIME: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(s|ms|us)")
_WORD: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|\'([^\']*)\'|(\S+)')
_NUMBER: Final = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})")
_EVENTS: Final[Mapping[str, int]] = {
    "console": EventKind.CONSOLE_INPUT, "input": EventKind.CONSOLE_INPUT, "packet": EventKind.PACKET,
    "entropy": EventKind.ENTROPY, "request": EventKind.BLOCK_REQUEST, "close": EventKind.BLOCK_CLOSE,
    "control": EventKind.CONTROL, "link": EventKind.LINK,
}  # fmt: skip
_OUTPUTS: Final[Mapping[str, int]] = {
    "console": OutputKind.CONSOLE, "packet": OutputKind.PACKET, "reply": OutputKind.BLOCK_REPLY,
    "port": OutputKind.PORT, "notice": OutputKind.NOTICE,
}  # fmt: skip
FORMS: Final = (
    "ENTRY:CLOCK, a clock, +CLOCK, -CLOCK, entry N, time SECONDS, 20ms, start, end, live, "
    "[next|previous|last] event|output [KIND] [TEXT] [N]"
)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a recording; positions of one recording are ordered."""

    sequence: int
    clock: int

    def __str__(self) -> str:
        return f"{self.sequence}:{self.clock}"


class Edge(Enum):
    """Where a recording begins, and where it ends; LIVE: where it ends when it is looked at."""

    START = "start"
    END = "end"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class AtClock:
    """The first instruction at this clock or behind it; `relative` to where one stands."""

    clock: int
    relative: bool = False


@dataclass(frozen=True, slots=True)
class AtEntry:
    """In front of an entry."""

    sequence: int


@dataclass(frozen=True, slots=True)
class AtTime:
    """Where this guest time (ticks) is reached."""

    ticks: int


@dataclass(frozen=True, slots=True)
class Nth:
    """The n-th event or output that is of a kind and contains something; counted from the start, the end, or here."""

    output: bool
    kind: int | None = None
    content: bytes | None = None
    number: int = 1
    relative: bool = False


Place = Position | Edge | AtClock | AtEntry | AtTime | Nth


def parse_position(text: str) -> Position:
    """`s:c` as a position; ValueError."""
    sequence, colon, clock = text.partition(":")
    if not colon or not (_is_decimal(sequence) and _is_decimal(clock)):
        raise ValueError(f"{text!r} is not a position: it is ENTRY:CLOCK, as in 17:123456")
    return Position(_bounded(sequence), _bounded(clock))


def parse_place(text: str) -> Place:
    """A place in words, as in the table above; ValueError."""
    words = [_Word(*found.groups()) for found in _WORD.finditer(text)]
    if not words:
        raise ValueError(f"where to? {FORMS}")
    first, rest = words[0].bare, words[1:]
    if first in ("next", "previous", "last") and rest and rest[0].bare in ("event", "output"):
        return _nth(rest[0].bare == "output", rest[1:], first)
    if first in ("event", "output"):
        return _nth(first == "output", rest, "")
    if first == "entry" and len(rest) == 1 and _is_decimal(rest[0].bare):
        return AtEntry(_bounded(rest[0].bare))
    if first == "clock" and len(rest) == 1:
        return _clock(rest[0].bare)
    if first == "time" and len(rest) == 1:
        return _time(rest[0].bare if rest[0].bare.endswith("s") else f"{rest[0].bare}s")
    if rest:
        raise ValueError(f"{text.strip()!r} is no place: {FORMS}")
    if first in (edge.value for edge in Edge):
        return Edge(first)
    if ":" in first:
        return parse_position(first)
    return _time(first) if first.endswith("s") else _clock(first)


class _Word:
    """One word: as it stands in quotes, or bare."""

    def __init__(self, double: str | None, single: str | None, bare: str | None) -> None:
        self.bare = bare or ""
        self.quoted = double if double is not None else single
        self._escaped = double is not None

    @property
    def content(self) -> bytes:
        """The bytes that it means; ValueError."""
        if self.quoted is not None:
            return self._unescaped(self.quoted) if self._escaped else self.quoted.encode()
        if self.bare.startswith("hex:"):
            return bytes.fromhex(self.bare[4:])
        return self.bare.encode()

    def _unescaped(self, text: str) -> bytes:
        if "\\" not in text:
            return text.encode()
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1", "replace")


def _nth(output: bool, words: list[_Word], counted: str) -> Nth:
    kinds = _OUTPUTS if output else _EVENTS
    kind, content, number = None, None, None
    for index, word in enumerate(words):
        if index == 0 and word.bare in kinds:
            kind = int(kinds[word.bare])
        elif number is None and _NUMBER.fullmatch(word.bare):
            number = _bounded(word.bare)
        elif content is None and number is None and word.content:
            content = word.content
        else:
            what = "output" if output else "event"
            raise ValueError(f"{what} {'|'.join(kinds)} TEXT N: what does {word.bare or word.quoted!r} mean there?")
    number = 1 if number is None else number
    if number == 0 or (counted and number < 0):
        raise ValueError("events and outputs are counted from 1 on, or from the last, which is -1, back")
    return Nth(output, kind, content, -number if counted in ("previous", "last") else number, counted in _FROM_HERE)


_FROM_HERE: Final = ("next", "previous")


def _clock(word: str) -> AtClock:
    if not _NUMBER.fullmatch(word):
        raise ValueError(f"{word!r} is no place: {FORMS}")
    return AtClock(_bounded(word), relative=word[0] in "+-")


def _time(word: str) -> AtTime:
    found = _TIME.fullmatch(word)
    if found is None:
        raise ValueError(f"{word!r} is no guest time: it is like 1.5s, 20ms or 3us")
    whole, _, fraction = found[1].partition(".")
    unit = _UNITS[found[2]]
    return AtTime(int(whole) * unit + int(fraction or 0) * unit // 10 ** len(fraction))


def _is_decimal(word: str) -> bool:
    return word.isascii() and word.isdecimal()


def _bounded(word: str) -> int:
    digits = word.lstrip("+-")
    value = int(digits, 16) if digits[:2] in ("0x", "0X") else int(digits[:21])
    if value >= NUMBER_MAX:
        raise ValueError(f"{word} is larger than any clock can be")
    return -value if word.startswith("-") else value
