# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a log while its machine runs: entries wait for at most 100 ms or 16 KiB, then go out in one write(2) a record.

The writer never reads a clock: callers say `now`, in seconds of any clock that does not step back. Whatever happens to
the process, the file is a log up to its last whole record. When the disk refuses a write, what it took of that record
is cut off again, `LogError` says so, and the writer writes no more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from replay.batch import COUNT_MAX, BatchEncoder
from replay.entry import Entry, EpochResult, RecordedResult
from replay.errors import LogError
from replay.header import LogHeader
from replay.log_scan import END_BODY, Scan, Tail
from replay.record import Kind, frame, frame_preamble
from replay.record_chain import split_after
from replay.state import state_records

FLUSH_BYTES: Final = 16 << 10
FLUSH_SECONDS: Final = 0.1
KEY_EVERY_BYTES: Final = 256 << 10  # so often reading may begin in the middle


class LogWriter:
    """Appends entries with their results to a new log (`LogWriter`) or to an existing one (`LogWriter.resume`)."""

    def __init__(self, path: str | Path, header: LogHeader, *, sync: bool = False, replace: bool = False) -> None:
        """Start a new log. An existing file is refused unless `replace`. With `sync`, every flush reaches the disk."""
        path = Path(path)
        flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if replace else os.O_EXCL)
        try:
            fd = os.open(path, flags, 0o644)
        except FileExistsError:
            raise LogError(f"{path} exists: remove it, or record to another file") from None
        except OSError as error:
            raise LogError(f"cannot make the log {path}: {error.strerror}") from error
        self._set_up(path, fd, header, sync)
        self._write(frame_preamble(header.encode()))
        if sync:
            self.sync()
            _sync_directory(path.parent)

    @classmethod
    def resume(cls, path: str | Path, header: LogHeader, *, sync: bool = False) -> Self:
        """Go on with an existing log: its torn tail is cut (see `cut`), its header must be `header` but for notes."""
        path = Path(path)
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError as error:
            raise LogError(f"cannot open the log {path}: {error.strerror}") from error
        writer = cls.__new__(cls)
        writer._set_up(path, fd, header, sync)
        try:
            writer._go_to_end()
        except BaseException:
            os.close(fd)
            raise
        return writer

    def _set_up(self, path: Path, fd: int, header: LogHeader, sync: bool) -> None:
        self.path = path
        self.header = header
        self.cut: Tail | None = None  # what `resume` cut off
        self.entries = 0  # in the file and waiting
        self.last_sequence: int | None = None  # of the last entry appended, or of the checkpoint it starts from
        self.written_sequence: int | None = None  # of the last entry handed to write(2)
        self.size = 0  # of the file, in bytes
        self.base = 0  # of the checkpoint that it starts from
        self._fd = fd
        self._sync = sync
        self._encoder = BatchEncoder(header.rate)
        self._first = 0  # sequence of the first entry waiting
        self._deadline: float | None = None
        self._key = True  # the current batch stands for itself
        self._since_key = 0
        self._failure = ""
        self._closed = False

    def _go_to_end(self) -> None:
        scan = Scan(self._fd, self.path)
        if scan.base:
            raise LogError(f"{self.path}: is a pack, which no recording goes on in")
        wrong = scan.header.differences(self.header)
        if wrong:
            raise LogError(f"{self.path}: cannot go on with this log: " + "; ".join(wrong))
        end = scan.start
        for record in scan:
            if record.header.kind != Kind.END:
                end = record.offset + record.size
        self.cut = scan.tail
        self.entries, self.last_sequence = scan.entries, scan.last_sequence
        self.written_sequence = scan.last_sequence
        self.base = scan.state_sequence or 0
        self._cut_at(min(end, scan.end))

    @property
    def deadline(self) -> float | None:
        """By when `flush_due` wants to be called; None when nothing waits."""
        return self._deadline

    def append(self, entry: Entry, result: EpochResult | RecordedResult, now: float) -> None:
        """Take one entry with its result; sequences have no gap."""
        self._refuse_after_failure()
        assert self.last_sequence is None or entry.sequence == self.last_sequence + 1, (
            f"entry {entry.sequence} after {self.last_sequence}"
        )
        encoder = self._encoder
        if encoder.count == 0:
            self._key = self._key or self._since_key >= KEY_EVERY_BYTES
            encoder.begin(self._key)
            self._first = entry.sequence
            self._deadline = now + FLUSH_SECONDS
        encoder.add(entry, result)
        self.last_sequence = entry.sequence
        self.entries += 1
        if encoder.count == COUNT_MAX or encoder.size >= FLUSH_BYTES:
            self.flush()
        else:
            self.flush_due(now)

    def flush_due(self, now: float) -> bool:
        """Flush if the oldest waiting entry has waited for 100 ms; whether it did."""
        if self._deadline is None or now < self._deadline:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Hand all waiting entries to write(2)."""
        self._refuse_after_failure()
        encoder = self._encoder
        if encoder.count == 0:
            return
        data = frame(Kind.ENTRIES, encoder.body(), count=encoder.count, sequence=self._first, key=self._key)
        self._since_key = len(data) if self._key else self._since_key + len(data)
        self._write(data)
        encoder.begin(key=False)
        self.written_sequence = self.last_sequence
        self._key = False
        self._deadline = None
        if self._sync:
            self.sync()

    def sync(self) -> None:
        """Wait until all that was flushed is on the disk."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._fail(error) from error

    def write_state(self, sequence: int, sections: Iterable[tuple[str, bytes]]) -> None:
        """Start the log from a checkpoint: the machine's state after the entry `sequence`. Before any entry."""
        self._refuse_after_failure()
        assert self.last_sequence is None, "a checkpoint comes before all entries"
        for data in state_records(sequence, sections):
            self._write(data)
        self.last_sequence = self.written_sequence = self.base = sequence

    def truncate_after(self, sequence: int) -> None:
        """Forget every entry after `sequence`, so that the next one is `sequence` + 1."""
        self.flush()
        if self.last_sequence is None or self.last_sequence <= sequence:
            return
        scan = Scan(self._fd, self.path)
        split = split_after(scan, sequence)
        if scan.state_sequence is not None and sequence < scan.state_sequence:
            raise LogError(f"{self.path} starts from a checkpoint at sequence {scan.state_sequence}, after {sequence}")
        self.entries = split.entries
        self.last_sequence = self.written_sequence = split.last_sequence
        self._cut_at(split.offset)
        for entry, result in split.kept:
            self.append(entry, result, 0.0)
        self.flush()

    def close(self) -> None:
        """Flush, mark the log as ended by its recorder, and close it."""
        if self._closed:
            return
        try:
            if not self._failure:
                self.flush()
                self._write(frame(Kind.END, END_BODY.pack(self.entries), sequence=self.last_sequence or 0, key=True))
                if self._sync:
                    self.sync()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is, as if the recorder had been killed."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._failure:
            self.close()
            return
        try:
            self.flush()
        finally:
            self.abandon()

    def _cut_at(self, offset: int) -> None:
        try:
            os.ftruncate(self._fd, offset)
        except OSError as error:
            raise self._fail(error) from error
        self.size = offset
        self._key = True

    def _write(self, data: bytes) -> None:
        """One whole record at the end of the file, or none of it."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:] if done else data, self.size + done)
        except OSError as error:
            raise self._fail(error) from error
        self.size += len(data)

    def _fail(self, error: OSError) -> LogError:
        kept = "no entry" if self.written_sequence is None else f"all entries up to {self.written_sequence}"
        self._failure = f"cannot record to {self.path}: {error.strerror}; the log keeps {kept}"
        try:
            os.ftruncate(self._fd, self.size)
        except OSError:
            self._failure += " and a torn tail"
        return LogError(self._failure)

    def _refuse_after_failure(self) -> None:
        assert not self._closed, "the log is closed"
        if self._failure:
            raise LogError(self._failure)


def _sync_directory(path: Path) -> None:
    """Make a new file's name reach the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
