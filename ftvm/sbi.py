# SPDX-License-Identifier: GPL-2.0-or-later
"""SBI calls that are not on the hot path: console and system reset (RISC-V SBI specification 2.0, chapters 5, 10, 12).

The C core answers BASE, TIME, IPI, RFENCE and HSM itself (`ftvm/core/sbi.c`); everything else comes here with its
extension id, function id and six arguments, and gets (error, value) back. For legacy extensions only `value` reaches
the guest (in a0). BASE's probe of an extension that the core does not know comes here, too.

`EXTENSIONS` is the whole of it: what is not in that table is not supported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from devices.guest_error import GuestError

LEGACY_PUTCHAR: Final = 0x01
LEGACY_GETCHAR: Final = 0x02
LEGACY_SHUTDOWN: Final = 0x08
LEGACY_LAST: Final = 0x0F
BASE: Final = 0x10
BASE_PROBE: Final = 3
DEBUG_CONSOLE: Final = 0x4442434E  # "DBCN"
SYSTEM_RESET: Final = 0x53525354  # "SRST"

SUCCESS: Final = 0
FAILED: Final = -1
NOT_SUPPORTED: Final = -2
INVALID_PARAM: Final = -3

WRITE_MAX: Final = 4096  # bytes that one call moves
RESET_ACTIONS: Final = ("poweroff", "reset", "reset")  # shutdown, cold reboot, warm reboot
REASON_NONE: Final = 0
REASON_MAX: Final = 1  # system failure

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
        if extension == BASE and function == BASE_PROBE:
            return SUCCESS, int(args[0] in EXTENSIONS)
        found = EXTENSIONS.get(extension)
        if found is None:
            return NOT_SUPPORTED, NOT_SUPPORTED if extension <= LEGACY_LAST else 0
        if extension <= LEGACY_LAST:
            function = 0  # legacy calls have none, whatever a6 holds
        if function >= len(found.functions):
            return NOT_SUPPORTED, 0
        return found.functions[function].serve(self, args)

    def _put(self, args: Args) -> tuple[int, int]:
        self._console.put(bytes([args[0] & 0xFF]))
        return SUCCESS, 0

    def _get(self, args: Args) -> tuple[int, int]:
        typed = self._console.take(1)
        return SUCCESS, typed[0] if typed else -1

    def _shutdown(self, args: Args) -> tuple[int, int]:
        self._power("poweroff", REASON_NONE)
        return SUCCESS, 0

    def _console_write(self, args: Args) -> tuple[int, int]:
        length, address = _buffer(args)
        try:
            self._console.put(self._read(address, length))
        except GuestError:
            return INVALID_PARAM, 0
        return SUCCESS, length

    def _console_read(self, args: Args) -> tuple[int, int]:
        length, address = _buffer(args)
        try:
            self._read(address, length)  # the buffer must lie in RAM before any byte is consumed
            typed = self._console.take(length)
            self._write(address, typed)
        except GuestError:
            return INVALID_PARAM, 0
        return SUCCESS, len(typed)

    def _system_reset(self, args: Args) -> tuple[int, int]:
        kind, reason = args[0] & 0xFFFFFFFF, args[1] & 0xFFFFFFFF
        if kind >= len(RESET_ACTIONS) or reason > REASON_MAX:  # reserved, or of some platform that this is not
            return INVALID_PARAM, 0
        self._power(RESET_ACTIONS[kind], reason)
        return SUCCESS, 0


def _buffer(args: Args) -> tuple[int, int]:
    """Length and physical address of a buffer, as the debug console's calls give them."""
    return min(args[0], WRITE_MAX), args[1] | args[2] << 64


@dataclass(frozen=True, slots=True)
class Function:
    """One function of an extension; `does` is its line on the machine's reference page."""

    name: str
    serve: Callable[[Sbi, Args], tuple[int, int]]
    does: str


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension and its functions, from number 0."""

    name: str
    functions: tuple[Function, ...]


def _legacy(name: str, serve: Callable[[Sbi, Args], tuple[int, int]], does: str) -> Extension:
    return Extension(f"legacy {name}", (Function(name, serve, does),))


# They may reach into a class that is complete only now.
EXTENSIONS: Final = {
    LEGACY_PUTCHAR: _legacy("console_putchar", Sbi._put, "writes one byte to the console"),
    LEGACY_GETCHAR: _legacy("console_getchar", Sbi._get, "takes one typed byte; -1 when there is none"),
    LEGACY_SHUTDOWN: _legacy("shutdown", Sbi._shutdown, "switches the machine off"),
    DEBUG_CONSOLE: Extension(
        "DBCN",
        (
            Function("console_write", Sbi._console_write, f"writes up to {WRITE_MAX} bytes a call from RAM"),
            Function("console_read", Sbi._console_read, f"takes up to {WRITE_MAX} typed bytes; never waits"),
            Function("console_write_byte", Sbi._put, "writes one byte"),
        ),
    ),
    SYSTEM_RESET: Extension(
        "SRST",
        (
            Function(
                "system_reset",
                Sbi._system_reset,
                "switches off, or starts again from the images (cold and warm alike); with the reason "
                '"system failure" the guest has failed: it is restarted if the machine file says so, else it ends',
            ),
        ),
    ),
}
