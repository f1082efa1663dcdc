# SPDX-License-Identifier: GPL-2.0-or-later
"""`Trials`: what would have had to be different in front of an entry, for its guest to do what was recorded?

A replay that does something else than its recorder did leaves the recorder's results: an end clock, a time, a digest.
A change that is tried in the replayed machine, and after which the entry gives just these, is what had happened there:
that 32 bits of digest agree by chance is one trial in four thousand million. Tried are

    a page's bit        from the digest of RAM, where it is all that differs: no run is needed, each bit has its own
    a register's bit    behind the entry, by its digest; and in front of it, by running it, as far as it is short
    a suspect           whatever a later checkpoint of the recorder has otherwise than the replay, one thing at a time
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import msgpack
import xxhash

from ftvm.board import RAM_BASE
from ftvm.debugger import Debugger
from ftvm.hart import PAGE_SIZE
from ftvm.state_diff import DISK, FIELD, MEMORY, Spot
from replay.divergence import DIGEST_MASK, differences

SAVED_HEAD: Final = 2  # words of a saved hart in front of its registers
GENERAL: Final = frozenset(f"x{number}" for number in range(1, 32))
NOT_TRIED: Final = frozenset({"clock", "time", "priv"})
WORD_BITS: Final = 64
WORK_MAX: Final = 3_000_000_000  # clock, of all runs that are tried: some seconds
WORK_EACH: Final = 1_000_000  # what going back costs, in the same unit
MORE: Final = 32  # entries behind the first that have to agree too
PAGES_MAX: Final = 512  # whose bits are tried: some ten seconds
PIECES_MAX: Final = 16  # words of a page that are tried one by one
BIT_NUMBERS: Final = range(8)


@dataclass(frozen=True, slots=True)
class Trial:
    """A change, and how it is made in a machine that stands between two entries."""

    words: str
    apply: Callable[[Debugger], None]
    spot: Spot | None = None


class Trials:
    """In front of one entry of a debugger's recording; its timeline does not verify."""

    def __init__(self, debugger: Debugger, sequence: int) -> None:
        self.debugger = debugger
        self.sequence = sequence
        timeline = debugger.timeline
        timeline.seek(timeline.behind(sequence - 1))
        timeline.keep()
        still = timeline.stills.at(sequence - 1)
        assert still is not None
        self._still = still
        self._left = WORK_MAX

    def first(self, trials: Iterable[Trial]) -> tuple[Trial, int] | None:
        """The first after which this entry and those behind it give what was recorded, and the last tried; None.

        One after which only a few do is no answer: it may be what came of it, which heals one entry's result.
        """
        entries = self.debugger.timeline.entries
        entry, result = entries[self.sequence]
        enough = min(self.sequence + MORE, entries.last)
        for trial in trials:
            self._left -= WORK_EACH + result.clock - entry.clock
            if self._left < 0:
                return None
            if (last := self._agrees(trial)) >= enough:
                return trial, last
        return None

    def _agrees(self, trial: Trial) -> int:
        """The last entry that gives what was recorded after this change; 0 when not even the first does."""
        debugger, last = self.debugger, 0
        try:
            trial.apply(debugger)
            for entry, expected in debugger.timeline.entries.since(self.sequence):
                if differences(expected, debugger.machine.run(entry)):
                    break
                last = entry.sequence
                if last >= self.sequence + MORE:
                    break
        except ValueError:  # the change does not fit the machine, or the next entry does not fit what came of it
            pass
        finally:
            debugger.traveller.go_back(self._still.state)
        return last


def suspects(spots: Iterable[Spot]) -> Iterator[Trial]:
    """What another state has in place of this machine's, one thing at a time."""
    for spot in spots:
        if spot.kind not in (MEMORY, DISK, FIELD):
            continue
        whole = [spot] if len(spot.pieces) < PIECES_MAX else []
        parts = [replace(spot, pieces=(piece,)) for piece in spot.pieces[:PIECES_MAX] if len(spot.pieces) > 1]
        for each in whole + parts:
            yield Trial(each.words(), partial(_put, spot=each), each)


def _put(debugger: Debugger, spot: Spot) -> None:
    if spot.kind == FIELD:
        sections = dict(debugger.machine.save_state())
        state: Any = msgpack.unpackb(sections["machine"])
        inner = state
        for step in spot.path[:-1]:
            inner = inner[step]
        inner[spot.path[-1]] = spot.pieces[0][1] if spot.pieces else spot.other
        debugger.machine.restore_state([("hart", sections["hart"]), ("machine", msgpack.packb(state))])
        return
    for at, content in spot.pieces:
        if spot.kind == DISK:
            debugger.disks[spot.unit].write(at, content)
        else:
            debugger.hart.load_ram(at - RAM_BASE, content)


def register_bits(debugger: Debugger, all_of_them: bool = False) -> Iterator[Trial]:
    """Each bit of the general registers, or of all there are, flipped."""
    for word, name in enumerate(debugger.hart.registers()):
        if name in NOT_TRIED or not (all_of_them or name in GENERAL):
            continue
        for bit in range(WORD_BITS):
            yield Trial(f"bit {bit} of {name} flipped", partial(_flip, word=word, bit=bit))


def _flip(debugger: Debugger, word: int, bit: int) -> None:
    saved = bytearray(debugger.hart.save())
    at = (SAVED_HEAD + word) * 8
    struct.pack_into("<Q", saved, at, struct.unpack_from("<Q", saved, at)[0] ^ 1 << bit)
    debugger.hart.restore(bytes(saved))


def register_bit_behind(debugger: Debugger, digest: int) -> str:
    """Which register's bit, flipped in the machine as it stands, gives this recorded digest; or nothing."""
    saved = debugger.hart.save()
    try:
        for trial in register_bits(debugger, all_of_them=True):
            try:
                trial.apply(debugger)
            except ValueError:  # a state that no hart can have
                continue
            if debugger.machine.digest() & DIGEST_MASK == digest:
                return trial.words.removesuffix(" flipped")
            debugger.hart.restore(saved)
    finally:
        debugger.hart.restore(saved)
    return ""


def page_bit(debugger: Debugger, recorded: int, replayed: int) -> tuple[int, int] | None:
    """The byte and bit of RAM whose flip gives the recorded digest of all RAM; see ftvm/pages.py for that."""
    ram = debugger.hart.ram
    full = [at for at in range(0, len(ram), PAGE_SIZE) if any(ram[at : at + PAGE_SIZE])]
    if len(full) > PAGES_MAX:
        return None
    for start in full:
        page = bytearray(ram[start : start + PAGE_SIZE])
        number = start // PAGE_SIZE
        wanted = xxhash.xxh3_64_intdigest(page, number) + recorded - replayed & (1 << 64) - 1
        if (found := _bit_with(page, number, wanted)) is not None:
            return RAM_BASE + start + found[0], found[1]
    return None


def _bit_with(page: bytearray, number: int, wanted: int) -> tuple[int, int] | None:
    digest = xxhash.xxh3_64_intdigest
    for byte in range(PAGE_SIZE):
        kept = page[byte]
        for bit in BIT_NUMBERS:
            page[byte] = kept ^ 1 << bit
            if digest(page, number) == wanted:
                return byte, bit
        page[byte] = kept
    return None
