# SPDX-License-Identifier: GPL-2.0-or-later
"""Who wrote this: an event that was delivered, an instruction named in three ways, nobody but the boot image."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftvm.debugger import Debugger
from ftvm.writer import find_writer
from replay.position import Position
from tests.travel.recorded import record_driver, record_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_network(tmp_path_factory.mktemp("kinds") / "network.log")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_driver(tmp_path_factory.mktemp("kinds") / "driver.log", requests=12)


def find(debugger: Debugger, content: bytes) -> int:
    """The physical address of some bytes that are in RAM once."""
    ram = bytes(debugger.hart.ram)
    at = ram.find(content)
    assert at >= 0
    return 0x8000_0000 + at


def test_a_packet_that_arrives_is_told_with_its_event(network: Path) -> None:
    """The card writes into the driver's buffer as the event is delivered, before any instruction of that entry."""
    with Debugger.open(network) as debugger:
        timeline = debugger.timeline
        entry = next(entry for entry, _ in timeline.entries for event in entry.events if b"hello, guest" in event.data)
        timeline.seek(Position(entry.sequence, entry.clock))
        at = find(debugger, b"hello, guest")
        found = find_writer(debugger, hex(at), 12, f"{entry.sequence}:{entry.clock + 4}", physical=True)
        assert found.device and found.as_dict()["when"] == "events", found
        assert found.new == b"hello, guest" != found.old
        assert found.event.startswith("packet for unit 0") and found.event in found.words()
        assert found.position == Position(entry.sequence - 1, entry.clock)


def test_what_only_the_boot_image_wrote_is_told_with_its_content(driver: Path) -> None:
    with Debugger.open(driver) as debugger:
        pc = debugger.registers()["pc"]
        held = debugger.read(pc, 4).hex(" ")
        with pytest.raises(ValueError, match=f"nothing has written .* held at the beginning .{held}.$"):
            find_writer(debugger, hex(pc), 4)


def test_physical_virtual_and_symbol_lead_to_the_same_write(driver: Path) -> None:
    """The driver's memory is mapped one to one."""
    with Debugger.open(driver) as debugger:
        address = debugger.symbols.address("done")
        assert address is not None
        by_name = find_writer(debugger, "done", 4)
        assert find_writer(debugger, hex(address), 4) == by_name
        assert find_writer(debugger, str(address), 4, physical=True) == by_name
        assert by_name.old != by_name.new and by_name.as_dict()["when"] == "inside"


@pytest.mark.parametrize("form", ["position", "clock", "entry"])
def test_before_excludes_the_write_itself(driver: Path, form: str) -> None:
    with Debugger.open(driver) as debugger:
        last = find_writer(debugger, "done", 4)
        before = {
            "position": str(last.position),
            "clock": str(last.position.clock),
            "entry": f"{last.position.sequence}:{last.position.clock}",
        }[form]
        earlier = find_writer(debugger, "done", 4, before)
        assert earlier.position < last.position and earlier.new == last.old
        assert find_writer(debugger, "done", 4, f"{last.position.sequence}:{last.position.clock + 4}") == last
