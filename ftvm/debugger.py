# SPDX-License-Identifier: GPL-2.0-or-later
"""`Debugger`: a recording opened for a look at it: its machine, its timeline, registers and memory at any place.

with Debugger.open(Path("crash.log")) as debugger:
    debugger.timeline.seek(debugger.timeline.end)
    debugger.registers()["pc"], debugger.read(0xffffffff80000000, 16)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final, Self

from ftvm.board import RAM_BASE
from ftvm.checkpoints import load, make
from ftvm.config_kernel import bundled_guest
from ftvm.disassembly import Disassembler
from ftvm.first_ram import first_ram
from ftvm.hart import PAGE_SIZE, Hit, HitKind
from ftvm.replaying import Rebuilt, rebuild
from ftvm.symbol_file import symbol_file
from ftvm.symbols import Symbols
from ftvm.traveller import Still, Travelling
from replay.checkpoint_file import CheckpointFile
from replay.entries import Entries
from replay.errors import LogError
from replay.gdb.registers import BY_NUMBER
from replay.log_reader import LogReader
from replay.places import Places
from replay.position import Position
from replay.scouts import scouts_at_once
from replay.timeline import Stop, Timeline, Why

ADDRESSES: Final = 1 << 64
LENGTH_MAX: Final = 4096  # of what is asked for at once


class Debugger:
    """What replay/gdb asks of a target, and more."""

    def __init__(self, reader: LogReader, rebuilt: Rebuilt, *, verify: bool = True) -> None:
        self.reader = reader
        self.machine = rebuilt.machine
        self.hart = rebuilt.machine.hart
        self.disks = rebuilt.disks
        self._rebuilt = rebuilt
        self.images = rebuilt.files
        """Of a pack: its kernel and initrd."""
        self.checkpoints: CheckpointFile | None = None
        state = reader.state()
        if state is not None:
            rebuilt.restore(state.sections)
        first = first_ram(rebuilt.machine.image.segments, [] if state is None else state.sections)
        self.traveller = Travelling(rebuilt.machine, rebuilt.disks, first)
        self.timeline: Timeline[Still, Hit] = Timeline(self.traveller, Entries(reader), verify=verify)
        self.timeline.scouts = scouts_at_once()
        self.places = Places(self.timeline)

    @classmethod
    def open(
        cls, path: Path, machine_file: Path | None = None, *, verify: bool = True, checkpoints: bool = True
    ) -> Self:
        """The recording at its beginning, with the checkpoints it has; LogError, ConfigError or ImageError."""
        reader = LogReader(path)
        try:
            rebuilt = rebuild(path, reader.header, machine_file, debug=True)
        except BaseException:
            reader.close()
            raise
        debugger = cls(reader, rebuilt, verify=verify)
        try:
            if checkpoints:
                debugger.checkpoints = load(debugger.timeline, debugger.traveller, path, reader.header)
        except BaseException:
            debugger.close()
            raise
        return debugger

    def make_checkpoints(self, progress: Callable[[int], None] = lambda entries: None) -> tuple[Path, int]:
        """Replay it all and write `LOG.ckpt`; its path, and how many there are in it. Divergence, LogError."""
        return make(self.timeline, self.traveller, self.reader.path, self.reader.header, progress)

    @cached_property
    def symbols(self) -> Symbols:
        """The kernel's, or those of the file that was given instead."""
        if self.images is not None:
            return Symbols.in_content(self.images["kernel"])
        config = self.machine.config
        guest = config.kernel_path or bundled_guest(config.machine.kernel)
        return Symbols.of(guest)

    def take_symbols(self, path: Path | None) -> None:
        """Those of a System.map, an ELF file or a kernel instead of the kernel's; LogError when it has none."""
        if path is not None:
            self.symbols = Symbols.of(path)
            if not self.symbols.all:
                raise LogError(f"{path}: no symbols; an ELF file, a Linux kernel or a System.map has some")

    @cached_property
    def symbol_file(self) -> bytes:
        """The same as an ELF file, for GDB; empty when there are none."""
        return self.symbols.elf or (symbol_file(self.symbols.all) if self.symbols.all else b"")

    def tell_progress(self, progress: Callable[[int], None]) -> None:
        """On long ways, `progress` hears of entries done."""
        furthest = self.timeline.position.sequence

        def tell() -> bool:
            nonlocal furthest
            done = self.timeline.position.sequence
            progress(max(0, done - furthest))
            furthest = max(furthest, done)
            return False

        self.timeline.interrupted = tell

    def parentage(self, place: Position) -> dict[str, str]:
        """What the header of a recording that begins at a place of this one notes of it."""
        return {"parent": str(self.reader.path.absolute()), "parent position": str(place)}

    def registers(self) -> Mapping[str, int]:
        """By name: x1 to x31, f0 to f31, pc, CSRs, priv; clock, time, entry."""
        return self.hart.registers() | {"entry": self.timeline.position.sequence}

    def read(self, address: int, length: int, *, physical: bool = False) -> bytes:
        """Memory as the guest sees it now, as far as it is RAM; shorter, or empty, where it is not."""
        found = bytearray()
        while length > 0 and address < ADDRESSES:
            part = min(length, PAGE_SIZE - address % PAGE_SIZE)
            at = address if physical else self.hart.translate(address)
            if at is None or not 0 <= at - RAM_BASE <= len(self.hart.ram) - part:
                break
            found += self.hart.ram[at - RAM_BASE : at - RAM_BASE + part]
            address, length = address + part, length - part
        return bytes(found)

    def to_physical(self, address: int) -> int | None:
        """The physical address behind a virtual one, where it is RAM."""
        at = self.hart.translate(address)
        return at if at is not None and 0 <= at - RAM_BASE < len(self.hart.ram) else None

    def last_write(self, physical: int, length: int, before: Position | None = None) -> Stop[Hit] | None:
        """Goes to in front of the last write to a physical range before a position (else here); None: there is none."""
        timeline = self.timeline
        if before is not None:
            timeline.seek(before)
        timeline.set_breakpoints(())
        timeline.set_watched([(physical, length, 2)])
        try:
            stop = timeline.run_back()
        finally:
            timeline.set_watched(())
        return stop if stop.why == Why.WATCH else None

    def monitor(self, words: list[str]) -> str | None:
        """Commands of a debugger that need the machine; None for one that is not known."""
        if words == ["where"]:
            return self._tell_where()
        if words[:1] == ["digest"]:
            return self._tell_digest()
        if words[:1] == ["last-write"] and len(words) in (2, 3):
            return self._tell_last_write(self._address(words[1]), _length(words[2]) if len(words) == 3 else 8)
        return None

    def _register(self, word: str) -> int:
        source = next((each.source for each in BY_NUMBER.values() if each.name == word[1:]), word[1:])
        if source not in (values := self.registers()):
            raise ValueError(f"there is no register {word}")
        return values[source]

    def _tell_where(self) -> str:
        pc = self.registers()["pc"]
        function = self.symbols.name(pc)
        instruction = Disassembler().at(pc, self.read)
        return f"{self.timeline.position}: {f'{function}, ' if function else ''}{instruction}\n"

    def _address(self, word: str) -> int:
        """A number, a register as GDB writes it, or a symbol."""
        if word.startswith("$"):
            return self._register(word)
        named = self.symbols.address(word)
        found = int(word, 0) if named is None else named
        if not 0 <= found < ADDRESSES:
            raise ValueError(f"{word} is no address")
        return found

    def _tell_digest(self) -> str:
        if self.timeline.inside:
            return "a digest is taken between entries only: monitor seek entry N\n"
        return f"{self.machine.digest():016x}\n"

    def _tell_last_write(self, address: int, length: int) -> str:
        here = self.timeline.position
        physical = self.to_physical(address)
        if physical is None:
            return f"{address:#x} is not mapped to RAM here\n"
        old_end = self.read(address, length)
        stop = self.last_write(physical, length)
        if stop is None or stop.hit is None:
            self.timeline.seek(here)
            return f"nothing has written to {address:#x} before here\n"
        pc, hit = self.registers()["pc"], stop.hit
        old = self.read(address, length)
        self.timeline.seek(here)
        who = "a device, asked by the instruction at" if hit.kind == HitKind.DEVICE else "the instruction at"
        name = f" ({function})" if (function := self.symbols.name(pc)) else ""
        bytes_then = f"{old.hex()} before, {old_end.hex()} now (bytes in memory order)"
        return f"{stop.position}: {who} pc {pc:#x}{name}; {bytes_then}\n"

    def close(self) -> None:
        """Release machine and log."""
        self._rebuilt.close()
        self.reader.close()
        if self.checkpoints is not None:
            self.checkpoints.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _length(word: str) -> int:
    length = int(word, 0)
    if not 0 < length <= LENGTH_MAX:
        raise ValueError(f"1 to {LENGTH_MAX} bytes, not {word}")
    return length
