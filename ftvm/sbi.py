# SPDX-License-Identifier: GPL-2.0-or-later
"""SBI calls that are not on the hot path: console and system reset (RISC-V SBI specification 2.0, chapters 5, 10, 12).

The C core answers BASE, TIME, IPI, RFENCE and HSM itself; everything else comes here with its extension id, function
id and six arguments, and gets (error, value) back. For legacy extensions only `value` reaches the guest (in a0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from devices.guest_error import GuestError

LEGACY_PUTCHAR: Final = 0x01
LEGACY_GETCHAR: Final = 0x02
LEGACY_SHUTDOWN: Final = 0x08
DEBUG_CONSOLE: Final = 0x4442434E  # "DBCN"
SYSTEM_RESET: Final = 0x53525354  # "SRST"

SUCCESS: Final = 0
NOT_SUPPORTED: Final = -2
INVALID_PARAM: Final = -3
FAILED: Final = -1

RESET_SHUTDOWN: Final = 0
REASON_NONE: Final = 0

Args = tuple[int, ...]


class ConsolePort(Protocol):
    """What the SBI console needs of the UART, so that there is one console stream."""

    def put(self, data: bytes) -> None: ...

    def take(self, limit: int) -> bytes: ...


class Sbi:
    """Serves the guest's environment calls."""

    def __init__(
        self,
        console: ConsolePort,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
        power: Callable[[str, int], None],
    ) -> None:
        """`read` and `write` reach guest RAM by physical address; `power(action, reason)` stops the hart."""
        self._console = console
        self._read = read
        self._write = write
        self._power = power

    def call(self, extension: int, function: int, args: Args) -> tuple[int, int]:
        """Answer one call: (SBI error, value)."""
        if extension == DEBUG_CONSOLE:
            return self._debug_console(function, args)
        if extension == SYSTEM_RESET:
            return self._system_reset(function, args)
        if extension == LEGACY_PUTCHAR:
            self._console.put(bytes([args[0] & 0xFF]))
            return SUCCESS, 0
        if extension == LEGACY_GETCHAR:
            typed = self._console.take(1)
            return SUCCESS, typed[0] if typed else -1
        if extension == LEGACY_SHUTDOWN:
            self._power("poweroff", REASON_NONE)
            return SUCCESS, 0
        return NOT_SUPPORTED, NOT_SUPPORTED if extension < 0x10 else 0

    def _debug_console(self, function: int, args: Args) -> tuple[int, int]:
        if function == 2:
            self._console.put(bytes([args[0] & 0xFF]))
            return SUCCESS, 0
        if function not in (0, 1):
            return NOT_SUPPORTED, 0
        length, address = min(args[0], 4096), args[1] | (args[2] << 64)
        try:
            if function == 0:
                self._console.put(self._read(address, length))
                return SUCCESS, length
            self._read(address, length)  # the buffer must lie in RAM before any byte is consumed
            typed = self._console.take(length)
            self._write(address, typed)
            return SUCCESS, len(typed)
        except GuestError:
            return INVALID_PARAM, 0

    def _system_reset(self, function: int, args: Args) -> tuple[int, int]:
        kind, reason = args[0] & 0xFFFFFFFF, args[1] & 0xFFFFFFFF
        if function != 0:
            return NOT_SUPPORTED, 0
        if kind > 2 or reason > 1:  # reserved, or of some platform that this is not
            return INVALID_PARAM, 0
        self._power("poweroff" if kind == RESET_SHUTDOWN else "reset", reason)
        return SUCCESS, 0
