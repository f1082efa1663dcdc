# SPDX-License-Identifier: GPL-2.0-or-later
"""`LOG.ckpt`: states of a recording's machine, so that a timeline need not start from the beginning.

The file is a log without entries: preamble, header, and for each checkpoint its STATE records and a STATE_END, all
with the sequence of the entry before it (replay/record.py, replay/state.py). What the sections hold is their writer's
affair. It is never needed: it can be deleted, and made again by replaying. One that is torn or damaged serves up to its
last whole checkpoint; it is written beside, and put in place when it is whole.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from replay.errors import LogError
from replay.header import LogHeader
from replay.log_scan import read_header
from replay.record import CHECK, Kind, RecordHeader, body_holds, expand, frame_preamble, header_size, parse_header
from replay.state import State, StateReader, state_records

SUFFIX = ".ckpt"


def path_of(log: Path) -> Path:
    """Where a log's checkpoints are."""
    return log.with_name(log.name + SUFFIX)


class CheckpointWriter:
    """Writes a whole file; it appears under its name when the block ends in order."""

    def __init__(self, path: Path, header: LogHeader) -> None:
        """LogError when it cannot be made."""
        self.path = path
        self.size = 0
        self._part = path.with_name(path.name + ".part")
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise LogError(f"cannot make {self._part}: {error.strerror}") from None
        self._put(frame_preamble(header.encode()))

    def add(self, sequence: int, sections: Iterable[tuple[str, bytes]]) -> None:
        """One checkpoint, behind this entry."""
        for record in state_records(sequence, sections):
            self._put(record)

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise LogError(f"{self._part}: {error.strerror}") from None
        self.size += len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._part.replace(self.path)
            else:
                self._part.unlink()
        except OSError as failure:
            if kind is None:
                raise LogError(f"{self._part}: {failure.strerror}") from None


def read_checkpoints(path: Path, log: LogHeader) -> Iterator[State]:
    """The checkpoints in a file, up to where it is not whole; LogError when it is another recording's."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise LogError(f"cannot open {path}: {error.strerror}") from None
    try:
        header, offset = read_header(fd, str(path))
        if wrong := log.differences(header):
            raise LogError(f"{path}: these are not checkpoints of this recording: " + "; ".join(wrong))
        pieces = StateReader()
        while (record := _next(fd, offset)) is not None:
            head, body = record
            offset += head.size + head.length + CHECK.size
            if head.kind == Kind.STATE:
                pieces.feed(body)
                continue
            pieces.finish(body)
            yield State(head.sequence, pieces.sections)
            pieces = StateReader()
    finally:
        os.close(fd)


def _next(fd: int, offset: int) -> tuple[RecordHeader, bytes] | None:
    """The record at an offset, or None where no whole one is."""
    first = os.pread(fd, 1, offset)
    if not first:
        return None
    data = os.pread(fd, header_size(first[0]), offset)
    try:
        head = parse_header(data, 0)
        stored = os.pread(fd, head.length + CHECK.size, offset + head.size)
        if len(stored) < head.length + CHECK.size or not body_holds(head, stored):
            return None
        return (head, expand(head, stored)) if head.kind in (Kind.STATE, Kind.STATE_END) and head.key else None
    except (LogError, struct.error):
        return None
