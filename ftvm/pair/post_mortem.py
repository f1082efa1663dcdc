# SPDX-License-Identifier: GPL-2.0-or-later
"""What a side keeps when it has diverged: its whole machine, as a log that begins with it and has no entries.

    STATE/b/diverged-4711.log       the machine after entry 4711; the latest two are kept

It has the format of every log, so `ftvm log stat` and whatever reads a checkpoint read it. It is written under another
name and then renamed: complete or not there, also when the launcher fences this side meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from ftvm.machine import Machine
from ftvm.recording import Recording
from replay.header import LogHeader

KEPT_MAX: Final = 2
KEPT_AS: Final = "diverged-"
_UNFINISHED: Final = "diverged.part"


def keep_diverged(directory: Path, header: LogHeader, machine: Machine) -> Path:
    """Write the machine into the side's `directory`, where older ones make room; LogError or OSError when it fails."""
    older = sorted(directory.glob(f"{KEPT_AS}*.log"), key=lambda path: path.stat().st_mtime_ns)
    for path in older[: max(0, len(older) - KEPT_MAX + 1)]:
        path.unlink()
    unfinished = directory / _UNFINISHED
    try:
        Recording.begin(unfinished, header, machine, (), replace=True).close()
        return unfinished.rename(directory / f"{KEPT_AS}{machine.sequence}.log")
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
