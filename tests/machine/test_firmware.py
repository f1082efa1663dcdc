# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware calls that reach the machine: debug console, system reset, legacy console (SBI 2.0, chapters 5, 10, 12)."""

from __future__ import annotations

import pytest

from devices.event import Event, EventKind
from ftvm.board import RAM_BASE
from ftvm.machine import EpochEnd
from ftvm.sbi import (
    BASE,
    BASE_PROBE,
    DEBUG_CONSOLE,
    INVALID_PARAM,
    LEGACY_GETCHAR,
    LEGACY_PUTCHAR,
    LEGACY_SHUTDOWN,
    SYSTEM_RESET,
)
from tests.ftvm.asm import Asm
from tests.machine.box import ENTRY, MIB, Box, config_of
from tests.machine.code import DATA, firmware, keep, power_off, spin
from tests.machine.conftest import MakeBox

END = RAM_BASE + 16 * MIB
ALL_ONES = (1 << 64) - 1
TEXT = DATA + 0x1000


def signed(value: int) -> int:
    """A register as a signed number."""
    return value - (value >> 63 << 64)


def test_debug_console_writes_what_is_in_ram(make: MakeBox) -> None:
    """At most a page a call, and nothing from outside RAM."""
    code = Asm(ENTRY)
    calls = [
        (0, (5, TEXT, 0), (0, 5)),
        (0, (0, TEXT, 0), (0, 0)),
        (0, (10_000, TEXT, 0), (0, 4096)),
        (0, (4, END - 4, 0), (0, 4)),
        (0, (5, END - 4, 0), (INVALID_PARAM, 0)),
        (0, (1, RAM_BASE - 1, 0), (INVALID_PARAM, 0)),
        (0, (1, TEXT, 1), (INVALID_PARAM, 0)),
        (0, (ALL_ONES, ALL_ONES, ALL_ONES), (INVALID_PARAM, 0)),
        (0, (8, 0x1000_0000, 0), (INVALID_PARAM, 0)),
        (1, (8, END - 4, 0), (INVALID_PARAM, 0)),
        (1, (8, 0, 0), (INVALID_PARAM, 0)),
        (2, (0x141, 0, 0), (0, 0)),
        (3, (0, 0, 0), (-2, 0)),
        (ALL_ONES, (0, 0, 0), (-2, 0)),
    ]
    for index, (function, args, _) in enumerate(calls):
        firmware(code, DEBUG_CONSOLE, function, args, index)
    power_off(code)
    code.at(TEXT)
    code.code += b"hello" + b"-" * 5000
    box = make(code)
    assert box.to_the_end() == EpochEnd.POWEROFF
    words = box.words(DATA, 2 * len(calls))
    answers = [(signed(words[2 * n]), words[2 * n + 1]) for n in range(len(calls))]
    assert answers == [answer for _, _, answer in calls]
    assert box.console == "hello" + "hello" + "-" * 4091 + "\0" * 4 + "A"


def test_debug_console_reads_what_was_typed(make: MakeBox) -> None:
    """As much as fits; what does not stays for the next call."""
    code = Asm(ENTRY)
    code.label("wait")
    code.li("a0", 4)
    code.li("a1", TEXT)
    code.li("a2", 0)
    code.sbi(DEBUG_CONSOLE, 1)
    code.beqz("a1", "wait")
    keep(code, "a1", 0)
    firmware(code, DEBUG_CONSOLE, 1, (100, TEXT + 4, 0), 1)
    firmware(code, DEBUG_CONSOLE, 1, (100, TEXT + 100, 0), 2)
    power_off(code)
    box = make(code)
    box.run(budget=2000)
    box.run(Event(EventKind.CONSOLE_INPUT, 0, b"abcdefg"))
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert box.words(DATA, 6) == [4, 0, 0, 3, 0, 0]
    assert box.ram(TEXT, 8) == b"abcdefg\0"


