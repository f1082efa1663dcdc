# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the console's stream goes on the host, and where its input comes from.

Output is a stream with byte offsets that outlive any one process: after going live, the new primary says again what may
not have left, at the same offsets. So every sink knows how far it got and shows a byte once:

    file:PATH   written in place at the offset; a repeat overwrites itself
    stdio       this process's standard output, and standard input
    unix:PATH   a listening socket (`console_unix`); clients come and go
    none        nowhere

No write ever waits for a reader. What a slow one has to miss is cut out whole and a notice stands in its place.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from ftvm.config_values import Backend
from ftvm.world.poller import Poller

INPUT_MAX = 64 << 10  # typed ahead of what the guest took
BUFFER_MAX = 16 << 20  # printed ahead of what standard output took
CHUNK = 4096  # a pipe that is writable takes this much without blocking (PIPE_BUF)
CLOSE_SECONDS_MAX = 2.0


class Console(Protocol):
    """One console backend; `close` leaves everything as it was found."""

    def take_input(self) -> bytes:
        """Bytes typed since the last call."""

    def write(self, data: bytes, offset: int) -> None:
        """Bytes of the stream, the first of them at `offset`. Never blocks, never raises for the reader's sake."""

    def close(self) -> None: ...


def open_console(backend: Backend, state: Path, poller: Poller, fresh: bool) -> Console:
    """The console of a live side. `fresh` is a stream that begins at offset 0, not one that continues.

    Relative paths are relative to the state directory. OSError when the backend cannot be had.
    """
    if backend.kind == "file":
        return FileConsole(state / Path(backend.argument).expanduser(), fresh)
    if backend.kind == "stdio":
        return StdioConsole(poller)
    if backend.kind == "unix":
        from ftvm.world.console_unix import UnixConsole
        from ftvm.world.unix_listener import listen_unix

        return UnixConsole(listen_unix(state / Path(backend.argument).expanduser()), poller)
    assert backend.kind == "none", backend
    return NoConsole()


def gap_notice(missing: int) -> bytes:
    """What a reader sees in place of `missing` bytes."""
    return f"\r\n[ftvm: {missing} bytes of console output are missing here]\r\n".encode()


class Stream:
    """Position in the console's stream: tells repeats from new bytes, and finds gaps."""

    __slots__ = ("position",)

    def __init__(self, position: int | None = None) -> None:
        self.position = position

    def take(self, data: bytes, offset: int) -> tuple[int, bytes]:
        """(bytes that are missing before these, the part of `data` that was not seen before)."""
        position = offset if self.position is None else self.position
        self.position = max(position, offset + len(data))
        if offset > position:
            return offset - position, data
        return 0, data[position - offset :]


class NoConsole:
    """Output goes nowhere, nobody types."""

    def take_input(self) -> bytes:
        return b""

    def write(self, data: bytes, offset: int) -> None:
        pass

    def close(self) -> None:
        pass


class FileConsole:
    """A file that holds the stream, byte N of it at offset N. A fresh stream moves the last one to PATH.old.

    Writing stops at the first error (a full disk must not stop a guest); `problem` then says why.
    """

    def __init__(self, path: Path, fresh: bool) -> None:
        self.problem = ""
        self._stream = Stream()
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh and path.is_file() and path.stat().st_size > 0:
            path.replace(path.with_name(path.name + ".old"))
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, 0o644)
        self._in_place = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def take_input(self) -> bytes:
        return b""

    def write(self, data: bytes, offset: int) -> None:
        """See `Console`."""
        if self.problem:
            return
        try:
            if self._in_place:
                self._write_in_place(data, offset)
            else:
                self._append(data, offset)
        except OSError as error:
            self.problem = f"console output stopped at byte {offset}: {error.strerror}"

    def _write_in_place(self, data: bytes, offset: int) -> None:
        written = 0
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], offset + written)

    def _append(self, data: bytes, offset: int) -> None:
        """A terminal or FIFO has no offsets: say what is new, lose what it does not take at once."""
        missing, new = self._stream.take(data, offset)
        with suppress(BlockingIOError):
            os.write(self._fd, gap_notice(missing) + new if missing else new)

    def close(self) -> None:
        """See `Console`."""
        os.close(self._fd)


class StdioConsole:
    """Standard input and output. A terminal is set to hand over each key unechoed; Ctrl-C still ends ftvm."""

    def __init__(self, poller: Poller, input_fd: int | None = None, output_fd: int | None = None) -> None:
        self._poller = poller
        self._in = sys.stdin.fileno() if input_fd is None else input_fd
        self._out = sys.stdout.fileno() if output_fd is None else output_fd
        self._stream = Stream()
        self._typed = bytearray()
        self._waiting = bytearray()
        self._dropped = 0
        self._pollable_in = self._reading = _may_read(self._in)
        self._settings = _set_keys_unechoed(self._in) if self._reading else None
        if self._reading:
            self._watch_input()

    def take_input(self) -> bytes:
        """See `Console`. At the end of standard input nothing more comes."""
        if self._reading and not self._pollable_in:
            self._read()
        typed = bytes(self._typed)
        if typed:
            self._typed.clear()
            if self._reading and self._pollable_in:
                self._watch_input()
        return typed

    def write(self, data: bytes, offset: int) -> None:
        """See `Console`."""
        missing, new = self._stream.take(data, offset)
        if len(self._waiting) + len(new) > BUFFER_MAX:
            self._dropped += missing + len(new)
            return
        missing += self._dropped
        self._dropped = 0
        self._waiting += gap_notice(missing) + new if missing else new
        self._drain()

    def close(self) -> None:
        """Give what is waiting a last chance of two seconds, and the terminal its settings back."""
        self._poller.unwatch(self._in)
        self._poller.unwatch(self._out)
        deadline = time.monotonic() + CLOSE_SECONDS_MAX
        while self._waiting and (left := deadline - time.monotonic()) > 0:
            select.select((), (self._out,), (), left)
            self._drain()
        if self._settings is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._in, termios.TCSADRAIN, self._settings)

    def _watch_input(self) -> None:
        try:
            self._poller.watch(self._in, True, False, lambda readable, writable: self._read())
        except PermissionError:  # a regular file is always readable
            self._pollable_in = False

    def _read(self) -> None:
        try:
            data = os.read(self._in, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # the terminal is gone
            data = b""
        self._typed += data
        if not data:
            self._reading = False
        if not data or len(self._typed) >= INPUT_MAX:
            self._poller.unwatch(self._in)

    def _drain(self) -> None:
        while self._waiting and select.select((), (self._out,), (), 0)[1]:
            try:
                del self._waiting[: os.write(self._out, self._waiting[:CHUNK])]
            except BlockingIOError:
                break
            except OSError:  # nobody will ever read this
                self._waiting.clear()
        if self._waiting:
            self._poller.watch(self._out, False, True, lambda readable, writable: self._drain())
        else:
            self._poller.unwatch(self._out)


def _may_read(fd: int) -> bool:
    """False for a closed standard input, and for a terminal that belongs to another job (reading would stop us)."""
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
        return not os.isatty(fd) or os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def _set_keys_unechoed(fd: int) -> list[Any] | None:
    if not os.isatty(fd):
        return None
    settings: list[Any] = termios.tcgetattr(fd)
    input_flags, output_flags, control_flags, local_flags, *rest = settings
    changed = [input_flags & ~termios.ICRNL, output_flags, control_flags]
    changed += [local_flags & ~(termios.ICANON | termios.ECHO), *rest]
    termios.tcsetattr(fd, termios.TCSADRAIN, changed)
    return settings
