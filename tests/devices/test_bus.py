# SPDX-License-Identifier: GPL-2.0-or-later
"""The bus finds devices by address; guest memory checks addresses and digests what devices move."""

from __future__ import annotations

import pytest

from devices.bus import Bus
from devices.device import Device, State
from devices.guest_error import GuestError
from devices.memory import GuestMemory


class Probe(Device):
    """Answers its offset and remembers accesses."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))

    def reset(self) -> None:
        self.seen.clear()

    def save(self) -> State:
        return {"seen": list(self.seen)}

    def restore(self, state: State) -> None:
        self.seen = list(state["seen"])


def test_devices_see_offsets() -> None:
    """Also in windows of many pages, and none outside their size."""
    bus, small, large = Bus(), Probe(0x100), Probe(0x600000)
    bus.add(0x1000_0000, small)
    bus.add(0xC00_0000, large)
    assert bus.read(0x1000_00FF, 1) == 0xFF and bus.read(0xC20_1004, 4) == 0x201004
    assert bus.read(0x1000_00FD, 4) == bus.read(0x1000_0100, 1) == bus.read(0xDEAD_0000, 8) == 0
    bus.write(0x1000_0010, 2, 7)
    bus.write(0x1000_0100, 2, 7)
    bus.write(0, 8, 7)
    assert small.seen == [(0x10, 2, 7)]
    assert bus.windows() == [(0x1000_0000, 0x100), (0xC00_0000, 0x600000)]


def test_state_is_kept_by_name() -> None:
    """All devices are saved, restored and reset together."""
    buses = []
    for _ in range(2):
        bus = Bus()
        bus.add(0x1000, Probe(0x10), "first")
        bus.add(0x2000, Probe(0x10), "second")
        buses.append(bus)
    buses[0].write(0x2000, 1, 9)
    buses[1].restore(buses[0].save())
    assert buses[1].save() == {"first": {"seen": []}, "second": {"seen": [(0, 1, 9)]}}
    buses[1].reset()
    assert buses[1].save() != buses[0].save()


def test_mistakes_of_the_board_are_caught() -> None:
    """Two devices on a page, a bad base, a foreign state."""
    bus = Bus()
    bus.add(0x1000, Probe(0x10))
    for base in (0x1000, 0x2010):
        with pytest.raises(AssertionError):
            bus.add(base, Probe(0x10), f"at {base:x}")
    with pytest.raises(AssertionError):
        bus.restore({"other": {}})


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(memoryview(bytearray(256)), 0x1000, lambda address, length: None)


@pytest.mark.parametrize(
    ("address", "length"), [(0xFFF, 1), (0x1100, 1), (0x10FF, 2), (0x1000, -1), (2**64, 1), (0, 0)]
)
def test_addresses_outside_ram_are_guest_errors(memory: GuestMemory, address: int, length: int) -> None:
    """Reads and views alike, and the message names the place."""
    for access in (memory.read, memory.view):
        with pytest.raises(GuestError, match=f"{address:#x}"):
            access(address, length)


def test_a_write_that_does_not_fit_stores_nothing(memory: GuestMemory) -> None:
    """RAM and digest stay as they were."""
    with pytest.raises(GuestError):
        memory.write(0x10FF, b"ab")
    assert memory.read(0x10FF, 1) == b"\0" and memory.digest == 0


def test_views_are_windows_that_cannot_be_written(memory: GuestMemory) -> None:
    """They follow RAM."""
    view = memory.view(0x1010, 4)
    memory.write(0x1011, b"x")
    assert view.tobytes() == b"\0x\0\0"
    with pytest.raises(TypeError):
        view[0] = 1


def test_the_digest_knows_place_order_and_content() -> None:
    """Any difference in what was moved, where or when shows, and reads by the host do not count."""

    def digest(*writes: tuple[int, bytes]) -> int:
        memory = GuestMemory(memoryview(bytearray(256)), 0, lambda address, length: None)
        for offset, data in writes:
            memory.write(offset, data)
        memory.read(0, 10)
        return memory.digest

    variants = [
        digest(),
        digest((0, b"ab")),
        digest((0, b"ac")),
        digest((1, b"ab")),
        digest((0, b"a"), (1, b"b")),
        digest((1, b"b"), (0, b"a")),
    ]
    assert len(set(variants)) == len(variants) and digest((0, b"ab")) == variants[1]


def test_fetching_is_digested_and_saved() -> None:
    """What devices take out of RAM counts; the digest continues after a restore."""
    told: list[tuple[int, int]] = []
    first = GuestMemory(memoryview(bytearray(b"abcd")), 0x1000, lambda address, length: told.append((address, length)))
    assert first.fetch(1, 2) == b"bc" and first.digest != 0 and told == []
    second = GuestMemory(memoryview(bytearray(b"abcd")), 0x1000, lambda address, length: None)
    second.restore(first.save())
    first.write(0x1001, b"z")
    second.write(0x1001, b"z")
    assert first.digest == second.digest and told == [(0x1001, 1)]
