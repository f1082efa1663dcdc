# SPDX-License-Identifier: GPL-2.0-or-later
"""What running commands print: a line for everything that happens, and a display for long work.

    12:34:56.789 a        primary of term 2: the backup's heartbeat is overdue by 180 ms      (plain, or coloured)
    {"time": "...", "level": "info", "who": "a", "message": "...", "term": 2}                 (--log-json)

All of it goes to standard error; standard output belongs to results. A side must never wait for whoever reads this (a
terminal held by Ctrl-S would look like a dead primary), so a line that is not taken at once is dropped, and the next
one that is taken says how many were.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Protocol

STDERR = 2
PROGRESS_EVERY_S = 5.0
_LINE_MAX = 4096  # what a pipe takes whole (PIPE_BUF): lines of several processes do not mix
_COLOURS = {"info": "", "warning": "\x1b[33m", "error": "\x1b[31m"}
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Say:
    """Prints events. `who` is the speaker: a side, or the command."""

    def __init__(self, who: str, log_json: bool = False, fd: int = STDERR) -> None:
        self._who = who
        self._json = log_json
        self._fd = fd
        self._coloured = not log_json and os.isatty(self._fd) and "NO_COLOR" not in os.environ
        self._dropped = 0

    def info(self, message: str, **fields: Any) -> None:
        """Something happened. `fields` are for programs: they appear in structured logs only."""
        self._say("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Something that an operator should know, although all goes on."""
        self._say("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Something has failed."""
        self._say("error", message, fields)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Progress]:
        """A display for work of `total` steps: a bar on a terminal, otherwise a line every five seconds."""
        display = _Bar(label, total) if self._coloured else _Lines(self, label, total)
        try:
            yield display
        finally:
            display.close()

    def _say(self, level: str, message: str, fields: dict[str, Any]) -> None:
        line = self._structured(level, message, fields) if self._json else self._readable(level, message)
        if not self._ready():
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._say("warning", f"{dropped} lines are missing here: standard error was not read", {"dropped": dropped})
        with suppress(OSError):
            os.write(self._fd, line.encode(errors="backslashreplace")[:_LINE_MAX])

    def _ready(self) -> bool:
        with suppress(OSError, ValueError):
            return bool(select.select((), (self._fd,), (), 0)[1])
        return False

    def _readable(self, level: str, message: str) -> str:
        stamp = datetime.now().strftime("%H:%M:%S.%f")[:-3]
        text = message.replace("\n", "\n" + " " * 22)
        mark = "" if level == "info" else f"{level}: "
        if self._coloured:
            return f"{_DIM}{stamp} {self._who:<8}{_PLAIN} {_COLOURS[level]}{mark}{text}{_PLAIN}\n"
        return f"{stamp} {self._who:<8} {mark}{text}\n"

    def _structured(self, level: str, message: str, fields: dict[str, Any]) -> str:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {**fields, "time": stamp, "level": level, "who": self._who, "message": message}
        return json.dumps(record, ensure_ascii=False, default=str) + "\n"


class Progress(Protocol):
    """How far long work has come."""

    def advance(self, steps: int = 1) -> None:
        """So many more steps are done."""

    def close(self) -> None: ...


class _Lines:
    """Progress for logs."""

    def __init__(self, say: Say, label: str, total: int) -> None:
        self._say, self._label, self._total = say, label, total
        self._done = 0
        self._due = time.monotonic() + PROGRESS_EVERY_S

    def advance(self, steps: int = 1) -> None:
        """See `Progress`."""
        self._done += steps
        if (now := time.monotonic()) >= self._due:
            self._due = now + PROGRESS_EVERY_S
            self._report()

    def _report(self) -> None:
        percent = 100 * self._done // self._total if self._total else 100
        self._say.info(f"{self._label}: {percent} %", done=self._done, total=self._total)

    def close(self) -> None:
        """See `Progress`."""


class _Bar:
    """Progress for people."""

    def __init__(self, label: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(console=Console(stderr=True), transient=True, redirect_stdout=False)
        self._task = self._progress.add_task(label, total=total)
        self._progress.start()

    def advance(self, steps: int = 1) -> None:
        """See `Progress`."""
        self._progress.update(self._task, advance=steps)

    def close(self) -> None:
        """See `Progress`."""
        self._progress.stop()
