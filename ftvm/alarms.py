# SPDX-License-Identifier: GPL-2.0-or-later
"""Alarms that stand until an operator acknowledges them.

    STATE/alarms.jsonl                  a line each: {"at": seconds since 1970, "side": "a", "text": "..."}
    STATE/alarms-acknowledged.jsonl     where acknowledging moves them

A file of its own, so that an alarm outlives the side that raised it, failovers and restarts. Raising one appends a
line with one write(2); sides and `ftvm status --acknowledge` need no lock between them.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAME: Final = "alarms.jsonl"
ACKNOWLEDGED: Final = "alarms-acknowledged.jsonl"
READ_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm. `at` is host time, for people."""

    at: float
    side: str
    text: str

    def __str__(self) -> str:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.at))} side {self.side}: {self.text}"


class Alarms:
    """The alarms of the pair whose state directory this is."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._acknowledged = directory / ACKNOWLEDGED

    def sound(self, side: str, text: str) -> None:
        """Raise an alarm. Never fails: a full disk must not stop a side, whose log has the alarm too."""
        line = json.dumps({"at": time.time(), "side": side, "text": text}).encode() + b"\n"
        with suppress(OSError):
            _append(self._path, line)

    def standing(self) -> list[Alarm]:
        """Those that nobody has acknowledged, in order."""
        return _read(self._path)

    def acknowledge(self) -> list[Alarm]:
        """Clear them, and return what was cleared. Raises OSError."""
        taken = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.rename(taken)  # an alarm that is raised from here on goes to a new file
        except FileNotFoundError:
            return []
        cleared = _read(taken)
        _append(self._acknowledged, taken.read_bytes())
        taken.unlink()
        return cleared


def _append(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _read(path: Path) -> list[Alarm]:
    """The whole lines that are alarms; a torn one is left out."""
    try:
        with path.open("rb") as file:
            lines = file.read(READ_MAX).splitlines()
    except OSError:
        return []
    alarms = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            fields = json.loads(line)
            alarms.append(Alarm(float(fields["at"]), str(fields["side"]), str(fields["text"])))
    return alarms
