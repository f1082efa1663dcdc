# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a log: its header, the checkpoint it may start from, and its entries with what was recorded of their results.

Reading streams: one record is in memory at a time. Only whole records are handed out; how the log ended (`tail`,
`closed`) is known when an iteration has reached its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from replay.batch import Recorded
from replay.errors import LogError
from replay.header import LogHeader
from replay.log_scan import Scan, Tail
from replay.record import Kind
from replay.record_chain import recorded_entries
from replay.state import State, StateReader


class LogReader:
    """A log opened for reading; iterating yields `(Entry, RecordedResult)` from the first entry on, each time anew."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise LogError(f"cannot open the log {path}: {error.strerror}") from error
        try:
            self._scan = Scan(self._fd, self.path)
            self.state_sequence = self._find_state()
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def header(self) -> LogHeader:
        """What the log says about itself."""
        return self._scan.header

    @property
    def tail(self) -> Tail | None:
        """What was cut from the log's end, by the latest iteration."""
        return self._scan.tail

    @property
    def closed(self) -> bool:
        """Whether its recorder ended it, by the latest iteration."""
        return self._scan.closed

    @property
    def last_sequence(self) -> int | None:
        """The last entry that the latest iteration has come to (or the checkpoint)."""
        return self._scan.last_sequence

    def __iter__(self) -> Iterator[Recorded]:
        return self.entries()

    def entries(self, first: int = 0) -> Iterator[Recorded]:
        """Entries from sequence `first` on; what lies before is checked but not decoded."""
        self._scan = Scan(self._fd, self.path)
        return recorded_entries(self._scan, first)

    def state(self) -> State | None:
        """The checkpoint that the log starts from, or None when it starts from a cold machine."""
        if self.state_sequence is None:
            return None
        scan = Scan(self._fd, self.path)
        pieces = StateReader()
        for record in scan:
            body = scan.body(record)
            try:
                if record.header.kind == Kind.STATE:
                    pieces.feed(body)
                else:
                    pieces.finish(body)
                    return State(self.state_sequence, pieces.sections)
            except LogError as error:
                raise scan.damage(record, str(error)) from None
        raise LogError(f"{self.path}: {scan.tail}: there is nothing to replay")

    def check_against(
        self,
        *,
        configuration: str,
        images: Mapping[str, str],
        engine: str,
        machine: bytes = b"",
        pair: str | None = None,
    ) -> None:
        """`LogError` that says in words why this log cannot be replayed on such a machine."""
        try:
            self.header.check_against(
                configuration=configuration, images=images, engine=engine, machine=machine, pair=pair
            )
        except LogError as error:
            raise LogError(f"{self.path}: {error}") from None

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _find_state(self) -> int | None:
        """The sequence of the checkpoint at the log's start, whether it is whole or not."""
        for record in Scan(self._fd, self.path):
            return record.header.sequence if record.header.kind in (Kind.STATE, Kind.STATE_END) else None
        return None