def test_the_legacy_console_talks_and_listens(make: MakeBox) -> None:
    """Only a0 carries an answer; nothing typed is -1."""
    code = Asm(ENTRY)
    code.li("a1", 0x55)
    code.li("a0", ord("x"))
    code.sbi(LEGACY_PUTCHAR)
    keep(code, "a0", 0)
    keep(code, "a1", 1)
    code.sbi(LEGACY_GETCHAR)
    keep(code, "a0", 2)
    code.label("wait")
    code.sbi(LEGACY_GETCHAR)
    code.blt("a0", "zero", "wait")
    keep(code, "a0", 3)
    code.sbi(LEGACY_SHUTDOWN)
    spin(code)
    box = make(code)
    box.run(budget=2000)
    box.run(Event(EventKind.CONSOLE_INPUT, 0, b"\xf0"))
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert box.words(DATA, 4) == [0, 0x55, ALL_ONES, 0xF0]
    assert box.console == "x"


RESETS = [
    (0, 0, EpochEnd.POWEROFF),
    (1, 0, EpochEnd.RESET),
    (2, 0, EpochEnd.RESET),
    (0, 1, EpochEnd.FAILED),
    (1, 1, EpochEnd.FAILED),
    (2, 1, EpochEnd.FAILED),
]


@pytest.mark.parametrize(("kind", "reason", "end"), RESETS)
def test_system_reset_ends_or_restarts(kind: int, reason: int, end: EpochEnd) -> None:
    """A guest that gives a failure as its reason has failed; without a driver to restart that is the end."""
    code = Asm(ENTRY)
    firmware(code, SYSTEM_RESET, 0, (kind, reason), 0)
    spin(code)
    box = Box(code)
    result = box.run()
    assert result.reason == end
    if end == EpochEnd.FAILED:
        word = "poweroff" if kind == 0 else "reset"
        assert box.machine.failure == f"the guest asked for {word} with failure reason 1 (panic)"
        assert box.notices == [f"the guest has failed: {box.machine.failure}"]


@pytest.mark.parametrize(("kind", "reason", "end"), RESETS)
def test_system_reset_of_a_driver_that_is_restarted(kind: int, reason: int, end: EpochEnd) -> None:
    """The same calls; a failure restarts it now."""
    code = Asm(ENTRY)
    firmware(code, SYSTEM_RESET, 0, (kind, reason), 0)
    spin(code)
    box = Box(config_of(driver={"restart": True}))
    box.boot(code)
    assert box.run().reason == (EpochEnd.RESTARTED if end == EpochEnd.FAILED else end)


@pytest.mark.parametrize(
    ("function", "kind", "reason", "error"),
    [
        (0, 3, 0, INVALID_PARAM),
        (0, 0xFFFF_FFFF, 0, INVALID_PARAM),
        (0, 0xF000_0000, 0, INVALID_PARAM),
        (0, 0, 2, INVALID_PARAM),
        (0, 1, 0xE000_0000, INVALID_PARAM),
        (0, 1, 0xFFFF_FFFF, INVALID_PARAM),
        (1, 0, 0, -2),
        (ALL_ONES, 0, 0, -2),
    ],
)
def test_a_reserved_reset_is_refused(function: int, kind: int, reason: int, error: int) -> None:
    """The guest goes on and can read the error."""
    code = Asm(ENTRY)
    firmware(code, SYSTEM_RESET, function, (kind, reason), 0)
    power_off(code)
    box = Box(code)
    assert box.run().reason == EpochEnd.POWEROFF
    assert signed(box.words(DATA, 1)[0]) == error


@pytest.mark.parametrize(
    ("extension", "there"),
    [
        (LEGACY_PUTCHAR, 1),
        (LEGACY_GETCHAR, 1),
        (0x03, 0),
        (LEGACY_SHUTDOWN, 1),
        (DEBUG_CONSOLE, 1),
        (SYSTEM_RESET, 1),
        (0x504D55, 0),
        (ALL_ONES, 0),
    ],
)
def test_a_probe_tells_what_is_served(extension: int, there: int) -> None:
    code = Asm(ENTRY)
    firmware(code, BASE, BASE_PROBE, (extension,), 0)
    power_off(code)
    box = Box(code)
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert box.words(DATA, 2) == [0, there]


@pytest.mark.parametrize("extension", [0x09, 0x0F, 0x10_0000, 0x0A00_0000, 0x504D55, ALL_ONES])
def test_an_unknown_extension_is_not_supported(extension: int) -> None:
    """-2 in a0, whatever its arguments; legacy extensions have only a0."""
    code = Asm(ENTRY)
    firmware(code, extension, 0, (ALL_ONES,) * 6, 0)
    power_off(code)
    box = Box(code)
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert signed(box.words(DATA, 1)[0]) == -2
