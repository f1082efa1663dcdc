# SPDX-License-Identifier: GPL-2.0-or-later
"""`Recorder`: a machine with a log. What it runs is written down with its result."""

from __future__ import annotations

from replay.entry import Entry, EpochResult, Runs
from replay.log_writer import LogWriter


class Recorder:
    """Runs every entry on `machine` and appends it with its result to `writer`."""

    def __init__(self, machine: Runs, writer: LogWriter) -> None:
        self.machine = machine
        self.writer = writer

    def run(self, entry: Entry, now: float) -> EpochResult:
        """One epoch; `now` in seconds. Between epochs, ask `writer.flush_due`, so that nothing waits over 100 ms."""
        result = self.machine.run(entry)
        self.writer.append(entry, result, now)
        return result
