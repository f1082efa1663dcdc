# SPDX-License-Identifier: GPL-2.0-or-later
"""The hart: one deterministic RISC-V 64 S-mode processor with its RAM, firmware calls (SBI) and clock.

This is the only file that knows the engine (Unicorn). The work is done in C (`ftvm/core`, module `ftvm._hart`); here
the engine's library is loaded so that the C core finds its functions, and its version is checked, since the core rests
on that version's internals.

One epoch is `run(time, time_max, budget)`: it ends at the first block entry where the clock has advanced by `budget`,
or at `wfi` with nothing pending, or because a callback asked for it, or because the guest is lost. Guest time in it is
`min(time + progress / BYTES_PER_TICK, time_max)` in ticks of 100 ns. Which of these, where, and with what state is a
function of the state before and these three numbers, and of what the callbacks answer.

Callbacks run inside `run`. They may use `clock`, `time`, `ram`, `writes`, `set_external` and `stop`; the rest raises
`RuntimeError` there. What they raise comes out of `run`, and the state is then undefined.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from importlib import metadata
from pathlib import Path
from typing import Protocol, cast

import unicorn

from ftvm.ram_snapshot import Pages, SnapshotSeries

ENGINE_VERSION = "2.1.4"
RAM_BASE = 0x8000_0000
PAGE_SIZE = 4096

MmioRead = Callable[[int, int], int]
"""(address, size) -> value"""
MmioWrite = Callable[[int, int, int], None]
"""(address, size, value)"""
Sbi = Callable[[int, int, tuple[int, ...]], tuple[int, int]]
"""(extension, function, (a0, ..., a5)) -> (error, value); for legacy extensions (below 16) a0 becomes value"""


class EngineError(ImportError):
    """The engine is missing or is not the one that the C core was made for."""


class StopReason(IntEnum):
    """Why an epoch ended."""

    LIMIT = 0
    """The budget is used up."""
    IDLE = 1
    """The guest waits for an interrupt and none is pending."""
    STOPPED = 2
    """A callback called `stop`."""
    GUEST_ERROR = 3
    """The guest is beyond help; `error` says why."""
    PAUSED = 4
    """A debugger's pause: the epoch is not over, `resume` goes on with it."""


class HitKind(IntEnum):
    """What a watched place has seen."""

    BREAKPOINT = 0
    READ = 1
    WRITE = 2
    DEVICE = 3
    """A device wrote, or the firmware; the clock is that of the instruction that asked for it."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One access to a watched place (by physical address), or one arrival at a breakpoint (by virtual address).

    The value of an arrival is `scause`, when a block of code begins there in S-mode: so where a trap's handler is.
    """

    clock: int
    address: int
    value: int
    size: int
    kind: HitKind


class _Core(Protocol):
    """What `ftvm._hart.Core` offers."""

    clock: int
    time: int
    deadline: int | None
    error: str

    def run(self, time: int, time_max: int, budget: int, /) -> int: ...
    def stop(self) -> None: ...
    def set_external(self, level: bool, /) -> None: ...
    def writes(self, address: int, length: int, /) -> None: ...
    def load_ram(self, offset: int, data: bytes | bytearray | memoryview, /) -> None: ...
    def zero_ram(self) -> None: ...
    def dirty(self) -> bytes: ...
    def clear_dirty(self) -> None: ...
    def put_pages(self, numbers: bytes, content: bytes, zeros: bytes, /) -> None: ...
    def series_open(self) -> int: ...
    def series_close(self, series: int, /) -> None: ...
    def series_changed(self, series: int, /) -> int: ...
    def snapshot_begin(self, series: int, changed: bool, exact: bool, /) -> int: ...
    def snapshot_end(self, series: int, /) -> None: ...
    def snapshot_state(self, series: int, /) -> tuple[int, int]: ...
    def snapshot_take(self, series: int, pages_max: int, /) -> tuple[bytes, bytes, bytes]: ...
    def snapshot_look(self, series: int, page: int, /) -> bytes | None: ...
    def digest(self) -> int: ...
    def save(self) -> bytes: ...
    def restore(self, state: bytes, keep_code: bool = False, /) -> None: ...
    def reset(self, pc: int, a0: int, a1: int, /) -> None: ...
    def registers(self) -> dict[str, int]: ...
    def counters(self) -> dict[str, int]: ...
    def pause_at(self, clock: int | None, /) -> None: ...
    def resume(self) -> int: ...
    def cut(self) -> None: ...
    def breakpoints(self, addresses: list[int], record: bool, /) -> None: ...
    def watch(self, ranges: list[tuple[int, int, int]], /) -> None: ...
    def hits(self) -> list[tuple[int, int, int, int, int]]: ...
    def translate(self, address: int, /) -> int | None: ...
    def close(self) -> None: ...


