# SPDX-License-Identifier: GPL-2.0-or-later
"""`Attached`: the debugger's half of a look into a running pair: a recording of its own, which grows.

    the backup's socket -> a moment of its machine -> LOG: begins with that moment
                        -> entries, executed there -> LOG, in a thread, until the backup or this side ends

The log is like any other: a debugger opens it, refreshes it, and goes back and forth in it. What it replays is compared
with the digests of the backup, so a look from here is a look at what the pair has really done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgpack

from ftvm.config import MachineConfig, load
from ftvm.config_text import to_toml
from ftvm.image import load_image
from ftvm.machine import Machine
from ftvm.pair.debug_wire import NAME, VERSION, Kind, MessageReader, decode_chunk, decode_executed
from ftvm.pair.ram_feed import decode_pages
from ftvm.recording import Recording, header_of
from ftvm.scratch_disk import ScratchDisk
from ftvm.state_dir import StateDir
from ftvm.world.unix_listener import connect_unix
from logging_channel.errors import ChannelError
from replay.errors import LogError

CONNECT_S: Final = 10.0
MOMENT_S: Final = 60.0  # without a byte of the moment
FLUSH_S: Final = 0.1
JOIN_S: Final = 5.0


class Attached:
    """One connection to a backup. ChannelError, LogError, ConfigError, ImageError.

    When this is made, `log` holds the moment that the backup gave, and all until this side came.
    """

    def __init__(
        self,
        state: StateDir,
        side: str,
        log: Path,
        say: Callable[[str], None] = lambda text: None,
        progress: Callable[[int], None] = lambda pieces: None,
    ) -> None:
        """Takes a moment of the backup's machine; `progress` hears of MiB that have come."""
        self.log = log
        self.over = ""
        """Why nothing more comes; empty while it does."""
        self._say = say
        self._closing = False
        self._present = 0
        self._is_present = threading.Event()
        path = state.side(side) / NAME
        try:
            self._connection = connect_unix(path, CONNECT_S)
        except OSError as error:
            raise ChannelError(f"side {side} is no backup that can be looked at ({path}: {error.strerror})") from None
        try:
            self._connection.settimeout(MOMENT_S)
            self._reader = MessageReader(self._connection)
            self.sequence, self._recording = self._take(load(state.machine), progress)
        except BaseException:
            self._connection.close()
            raise
        self._connection.settimeout(FLUSH_S)
        self._thread = threading.Thread(target=self._follow, name="attached", daemon=True)
        self._thread.start()
        self._is_present.wait(MOMENT_S)

    def _take(self, config: MachineConfig, progress: Callable[[int], None]) -> tuple[int, Recording]:
        """The moment, as the beginning of the log; the entry before it."""
        try:
            return self._taken(config, progress)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ChannelError(f"the backup's moment cannot be understood: {error!r}") from None

    def _taken(self, config: MachineConfig, progress: Callable[[int], None]) -> tuple[int, Recording]:
        sequence, sizes = self._hello(config)
        image = load_image(config)
        disks = [ScratchDisk(size) for size in sizes]
        machine = Machine(config, image, disks)
        try:
            machine.clear_ram()
            self._fill(machine, disks, progress)
            if machine.sequence != sequence:
                raise ChannelError(f"the backup's moment is of entry {machine.sequence}, not {sequence}: no backup")
            header = header_of(config, image, to_toml(config).encode())
            recording = Recording.begin(self.log, header, machine, disks)
            recording.flush()
            return sequence, recording
        finally:
            machine.close()

    def _hello(self, config: MachineConfig) -> tuple[int, list[int]]:
        kind, body = self._next()
        if kind == Kind.BYE:
            raise ChannelError(body.decode("utf-8", "replace"))
        fields: Any = msgpack.unpackb(body) if kind == Kind.HELLO else None
        if not isinstance(fields, list) or len(fields) != 5 or fields[0] != VERSION:
            raise ChannelError("the backup speaks another version of this: use the ftvm that the pair runs with")
        _, sequence, self._present, digest, sizes = fields
        if digest != config.digest() or len(sizes) != len(config.disk):
            raise ChannelError("the backup runs another machine than the state directory's machine.toml describes")
        return sequence, sizes

    def _fill(self, machine: Machine, disks: list[ScratchDisk], progress: Callable[[int], None]) -> None:
        sections: list[tuple[str, bytes]] = []
        come = told = 0
        while (found := self._next())[0] != Kind.WHOLE:
            kind, body = found
            if kind == Kind.BYE:
                raise ChannelError(body.decode("utf-8", "replace"))
            if kind == Kind.SECTION:
                name, content = msgpack.unpackb(body)
                sections.append((name, content))
            elif kind == Kind.RAM:
                machine.put_pages(decode_pages(body))
            elif kind == Kind.CHUNK:
                unit, index, content = decode_chunk(body)
                disks[unit].write_chunk(index, content)
            come += len(body)
            progress((come >> 20) - told)
            told = come >> 20
        try:
            machine.restore_state(sections)
        except ValueError as error:
            raise ChannelError(f"the backup's moment cannot be taken: {error}") from None

    def _next(self) -> tuple[int, bytes]:
        found = self._reader.receive()
        if found is None:
            raise ChannelError(f"the backup has sent nothing for {MOMENT_S:g} s")
        return found

    # -- the thread -------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        try:
            self._reached(self.sequence)
            while not self._closing:
                found = self._reader.receive()
                now = time.monotonic()
                if found is not None and found[0] == Kind.ENTRY:
                    entry, result = decode_executed(found[1])
                    self._recording.append(entry, result, now)
                    self._reached(entry.sequence)
                elif found is not None and found[0] == Kind.BYE:
                    self._ended(found[1].decode("utf-8", "replace"))
                    return
                self._recording.tick(now)
        except (ChannelError, LogError) as error:
            self._ended(str(error))

    def _reached(self, sequence: int) -> None:
        """All up to where the backup was when this side came is in the log."""
        if sequence >= self._present and not self._is_present.is_set():
            self._recording.flush()
            self._is_present.set()

    def _ended(self, why: str) -> None:
        with suppress(LogError):
            self._recording.flush()
        self.over = why
        self._is_present.set()
        if not self._closing:
            self._say(f"nothing more comes from the pair: {why}; what has come stays")

    def close(self) -> None:
        """Let go of the backup; the log is complete up to here."""
        self._closing = True
        self._thread.join(JOIN_S)
        self._connection.close()
        with suppress(LogError):
            self._recording.close()
