# SPDX-License-Identifier: GPL-2.0-or-later
"""A hart with a recording stand-in for its devices and firmware, for tests."""

from __future__ import annotations

from collections.abc import Callable

from ftvm.hart import RAM_BASE, Hart, StopReason
from tests.ftvm.asm import Asm

MIB = 1 << 20
SBI_TIME = 0x5449_4D45
SBI_SHUTDOWN = 8  # legacy: here it stops the hart
UART = 0x1000_0000
PLIC = 0x0C00_0000


class Guest:
    """Machine code in a hart; what it does to devices and firmware is recorded and may be answered by hooks."""

    def __init__(self, *, ram: int = 4 * MIB, clock_hook: bool = True, debug: bool = False) -> None:
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int, int]] = []
        self.calls: list[tuple[int, int, int]] = []
        self.on_read: Callable[[int, int], int] = lambda address, size: 0
        self.on_write: Callable[[int, int, int], None] = lambda address, size, value: None
        self.on_call: Callable[[int, int, tuple[int, ...]], tuple[int, int]] = lambda extension, function, args: (0, 0)
        self.hart = Hart(ram, self._read, self._write, self._call, clock_hook=clock_hook, debug=debug)

    def _read(self, address: int, size: int) -> int:
        self.reads.append((address, size))
        return self.on_read(address, size)

    def _write(self, address: int, size: int, value: int) -> None:
        self.writes.append((address, size, value))
        self.on_write(address, size, value)

    def _call(self, extension: int, function: int, args: tuple[int, ...]) -> tuple[int, int]:
        self.calls.append((extension, function, args[0]))
        if extension == SBI_SHUTDOWN:
            self.hart.stop()
        return self.on_call(extension, function, args)

    def load(self, code: Asm, *, start: int | None = None) -> None:
        """Put code into RAM and let the hart start at it."""
        self.hart.load_ram(code.base - RAM_BASE, code.image())
        self.hart.reset(code.base if start is None else start, 0, 0)

    def run(self, budget: int = 1_000_000, *, ticks: int = 0) -> StopReason:
        """One epoch from the present time, in which time may advance by `ticks`."""
        now = self.hart.time
        return self.hart.run(now, now + ticks, budget)

    def finish(self, budget: int = 10_000_000) -> None:
        """Run until the guest shuts down."""
        reason = self.run(budget)
        assert reason == StopReason.STOPPED, (reason, self.hart.error, self.registers())

    def registers(self) -> dict[str, int]:
        return self.hart.registers()

    def x(self, number: int) -> int:
        return self.hart.registers()[f"x{number}"]

    def words(self, address: int, count: int) -> list[int]:
        """64-bit words of RAM."""
        offset = address - RAM_BASE
        return [int.from_bytes(self.hart.ram[offset + 8 * i : offset + 8 * i + 8], "little") for i in range(count)]


def shutdown(code: Asm) -> None:
    """Instructions that end the test."""
    code.li("a7", SBI_SHUTDOWN)
    code.ecall()
    code.label(f"after_shutdown_{len(code.code)}")
    code.j(code.here)


class PageTables:
    """Sv39 tables of a guest, built by the host."""

    V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))

    def __init__(self, guest: Guest, root: int) -> None:
        self.guest = guest
        self.root = root
        self._free = root + 4096
        self._tables: dict[tuple[int, ...], int] = {(): root}

    @property
    def satp(self) -> int:
        return 8 << 60 | self.root >> 12

    def _put(self, address: int, entry: int) -> None:
        self.guest.hart.load_ram(address - RAM_BASE, entry.to_bytes(8, "little"))

    def _table(self, path: tuple[int, ...]) -> int:
        if path not in self._tables:
            self._tables[path] = self._free
            self._free += 4096
            self._put(self._table(path[:-1]) + 8 * path[-1], self._tables[path] >> 12 << 10 | 1)
        return self._tables[path]

    def entry_address(self, virtual: int, level: int = 0) -> int:
        path = tuple(virtual >> shift & 511 for shift in (30, 21, 12))[: 3 - level]
        return self._table(path[:-1]) + 8 * path[-1]

    def map(self, virtual: int, physical: int, flags: int, level: int = 0) -> None:
        """Map a page of 4 KiB (level 0), 2 MiB (1) or 1 GiB (2)."""
        self._put(self.entry_address(virtual, level), physical >> 12 << 10 | flags)
