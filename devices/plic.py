# SPDX-License-Identifier: GPL-2.0-or-later
"""Platform-level interrupt controller (RISC-V PLIC 1.0.0; SiFive FU540-C000 manual, chapter 10), as QEMU's `virt`.

| offset            | register                          | section     |
|-------------------|-----------------------------------|-------------|
| 0x000000 + 4 n    | priority of source n, 0 = never   | PLIC 4      |
| 0x001000 + 4 w    | pending bits, 32 a word           | PLIC 5      |
| 0x002080 + 4 w    | enable bits of context 1          | PLIC 6      |
| 0x201000          | priority threshold of context 1   | PLIC 7      |
| 0x201004          | claim (read), complete (write)    | PLIC 8, 9   |

Context 1 is hart 0 in S-mode; context 0 (M-mode) exists only as registers that read as zero. All 32-bit accesses.

Each source's gateway, level-triggered: a high line makes the source pending; a claim takes the pending bit and closes
the gateway; the completion opens it again, and a line that is still high is pending at once. A line that falls while
pending leaves the request present, as the specification says.
"""

from __future__ import annotations

from collections.abc import Callable

from devices.device import Device, Line, State

SOURCES = 53  # Highest source number; `riscv,ndev` in the device tree.
PRIORITY_MAX = 7

PRIORITY = 0x000000
PENDING = 0x001000
ENABLE = 0x002080
THRESHOLD = 0x201000
CLAIM = 0x201004

_WORDS = (SOURCES + 32) // 32
_ALL = ((1 << (SOURCES + 1)) - 1) & ~1  # Source 0 does not exist.


class Plic(Device):
    """One interrupt controller with one S-mode context; bit n of each set is source n."""

    size = 0x600000

    def __init__(self, set_external: Callable[[bool], None]) -> None:
        """`set_external(level)` drives the hart's supervisor external interrupt; called on changes."""
        self._set_external = set_external
        self._priority = [0] * (SOURCES + 1)
        self._threshold = 0
        self._levels = 0  # lines that are high
        self._pending = 0
        self._claimed = 0  # gateways closed until completion
        self._enabled = 0
        self._external = False

    def line(self, source: int) -> Line:
        """The interrupt line of `source`, for a device's constructor."""
        assert 1 <= source <= SOURCES
        bit = 1 << source

        def drive(level: bool) -> None:
            if level:
                if not self._levels & bit:
                    self._levels |= bit
                    if not self._claimed & bit:
                        self._pending |= bit
                        self._update()
            else:
                self._levels &= ~bit

        return drive

    def _best(self) -> tuple[int, int]:
        """(priority, source) of the pending and enabled source to serve first; (0, 0) when there is none."""
        candidates = self._pending & self._enabled
        best, source = 0, 0
        while candidates:
            lowest = candidates & -candidates
            candidates ^= lowest
            number = lowest.bit_length() - 1
            if self._priority[number] > best:
                best, source = self._priority[number], number
        return best, source

    def _update(self) -> None:
        external = bool(self._pending & self._enabled) and self._best()[0] > self._threshold
        if external != self._external:
            self._external = external
            self._set_external(external)

    def _claim(self) -> int:
        source = self._best()[1]  # The threshold does not affect claims (PLIC 8).
        if source:
            bit = 1 << source
            self._pending &= ~bit
            self._claimed |= bit
            self._update()
        return source

    def _complete(self, source: int) -> None:
        bit = 1 << source if source <= SOURCES else 0
        if self._claimed & self._enabled & bit:  # Of a source not enabled for the context: ignored (PLIC 9).
            self._claimed &= ~bit
            self._pending |= self._levels & bit
            self._update()

    def read(self, offset: int, size: int) -> int:
        """Reads a register; reading CLAIM claims."""
        if size != 4:
            return 0
        if offset == CLAIM:
            return self._claim()
        if offset == THRESHOLD:
            return self._threshold
        word = (offset & 0x7F) >> 2
        if offset & 3:
            return 0
        if offset <= PRIORITY + 4 * SOURCES:
            return self._priority[offset >> 2]
        if PENDING <= offset < PENDING + 4 * _WORDS:
            return self._pending >> 32 * word & 0xFFFFFFFF
        if ENABLE <= offset < ENABLE + 4 * _WORDS:
            return self._enabled >> 32 * word & 0xFFFFFFFF
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Writes a register; writing CLAIM completes."""
        if size != 4 or offset & 3:
            return
        if offset == CLAIM:
            self._complete(value)
            return
        if offset == THRESHOLD:
            self._threshold = value & PRIORITY_MAX
        elif PRIORITY < offset <= PRIORITY + 4 * SOURCES:
            self._priority[offset >> 2] = value & PRIORITY_MAX
        elif ENABLE <= offset < ENABLE + 4 * _WORDS:
            shift = 8 * (offset - ENABLE)
            self._enabled = (self._enabled & ~(0xFFFFFFFF << shift) | value << shift) & _ALL
        else:
            return
        self._update()

    def reset(self) -> None:
        """Clears everything but the lines, which belong to the devices."""
        self._priority = [0] * (SOURCES + 1)
        self._threshold = self._claimed = self._enabled = 0
        self._pending = self._levels
        self._update()

    def save(self) -> State:
        """Sets of sources are little-endian bytes: they are wider than an integer of msgpack."""
        sets = (self._levels, self._pending, self._claimed, self._enabled)
        return {
            "priority": bytes(self._priority),
            "threshold": self._threshold,
            "sets": [value.to_bytes(4 * _WORDS, "little") for value in sets],
            "external": int(self._external),
        }

    def restore(self, state: State) -> None:
        """Takes `state` over and drives the hart's interrupt to match."""
        if len(state["priority"]) != SOURCES + 1:
            raise ValueError(f"the PLIC's state is of {len(state['priority']) - 1} sources, this one has {SOURCES}")
        self._priority = list(state["priority"])
        self._threshold = state["threshold"]
        sets = [int.from_bytes(value, "little") & _ALL for value in state["sets"]]
        self._levels, self._pending, self._claimed, self._enabled = sets
        self._external = bool(state["external"])
        self._set_external(self._external)
