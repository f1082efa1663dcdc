# SPDX-License-Identifier: GPL-2.0-or-later
"""Two recordings of which one begins in mid-life with one bit changed: that is named, and the instruction it misled."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from ftvm.board import RAM_BASE
from ftvm.comparison import Comparison
from ftvm.debugger import Debugger
from ftvm.finding import Finding
from ftvm.pair.post_mortem import keep_diverged
from tests.travel.recorded import branch, record_driver

BEHIND = 20
HART_HEAD = 2  # words of a saved hart in front of its registers


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_driver(tmp_path_factory.mktemp("states") / "driver.log")


def compare(one: Path, other: Path) -> Finding | None:
    with Debugger.open(one, verify=False) as a, Debugger.open(other, verify=False) as b:
        return Comparison(a, b).first_difference()


def flip_ram(address: int, bit: int) -> Callable[[Debugger], None]:
    def change(debugger: Debugger) -> None:
        debugger.hart.writes(address, 1)
        debugger.hart.ram[address - RAM_BASE] ^= 1 << bit

    return change


def flip_register(name: str, bit: int) -> Callable[[Debugger], None]:
    def change(debugger: Debugger) -> None:
        hart = debugger.machine.hart
        saved = bytearray(hart.save())
        at = (HART_HEAD + list(hart.registers()).index(name)) * 8
        struct.pack_into("<Q", saved, at, struct.unpack_from("<Q", saved, at)[0] ^ 1 << bit)
        hart.restore(bytes(saved))

    return change


def change_field(name: str, index: int, bit: int) -> Callable[[Debugger], None]:
    def change(debugger: Debugger) -> None:
        sections = dict(debugger.machine.save_state())
        state = msgpack.unpackb(sections["machine"])
        content = bytearray(state["hardware"]["plic"][name])
        content[index] ^= 1 << bit
        state["hardware"]["plic"][name] = bytes(content)
        debugger.machine.restore_state([("hart", sections["hart"]), ("machine", msgpack.packb(state))])

    return change


def flip_disk(at: int, bit: int) -> Callable[[Debugger], None]:
    def change(debugger: Debugger) -> None:
        (byte,) = debugger.disks[0].read(at, 1)
        debugger.disks[0].write(at, bytes([byte ^ 1 << bit]))

    return change


def test_an_unchanged_branch_agrees(log: Path, tmp_path: Path) -> None:
    assert compare(log, branch(log, BEHIND, lambda debugger: None, tmp_path / "same.log")) is None


def test_a_bit_of_ram_is_named_and_the_first_instruction_that_read_it(log: Path, tmp_path: Path) -> None:
    """`done` counts answers: it is read at the next of them, and shows in registers there."""
    with Debugger.open(log) as debugger:
        address = debugger.symbols.address("done")
        assert address is not None
        timeline = debugger.timeline
        timeline.seek(timeline.behind(BEHIND))
        timeline.set_watched([(address, 4, 1)])
        reader = timeline.run(behind=False).position
        pc = debugger.registers()["pc"]
    found = compare(log, branch(log, BEHIND, flip_ram(address, 6), tmp_path / "ram.log"))
    assert found is not None and found.kind == "instruction", found
    assert found.position == reader and found.instructions is not None and found.instructions[0].pc == pc
    assert any(f"RAM at {address - address % 8:#x}" in detail for detail in found.details), found.details


def test_a_bit_of_a_register_is_named(log: Path, tmp_path: Path) -> None:
    found = compare(log, branch(log, BEHIND, flip_register("x27", 11), tmp_path / "register.log"))
    assert found is not None and found.details, found
    assert any(detail.startswith("x27: A ") for detail in found.details), found


def test_a_bit_of_a_device_is_named_with_its_field(log: Path, tmp_path: Path) -> None:
    found = compare(log, branch(log, BEHIND, change_field("priority", 9, 2), tmp_path / "device.log"))
    assert found is not None and found.kind == "state" and found.sequence == BEHIND, found
    assert found.details[0] == "machine.hardware.plic.priority[9]: A 0x0, B 0x4", found


def test_a_bit_of_a_disk_is_named_with_its_byte(log: Path, tmp_path: Path) -> None:
    at = (1 << 20) - 5
    found = compare(log, branch(log, BEHIND, flip_disk(at, 3), tmp_path / "disk.log"))
    assert found is not None and found.kind == "state" and found.sequence == BEHIND, found
    assert found.details[0].startswith(f"disk 0 at {at - at % 8:#x}: A "), found


def test_a_state_that_a_backup_has_kept_is_compared_with_the_recording_of_the_primary(
    log: Path, tmp_path: Path
) -> None:
    """As after a divergence in a pair: a log that begins with the backup's machine, and has no entries."""
    with Debugger.open(log) as debugger:
        timeline = debugger.timeline
        timeline.seek(timeline.behind(BEHIND))
        flip_ram(RAM_BASE + 0x90_0010, 1)(debugger)
        kept = keep_diverged(tmp_path, debugger.reader.header, debugger.machine)
    found = compare(log, kept)
    assert found is not None and found.kind == "memory" and found.sequence == BEHIND, found
    assert "RAM at 0x80900010: A 0000000000000000, B 0200000000000000" in found.details, found
