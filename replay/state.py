# SPDX-License-Identifier: GPL-2.0-or-later
"""A checkpoint inside a log: named sections of bytes, cut into records, so that a recording can start in mid-life.

    STATE      u8 last piece of its section (0 or 1), u8 length of the name, name, u16 zero, data
    STATE_END  u32 number of sections, u64 bytes in all of them

Every piece holds at most 1 MiB, so neither side needs more than one section at a time beside a piece. The state is the
one *after* the entry whose sequence its records carry; the first entry behind it has the next sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from replay.errors import LogError
from replay.record import Kind, frame

Sections = list[tuple[str, bytes]]
PIECE_MAX: Final = 1 << 20
SUMMARY: Final = Struct("<IQ")
NAME_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class State:
    """A machine's snapshot after the entry `sequence`; what the sections mean is the machine's affair."""

    sequence: int
    sections: Sections


def state_records(sequence: int, sections: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The records of a state, one at a time."""
    count = total = 0
    for name, data in sections:
        label = name.encode()
        assert len(label) <= NAME_MAX, f"section name {name!r} is too long"
        view = memoryview(data)
        for start in range(0, len(view), PIECE_MAX) or (0,):
            last = start + PIECE_MAX >= len(view)
            body = b"".join((bytes((last, len(label))), label, bytes(2), view[start : start + PIECE_MAX]))
            yield frame(Kind.STATE, body, sequence=sequence, key=True)
        count += 1
        total += len(view)
    yield frame(Kind.STATE_END, SUMMARY.pack(count, total), sequence=sequence, key=True)


class StateReader:
    """Puts the pieces together again: `feed` with every STATE body, `finish` with the STATE_END body."""

    def __init__(self, keep: bool = True) -> None:
        self.sections: Sections = []  # empty when it was told not to keep them
        self._keep = keep
        self._count = self._total = 0
        self._open: tuple[str, bytearray] | None = None

    def feed(self, body: bytes) -> None:
        """One piece."""
        last, length = body[0], body[1]
        start = 2 + length + 2
        if last > 1 or start > len(body):
            raise LogError("its piece of a checkpoint is malformed")
        name = body[2 : 2 + length].decode("utf-8", "replace")
        if self._open is None:
            self._open = (name, bytearray())
        if self._open[0] != name:
            raise LogError(f"section {self._open[0]!r} of the checkpoint goes over into {name!r}")
        self._total += len(body) - start
        if self._keep:
            self._open[1].extend(memoryview(body)[start:])
        if last:
            self._count += 1
            if self._keep:
                self.sections.append((name, bytes(self._open[1])))
            self._open = None

    def finish(self, body: bytes) -> None:
        """Compare with what was written."""
        if len(body) != SUMMARY.size or self._open is not None or (self._count, self._total) != SUMMARY.unpack(body):
            raise LogError("the checkpoint is not what its end says: pieces are missing")
