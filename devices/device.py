# SPDX-License-Identifier: GPL-2.0-or-later
"""`Device`: what every piece of memory-mapped hardware is.

A device sees offsets into its own register window, never addresses, and gets what it needs from outside (guest memory,
interrupt line, output) in its constructor. It changes only by a guest access or a delivered event, so the same
accesses and events give the same state. Any offset, size (1, 2, 4 or 8) and value is answered: what the
specification does not define reads as zero and ignores writes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

#: What `save` returns: dicts, lists, str, bytes and integers within [-2**63, 2**64), so that msgpack carries it.
State = dict[str, Any]

#: Drives an interrupt line: True asserts it, False releases it. Level-triggered.
Line = Callable[[bool], None]


class Device(ABC):
    """Memory-mapped hardware with `size` bytes of registers."""

    size: int

    @abstractmethod
    def read(self, offset: int, size: int) -> int:
        """The guest reads `size` bytes at `offset`; returns an unsigned value below 2**(8 * size)."""

    @abstractmethod
    def write(self, offset: int, size: int, value: int) -> None:
        """The guest writes the unsigned `value` of `size` bytes at `offset`."""

    @abstractmethod
    def reset(self) -> None:
        """Power-on reset; input not yet read by the guest is lost, positions of output streams are kept."""

    @abstractmethod
    def save(self) -> State:
        """The whole state; a device restored from it continues exactly as this one."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Takes over a state that `save` returned; drives no line, since the interrupt controller saves its own."""
