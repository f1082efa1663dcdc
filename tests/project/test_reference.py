# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's reference page: it is the one in the docs, and what it says in words is so."""

from __future__ import annotations

import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType

import pytest

from devices import plic, rtc, uart
from ftvm import board
from ftvm.hart import FIRMWARE
from ftvm.reference.markdown import tables_of
from ftvm.reference.processor import CSRS
from ftvm.sbi import BASE, EXTENSIONS, LEGACY_LAST
from tests.ftvm.asm import Asm
from tests.ftvm.csrs import readable
from tests.machine.box import ENTRY, Box
from tests.machine.code import DATA, firmware, power_off

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "ftvm machine reference > docs/machine.md"


def test_the_page_in_the_docs_is_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "ftvm.cli", "machine", "reference"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed == (ROOT / "docs/machine.md").read_text(), f"the machine has changed; run {COMMAND}"


def test_the_registers_of_the_hart_are_those_that_a_guest_can_read() -> None:
    """All 4096 numbers are tried; a value that does not depend on the program is as the page says."""
    found = readable()
    assert list(found) == [number for number, _, _ in CSRS]
    assert found[0x106] == 7


def test_every_call_on_the_page_is_served_and_the_next_is_not() -> None:
    """Calls with a hart mask, a buffer or a reset type of nonsense: served is any answer but -2."""
    tables = {identity: len(functions) for identity, _, functions in FIRMWARE}
    tables |= {identity: len(extension.functions) for identity, extension in EXTENSIONS.items()}
    calls = [(identity, at) for identity, count in tables.items() if identity > LEGACY_LAST for at in range(count + 1)]
    code = Asm(ENTRY)
    for index, (identity, function) in enumerate(calls):
        firmware(code, identity, function, [0xFFFF_FFFF] * 6, index)
    power_off(code)
    box = Box(code)
    box.to_the_end()
    words = box.words(DATA, 2 * len(calls))
    served = {call for index, call in enumerate(calls) if words[2 * index] != (1 << 64) - 2}
    assert served == {(identity, at) for identity, at in calls if at < tables[identity]}
    assert BASE in tables


@pytest.mark.parametrize(("module", "registers"), [(rtc, rtc.Register), (uart, uart.Register)])
def test_a_devices_table_has_its_registers_at_their_offsets(module: ModuleType, registers: type[IntEnum]) -> None:
    rows = [line.split("|")[1:-1] for line in tables_of(module)[0][2:-1]]
    for row, register in zip(rows, registers, strict=True):
        assert int(row[0], 0) == register
        assert set(register.name.split("_")) & {word for cell in row[1:4] for word in cell.replace("_", " ").split()}


def test_the_interrupt_controllers_table_has_its_registers_at_their_offsets() -> None:
    offsets = [int(line.split("|")[1].split("+")[0], 0) for line in tables_of(plic)[0][2:-1]]
    assert offsets == [plic.PRIORITY, plic.PENDING, plic.ENABLE, plic.THRESHOLD, plic.CLAIM]
    assert plic.SOURCES == board.PLIC_SOURCES