def check_engine(version: str) -> None:
    """Refuse any engine but the exact version that the core was written and tested against."""
    if version != ENGINE_VERSION:
        raise EngineError(
            f"ftvm needs exactly unicorn {ENGINE_VERSION}, found {version}: a guest would not run the same on both "
            f"sides of a pair. Install it with: pip install unicorn=={ENGINE_VERSION}"
        )


def _load_engine() -> None:
    """Make the engine's functions visible to the C core, which is linked against none."""
    check_engine(metadata.version("unicorn"))
    library = Path(unicorn.__file__).parent / "lib" / "libunicorn.so.2"
    if not library.exists():
        raise EngineError(f"the unicorn package has no {library}: ftvm needs its binary wheel for Linux")
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


_load_engine()

try:
    from ftvm import _hart  # type: ignore[attr-defined, unused-ignore]  # compiled from ftvm/core
except ImportError as error:
    raise EngineError(
        f"ftvm's C core is not usable ({error}). It is compiled when ftvm is installed and needs gcc and python3-dev: "
        "apt-get install gcc python3-dev, then pip install ."
    ) from error

BYTES_PER_TICK: int = _hart.BYTES_PER_TICK
BARREN_TRAPS_MAX: int = _hart.BARREN_TRAPS_MAX
WINDOWS: tuple[tuple[int, int], ...] = _hart.WINDOWS
"""(base, size) of where devices may be: an access to anything else but RAM is an access fault."""
FIRMWARE: tuple[tuple[int, str, tuple[tuple[str, str], ...]], ...] = _hart.FIRMWARE
"""SBI extensions that the core serves: (id, name, ((function, what it does), ...)), functions from number 0."""


