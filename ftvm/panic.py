# SPDX-License-Identifier: GPL-2.0-or-later
"""`PanicWatch`: notices on the console that the guest's kernel has panicked.

A stock kernel has no other way to say it: Debian's riscv64 kernel has no pvpanic driver and no pstore, and where it is
told to restart (`panic=N`), its reset looks like any other. The console is part of the machine and of its state, so
what is seen there is seen by both replicas and by a replay at the same clock.

    [   12.345678] Kernel panic - not syncing: Attempted to kill init!     the panic, and its reason
    ...                                                                    registers, a call trace
    [   12.345999] ---[ end Kernel panic - not syncing: ... ]---           it hangs for ever
    [   12.345999] Rebooting in 10 seconds..                               or it resets itself, later

The text must begin its line, or follow the kernel's time stamp: a log that quotes it is no panic. What the kernel still
says is waited for, up to half a second of guest time.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final

GRACE_TICKS: Final = 5_000_000  # half a second
LINE_MAX: Final = 1024
REASON_MAX: Final = 200
_STAMP: Final = rb"(?:^|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )"
_LINES: Final = re.compile(rb"[\r\n]+")
_CUT: Final = b"..."
_NEVER: Final = -1


class Panic(Enum):
    """What the console has said."""

    NONE = "nothing"
    DYING = "that it panicked, and not yet what follows"
    RESETTING = "that it panicked and resets itself"
    DEAD = "that it panicked and hangs"


class PanicWatch:
    """Reads the console's stream, in pieces of any size."""

    def __init__(self, text: str) -> None:
        """`text` is what a panic's message begins with; empty to notice none."""
        self._text = text.encode()
        self._pattern = re.compile(_STAMP + b"(" + re.escape(self._text) + b".*)")
        self._end = b"---[ end " + self._text
        self._line = b""
        self._due = _NEVER
        self.state = Panic.NONE
        self.message = ""

    def see(self, data: bytes, time: int) -> None:
        """The guest has written to its console, at that guest time."""
        if not self._text:
            return
        *lines, rest = _LINES.split(self._line + data)
        for line in lines:
            self._read(line, time)
        self._line = rest if len(rest) <= LINE_MAX else _CUT + rest[-LINE_MAX // 2 :]

    def _read(self, line: bytes, time: int) -> None:
        if self.state is Panic.NONE:
            found = self._pattern.search(line)
            if found is not None:
                text = found[1][:REASON_MAX].decode(errors="replace")
                self.message = "".join(letter if letter.isprintable() else "?" for letter in text)
                self.state, self._due = Panic.DYING, time + GRACE_TICKS
        elif self._end in line:
            self.state, self._due = Panic.DEAD, _NEVER
        elif b"Rebooting in " in line:
            self.state, self._due = Panic.RESETTING, _NEVER

    @property
    def deadline(self) -> int | None:
        """Guest time at which a kernel that says no more counts as dead; None for never."""
        return None if self._due == _NEVER else self._due

    def expire(self, time: int) -> None:
        """Guest time has moved on."""
        if self.state is Panic.DYING and time >= self._due:
            self.state, self._due = Panic.DEAD, _NEVER

    def forget(self) -> None:
        """The machine was reset."""
        self._line, self._due, self.state, self.message = b"", _NEVER, Panic.NONE, ""

    def save(self) -> list[Any]:
        """State at an epoch boundary."""
        return [self._line, self._due, self.state.name, self.message]

    def load(self, state: list[Any]) -> None:
        """Inverse of `save`; ValueError when no machine saved that."""
        line, due, name, message = state
        if len(line) > LINE_MAX + len(_CUT) or due < _NEVER or name not in Panic.__members__:
            raise ValueError("its watch for panics is damaged")
        self._line, self._due, self.state, self.message = line, due, Panic[name], message
