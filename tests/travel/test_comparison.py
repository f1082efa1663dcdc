# SPDX-License-Identifier: GPL-2.0-or-later
"""Two recordings that part: a planted event, instruction or bit is found and named exactly."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from ftvm.board import RAM_BASE
from ftvm.guests import catalog
from tests.machine.box import config_of
from tests.travel.recorded import RecordedBox

NAME, EPOCHS = "console", 30
Act = Callable[[RecordedBox, int], None]


def guest(name: str = NAME) -> Path:
    found = catalog.find(name)
    assert found is not None
    return found.path


def symbol(name: str, of: str = NAME) -> tuple[int, int]:
    """Its address, and its offset in the file."""
    with guest(of).open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".symtab")
        address = table.get_symbol_by_name(name)[0]["st_value"]
        (offset,) = [
            address - segment["p_vaddr"] + segment["p_offset"]
            for segment in elf.iter_segments("PT_LOAD")
            if segment["p_vaddr"] <= address < segment["p_vaddr"] + segment["p_filesz"]
        ]
    return address, offset


def record(
    directory: Path,
    name: str,
    kernel: Path | None = None,
    act: Act = lambda box, number: None,
    typed: Callable[[int], str] = str,
) -> Path:
    """The console guest, typed at; `act` may do something before an epoch."""
    log = directory / f"{name}.log"
    box = RecordedBox(config_of(str(kernel) if kernel else NAME), log)
    for number in range(EPOCHS):
        act(box, number)
        if number % 5 == 4:
            box.type(f"line {typed(number)}\r")
        else:
            box.run(budget=60_000, later=1000)
    box.close()
    return log


def diff(one: Path, other: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of `ftvm log diff`."""
    command = [sys.executable, "-m", "ftvm.cli", "log", "diff", str(one), str(other), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("plain"), "plain")


def test_equal_recordings_agree(plain: Path, tmp_path: Path) -> None:
    code, found = diff(plain, record(tmp_path, "again"))
    assert code == 0 and found == {"differ": False}


def test_a_changed_event_is_named_with_its_byte(plain: Path, tmp_path: Path) -> None:
    code, found = diff(plain, record(tmp_path, "event", typed=lambda number: "1A" if number == 14 else str(number)))
    assert code == 1 and found["kind"] == "entry" and found["sequence"] == 15
    assert any("byte 6 is 0x34 in A and 0x41 in B" in detail for detail in found["details"]), found
    assert "in entry 10" in found["event"]


def test_one_event_more_is_named(plain: Path, tmp_path: Path) -> None:
    """A key that somebody pressed in one of the two."""

    def press(box: RecordedBox, number: int) -> None:
        if number == 7:
            box.type("x")

    code, found = diff(plain, record(tmp_path, "pressed", act=press))
    assert code == 1 and found["kind"] == "entry" and found["sequence"] == 8, found
    assert "events: A 0, B 1; only B has console input for unit 0, 1 bytes (78)" in found["details"], found
    assert "in entry 5" in found["event"]


def test_a_changed_instruction_is_named(plain: Path, tmp_path: Path) -> None:
    """The first instruction of a function that types characters back is replaced by another one."""
    address, offset = symbol("receive")
    code = bytearray(guest().read_bytes())
    code[offset : offset + 4] = struct.pack("<I", 0x00150513)  # addi a0, a0, 1
    kernel = tmp_path / "patched.elf"
    kernel.write_bytes(code)
    exit_code, found = diff(plain, record(tmp_path, "patched", kernel))
    assert exit_code == 1 and found["kind"] == "instruction", found
    assert f"{address:#x}" in found["instructions"][0] and "addi a0, a0, 1" in found["instructions"][1]
    assert any("RAM differs from the beginning" in detail for detail in found["details"])


def test_a_flipped_bit_shows_as_a_recorder_that_went_wrong(plain: Path, tmp_path: Path) -> None:
    """A bit flips in the recorder's RAM: no replay does what was recorded from there on."""

    def flip(box: RecordedBox, number: int) -> None:
        if number == 17:
            box.flip(symbol("receive")[0], 4)

    code, found = diff(plain, record(tmp_path, "flipped", act=flip))
    assert code == 1 and found["kind"] == "recorder" and found["sequence"] >= 18, found
    assert found["summary"].count("B does not replay as it was recorded") == 1


def test_a_shorter_recording_is_told(plain: Path, tmp_path: Path) -> None:
    log = tmp_path / "short.log"
    box = RecordedBox(config_of(NAME), log)
    for _ in range(3):
        box.run(budget=60_000, later=1000)
    box.close()
    code, found = diff(plain, log)
    assert code == 1 and found["kind"] == "length" and f"A has {EPOCHS}, B has 3" in found["summary"]


def test_a_bit_that_differs_in_the_image_is_told_even_when_nothing_reads_it(plain: Path, tmp_path: Path) -> None:
    """In bytes that the guest never looks at: the end of its image."""
    with guest().open("rb") as file:
        segment = max(ELFFile(file).iter_segments("PT_LOAD"), key=lambda each: each["p_filesz"])
        last = segment["p_offset"] + segment["p_filesz"] - 1
    code = bytearray(guest().read_bytes())
    code[last] ^= 1
    kernel = tmp_path / "bit.elf"
    kernel.write_bytes(code)
    exit_code, found = diff(plain, record(tmp_path, "bit", kernel))
    assert exit_code == 1 and found["kind"] in ("memory", "instruction", "state")
    assert any(f"RAM at {RAM_BASE >> 20:#x}"[:8] in detail for detail in found["details"])