class Hart:
    """One hart and its RAM. Not for use by several threads at once; `run` lets other threads of Python go on."""

    def __init__(
        self,
        ram_size: int,
        mmio_read: MmioRead,
        mmio_write: MmioWrite,
        sbi: Sbi,
        *,
        clock_hook: bool = True,
        debug: bool = False,
    ) -> None:
        """With `debug`, the hart can pause inside an epoch, a little slower for it.

        `clock_hook=False` is for benchmarks only: no clock, so no budget, no timer, and no end but `wfi`.
        """
        self._core = cast(_Core, _hart.Core(ram_size, mmio_read, mmio_write, sbi, clock_hook, debug))
        self.ram = memoryview(self._core)  # type: ignore[arg-type]
        """All of RAM, writable. Before writing to it, call `writes`."""

    @property
    def clock(self) -> int:
        """Bytes of retired code plus one per synchronous trap; in a callback, as of the entry of the running block."""
        return self._core.clock

    @property
    def time(self) -> int:
        """Guest time in ticks; in a callback, as of the entry of the running block."""
        return self._core.time

    @property
    def deadline(self) -> int | None:
        """Guest time at which the armed timer falls due; None if it is not armed or due already."""
        return self._core.deadline

    @property
    def error(self) -> str:
        """After GUEST_ERROR: what the guest did."""
        return self._core.error

    def run(self, time: int, time_max: int, budget: int) -> StopReason:
        """Run one epoch. `time` is not below the present guest time, and `budget` is in units of the clock."""
        return StopReason(self._core.run(time, time_max, budget))

    def stop(self) -> None:
        """From a callback: end the epoch at the next block entry."""
        self._core.stop()

    def set_external(self, level: bool) -> None:
        """The level of the external interrupt line."""
        self._core.set_external(level)

    def writes(self, address: int, length: int) -> None:
        """The host is about to write these bytes of RAM, before the guest runs on.

        Code translated from them is dropped, their pages are dirty, what a snapshot still needs of them is kept.
        """
        self._core.writes(address, length)

    def load_ram(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` into RAM and call `writes` for it."""
        self._core.load_ram(offset, data)

    def zero_ram(self) -> None:
        """All of RAM becomes zero, at the cost of unmapping it; every page is dirty."""
        self._core.zero_ram()

    def dirty(self) -> bytes:
        """One bit a page, lowest bit first: written by guest, walker or host since the last `clear_dirty`."""
        return self._core.dirty()

    def clear_dirty(self) -> None:
        """No page is dirty. Flushes the TLB."""
        self._core.clear_dirty()

    def snapshots(self) -> SnapshotSeries:
        """A new series of snapshots of RAM; a hart has room for seven."""
        return SnapshotSeries(self._core)

    def put_pages(self, pages: Pages) -> None:
        """Write pages into RAM; ValueError when one is outside."""
        self._core.put_pages(pages.numbers, pages.content, pages.zeros)

    def digest(self) -> int:
        """64 bits over registers, clock, timer, interrupt lines and all device accesses so far; not over RAM."""
        return self._core.digest()

    def save(self) -> bytes:
        """All state but RAM, in a versioned form that any process may restore."""
        return self._core.save()

    def restore(self, state: bytes, *, keep_code: bool = False) -> None:
        """The state that `save` gave; ValueError says what is wrong with it. RAM is the caller's to restore.

        With `keep_code`, translations stay: only for a caller that has told of every byte that it wrote (`writes`).
        """
        self._core.restore(state, keep_code)

    def reset(self, pc: int, a0: int, a1: int) -> None:
        """A cold hart in S-mode at `pc`, timer not armed. Clock and guest time go on; RAM is as it is."""
        self._core.reset(pc, a0, a1)

    def registers(self) -> dict[str, int]:
        """Everything that `save` holds, by name, for reports; while paused, `fcsr` is 0 if sstatus.FS is off."""
        return self._core.registers()

    def counters(self) -> dict[str, int]:
        """What the core did, for tests and benchmarks. Not deterministic."""
        return self._core.counters()

    # -- for a debugger ------------------------------------------------------------------------------------------

    def pause_at(self, clock: int | None) -> None:
        """`run` and `resume` return PAUSED before the first instruction that begins at this clock or later, or never.

        Inside an epoch only: one that ends at this very clock ends. The guest cannot notice a pause.
        """
        self._core.pause_at(clock)

    def resume(self) -> StopReason:
        """Go on with the epoch that has paused."""
        return StopReason(self._core.resume())

    def cut(self) -> None:
        """End the epoch that has paused where it stands: then it is one that had a smaller budget."""
        self._core.cut()

    def breakpoints(self, addresses: Iterable[int], *, record: bool = False) -> None:
        """Pause before these instructions (virtual addresses, any address space); with `record`, only note the hits."""
        self._core.breakpoints(list(addresses), record)

    def watch(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Note accesses to (physical address, length, 1: reads | 2: writes); all accesses get slower meanwhile."""
        self._core.watch(list(ranges))

    def hits(self) -> list[Hit]:
        """What breakpoints that record, and watched places, have seen since the last call, in order."""
        return [Hit(clock, at, value, size, HitKind(kind)) for clock, at, value, size, kind in self._core.hits()]

    def translate(self, address: int) -> int | None:
        """The physical address behind a virtual one, by the guest's present page tables; None where there is none."""
        return self._core.translate(address)

    def close(self) -> None:
        """Free the engine. RAM lives as long as someone looks at it."""
        self._core.close()
