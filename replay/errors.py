# SPDX-License-Identifier: GPL-2.0-or-later
"""`LogError`: a log or an entry is damaged, foreign, or cannot be written. Its message says what, where, what to do."""

from __future__ import annotations


class LogError(Exception):
    """The bytes of an entry or a log are wrong, belong to another machine or format, or the disk refused them."""


class LogDamaged(LogError):
    """Bytes inside a log are not those that were written. Everything before the place named is still readable."""

    def __init__(self, name: str, why: str, *, offset: int, record: int, sequence: int | None) -> None:
        place = "before its first entry" if sequence is None else f"after sequence {sequence}"
        super().__init__(f"{name}: damaged at offset {offset}, record {record}, {place}: {why}")
        self.offset = offset
        self.record = record
        self.sequence = sequence  # of the last entry before the damage
        self.why = why


class StateLost(LogError):
    """A kept state cannot be read any more: its file is damaged there. The machine is as it was."""


class LogBusy(LogError):
    """Another process writes this file (still): try again."""
