# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between the present states of two machines: registers, RAM, fields of devices, chunks of disks.

    spots = differences(one, other)        # registers first, then RAM, devices, disks
    spots[0].words("A", "B")               # RAM at 0x80201238: A 4100000000000000, B 6100000000000000

RAM is told by its first bytes that differ in each page, a disk in each chunk of 64 KiB. Fields of devices, of the
journal and of the supervisor are compared only between two entries, where they can be saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgpack

from ftvm.board import RAM_BASE
from ftvm.hart import PAGE_SIZE
from ftvm.machine import Machine
from ftvm.scratch_disk import CHUNK, ScratchDisk

CHUNK_OF_RAM: Final = 1 << 20
WORD: Final = 8  # bytes that are shown, aligned
SHOWN: Final = 8  # of a kind
REGISTER: Final = "register"
MEMORY: Final = "memory"
FIELD: Final = "field"
DISK: Final = "disk"


class Whole(Protocol):
    """A machine with its disks."""

    @property
    def machine(self) -> Machine: ...

    @property
    def disks(self) -> list[ScratchDisk]: ...


@dataclass(frozen=True, slots=True)
class Spot:
    """One thing that differs. `at`: the physical address of RAM, the offset on a disk. Bytes are in memory order."""

    kind: str
    name: str
    one: Any
    other: Any
    at: int = 0
    unit: int = 0  # of a disk
    path: tuple[str | int, ...] = ()  # of a field
    pieces: tuple[tuple[int, bytes], ...] = ()  # the other side's words that differ, with their addresses

    def words(self, one: str = "A", other: str = "B") -> str:
        """For people."""
        more = f" (and {len(self.pieces) - 1} more words near it)" if len(self.pieces) > 1 else ""
        return f"{self.name}: {one} {_shown(self.one)}, {other} {_shown(self.other)}{more}"

    @property
    def bits(self) -> int:
        """How many bits differ in what is shown; 0 when that means nothing."""
        one, other = self.one, self.other
        if isinstance(one, bytes) and isinstance(other, bytes) and len(one) == len(other):
            one, other = int.from_bytes(one, "little"), int.from_bytes(other, "little")
        return (one ^ other).bit_count() if isinstance(one, int) and isinstance(other, int) else 0


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 16 else f"{value[:16].hex()}..."
    return f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else f"{value!r:.60}"


def differences(one: Whole, other: Whole, *, fields: bool = True) -> list[Spot]:
    """All of them. Without `fields`, devices are left out: they cannot be saved inside an entry."""
    found = [*registers(one.machine, other.machine), *memory(one.machine, other.machine)]
    if fields:
        found += devices(one.machine, other.machine)
    return found + list(disks(one.disks, other.disks))


def told(spots: Sequence[Spot], one: str = "A", other: str = "B") -> list[str]:
    """The first few of each kind in words, and how many more there are."""
    lines = []
    for kind, more in ((REGISTER, "registers"), (MEMORY, "pages"), (FIELD, "fields"), (DISK, "chunks")):
        here = [spot for spot in spots if spot.kind == kind]
        shown = len(here) if kind == REGISTER else SHOWN
        lines += [spot.words(one, other) for spot in here[:shown]]
        if len(here) > shown:
            lines.append(f"and {len(here) - shown} more {more}")
    return lines


def registers(one: Machine, other: Machine) -> Iterator[Spot]:
    """Of the hart, and what the core counts."""
    left, right = one.hart.registers(), other.hart.registers()
    for name, value in left.items():
        if value != right[name]:
            yield Spot(REGISTER, name, value, right[name])


def memory(one: Machine, other: Machine) -> Iterator[Spot]:
    """A spot for each page of RAM that differs."""
    left, right = one.hart.ram, other.hart.ram
    for start in range(0, min(len(left), len(right)), CHUNK_OF_RAM):
        if bytes(left[start : start + CHUNK_OF_RAM]) == bytes(right[start : start + CHUNK_OF_RAM]):
            continue
        for at in range(start, min(start + CHUNK_OF_RAM, len(left), len(right)), PAGE_SIZE):
            pages = bytes(left[at : at + PAGE_SIZE]), bytes(right[at : at + PAGE_SIZE])
            if pages[0] != pages[1]:
                yield _spot(MEMORY, "RAM", RAM_BASE + at, *pages)


def devices(one: Machine, other: Machine) -> Iterator[Spot]:
    """Fields of devices, journal and supervisor."""
    states = [msgpack.unpackb(dict(machine.save_state())["machine"]) for machine in (one, other)]
    yield from _fields(*states)


def disks(one: Sequence[ScratchDisk], other: Sequence[ScratchDisk]) -> Iterator[Spot]:
    """A spot for each chunk of a disk that differs."""
    for unit, (left, right) in enumerate(zip(one, other, strict=False)):
        for index in sorted({*left.data_chunks(), *right.data_chunks()}):
            chunks = left.read_chunk(index), right.read_chunk(index)
            if chunks[0] != chunks[1]:
                yield _spot(DISK, f"disk {unit}", index * CHUNK, *chunks, unit)


def _spot(kind: str, what: str, start: int, one: bytes, other: bytes, unit: int = 0) -> Spot:
    """Of two contents that differ, of a page or a chunk that begins at `start`."""
    starts = range(0, min(len(one), len(other)), WORD)
    unlike = [at for at in starts if one[at : at + WORD] != other[at : at + WORD]]
    pieces = tuple((start + at, other[at : at + WORD]) for at in unlike)
    first = unlike[0]
    name = f"{what} at {start + first:#x}"
    return Spot(kind, name, one[first : first + WORD], other[first : first + WORD], start + first, unit, pieces=pieces)


def _fields(one: Any, other: Any, path: tuple[str | int, ...] = ()) -> Iterator[Spot]:
    """Leaves of two nested states that differ; of bytes, the first that does."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name in one:
            yield from _fields(one[name], other[name], (*path, name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (item, item_too) in enumerate(zip(one, other, strict=True)):
            yield from _fields(item, item_too, (*path, index))
    elif one != other:
        if isinstance(one, bytes) and isinstance(other, bytes) and len(one) == len(other):
            index = next(index for index in range(len(one)) if one[index] != other[index])
            yield Spot(FIELD, f"{_name(path)}[{index}]", one[index], other[index], path=path, pieces=((0, other),))
        else:
            yield Spot(FIELD, _name(path), one, other, path=path)


def _name(path: tuple[str | int, ...]) -> str:
    return "machine" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
