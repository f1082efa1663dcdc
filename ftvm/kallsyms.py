# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of a Linux kernel's functions and variables, from its bare image: the table behind /proc/kallsyms.

A stock kernel comes stripped, as an `Image`; its own symbol table is in its read-only data, compressed (`scripts/
kallsyms.c` of Linux). Nothing says where, so it is found from what is peculiar to it, and every part is checked:

    num_syms u32 | names | markers u32 each | [seqs] | token_table | token_index 256 x u16 | offsets u32 each | base u64

    names    for each symbol a length (one byte, or two when the first has its top bit set) and so many tokens; what
             they spell is one letter for its type, then the name
    markers  where in `names` every 256th symbol is
    tokens   256 strings with a zero behind each, and where each is; the digits always stand for themselves
    offsets  of the symbols, from `base`; Linux before 6.4 has both in front of num_syms

Parts begin at multiples of 8 (some of older kernels at multiples of 4).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import Final

TOKENS: Final = 256
GROUP: Final = 256  # symbols between two markers
SYMBOLS_MAX: Final = 1 << 20
SPAN_MAX: Final = 1 << 30  # of a kernel's addresses
LINKED_AT: Final = 0xFFFF_FFFF_8000_0000  # where Linux for rv64 is linked, when the image leaves it to relocation
_DIGITS: Final = re.compile(b"".join(b"%d\0" % digit for digit in range(10)))
_INDEX: Final = Struct("<256H")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")


@dataclass(frozen=True, slots=True)
class KernelSymbol:
    """One of them. `kind` is a letter as nm(1) prints it."""

    address: int
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Tokens:
    start: int
    end: int
    strings: list[bytes]


def kernel_symbols(image: bytes) -> list[KernelSymbol]:
    """All symbols in the order of their addresses; none when there is no such table in the image."""
    for tokens in _token_tables(image):
        for markers_at, markers in _marker_tables(image, tokens.start):
            for number_at, count in _numbers(image, markers_at, markers):
                addresses = _addresses(image, number_at, tokens.end, count)
                names = list(_names(image, number_at + 8, markers_at, tokens.strings))
                if addresses is not None and len(names) == count:
                    return [KernelSymbol(at, name[1:], name[0]) for at, name in zip(addresses, names, strict=True)]
    return []


def _token_tables(image: bytes) -> Iterator[_Tokens]:
    for found in _DIGITS.finditer(image):
        start = found.start()
        for _ in range(ord("0") + 1):  # back over the tokens in front of "0"
            start = image.rfind(b"\0", 0, start - 1) + 1
            if start <= 0:
                break
        else:
            start = image.find(b"\0", start) + 1
        strings = image[start : start + (1 << 14)].split(b"\0", TOKENS)[:TOKENS]
        if start <= 0 or len(strings) < TOKENS:
            continue
        places = [0]
        for string in strings:
            places.append(places[-1] + len(string) + 1)
        for align in (8, 4):
            at = -(-(start + places[-1]) // align) * align
            if at + _INDEX.size <= len(image) and list(_INDEX.unpack_from(image, at)) == places[:-1]:
                yield _Tokens(start, at + _INDEX.size, strings)
                break


def _marker_tables(image: bytes, tokens_at: int) -> Iterator[tuple[int, list[int]]]:
    """Behind them at most three bytes for each symbol (`seqs`), and some zeros."""
    end = tokens_at & ~3
    lowest = max(4, end - 3 * SYMBOLS_MAX)
    words = array("I", image[lowest & ~3 : end])
    last = len(words) - 1
    while last > 0:
        first = last
        while first > 0 and 2 * GROUP <= words[first] - words[first - 1] < 64 * GROUP:
            first -= 1
        if first < last and words[first] == 0:
            yield (lowest & ~3) + 4 * first, list(words[first : last + 1])
        last = first - 1 if first < last else last - 1


def _numbers(image: bytes, markers_at: int, markers: list[int]) -> Iterator[tuple[int, int]]:
    """Where the number of symbols may be, and which it is: then all the names fill what is between."""
    latest = markers_at - markers[-1] - 8
    for at in range(latest & ~7, max(0, latest - 64 * GROUP) & ~7, -8):
        (count,) = _U32.unpack_from(image, at)
        if -(-count // GROUP) != len(markers):
            continue
        place = at + 8 + markers[-1]
        for _ in range(count - (len(markers) - 1) * GROUP):
            length, place = _length(image, place)
            place += length
            if place > markers_at:
                break
        if markers_at - 8 < place <= markers_at and not any(image[place:markers_at]):
            yield at, count


def _length(image: bytes, at: int) -> tuple[int, int]:
    if image[at] & 0x80:
        return image[at] & 0x7F | image[at + 1] << 7, at + 2
    return image[at], at + 1


def _names(image: bytes, at: int, end: int, tokens: list[bytes]) -> Iterator[str]:
    """Up to the zeros in front of the markers, or the markers."""
    while at < end and image[at]:
        length, at = _length(image, at)
        name = b"".join([tokens[byte] for byte in image[at : at + length]])
        yield name.decode("utf-8", "replace") or "?"
        at += length


def _addresses(image: bytes, number_at: int, tokens_end: int, count: int) -> list[int] | None:
    size = -(-4 * count // 8) * 8
    behind = -(-tokens_end // 8) * 8
    for at, base_at in ((behind, behind + size), (number_at - 8 - size, number_at - 8)):
        if at < 0 or base_at + 8 > len(image):
            continue
        offsets = array("I", image[at : at + 4 * count])
        (base,) = _U64.unpack_from(image, base_at)
        if offsets[-1] < SPAN_MAX and all(one <= other for one, other in pairwise(offsets)):
            return [(base or LINKED_AT) + offset for offset in offsets]
    return None
