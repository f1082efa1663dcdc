# SPDX-License-Identifier: GPL-2.0-or-later
"""SiFive test finisher: one write-only register that ends or restarts the machine (`sifive,test0`, `sifive,test1`).

| offset | bits 15..0 | effect                                 |
|--------|------------|----------------------------------------|
| 0x0    | 0x5555     | PASS: power off                        |
| 0x0    | 0x3333     | FAIL: stop, exit status in bits 31..16 |
| 0x0    | 0x7777     | RESET: start again                     |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from devices.device import Device, State

Power = Literal["poweroff", "reset", "fail"]

FINISHER_PASS = 0x5555
FINISHER_FAIL = 0x3333
FINISHER_RESET = 0x7777

_CODES: dict[int, Power] = {FINISHER_PASS: "poweroff", FINISHER_FAIL: "fail", FINISHER_RESET: "reset"}


class Finisher(Device):
    """Calls `power(code, status)` when the guest asks for the end."""

    size = 0x1000

    def __init__(self, power: Callable[[Power, int], None]) -> None:
        self._power = power

    def read(self, offset: int, size: int) -> int:
        """Reads as zero."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Acts on a known code at offset 0, ignores everything else."""
        code = _CODES.get(value & 0xFFFF)
        if offset == 0 and code is not None and size >= 2:
            self._power(code, value >> 16 & 0xFFFF)

    def reset(self) -> None:
        """Has no state."""

    def save(self) -> State:
        """Has no state."""
        return {}

    def restore(self, state: State) -> None:
        """Has no state."""
