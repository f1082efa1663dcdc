# SPDX-License-Identifier: GPL-2.0-or-later
"""`Bus`: finds the device for a physical address and hands it the offset.

One dict from 4 KiB page to (base, size, read, write): a device starts on a page of its own and may span many. What no
device answers, within a device's page or outside all pages, reads as zero and ignores writes.
"""

from __future__ import annotations

from collections.abc import Callable

from devices.device import Device, State

PAGE_SHIFT = 12
PAGE = 1 << PAGE_SHIFT

_Entry = tuple[int, int, Callable[[int, int], int], Callable[[int, int, int], None]]


class Bus:
    """Devices by address, and their state by name."""

    def __init__(self) -> None:
        self._pages: dict[int, _Entry] = {}
        self._devices: dict[str, Device] = {}
        self._windows: list[tuple[int, int]] = []

    def add(self, base: int, device: Device, name: str = "") -> None:
        """Maps `device` at `base` (a multiple of 4 KiB, pages not yet taken); `name` keys its saved state."""
        name = name or f"{type(device).__name__.lower()}@{base:x}"
        assert base % PAGE == 0, f"{name}: base {base:#x} is not on a page boundary"
        assert name not in self._devices, f"two devices are named {name}"
        entry: _Entry = (base, device.size, device.read, device.write)
        for page in range(base >> PAGE_SHIFT, (base + device.size + PAGE - 1) >> PAGE_SHIFT):
            assert page not in self._pages, f"{name}: page {page << PAGE_SHIFT:#x} is taken"
            self._pages[page] = entry
        self._devices[name] = device
        self._windows.append((base, device.size))

    def windows(self) -> list[tuple[int, int]]:
        """(base, size) of every device, in the order they were added."""
        return list(self._windows)

    def device(self, name: str) -> Device:
        """The device of that name."""
        return self._devices[name]

    def read(self, address: int, size: int) -> int:
        """The guest reads `size` bytes at physical `address`."""
        entry = self._pages.get(address >> PAGE_SHIFT)
        if entry is None:
            return 0
        offset = address - entry[0]
        return entry[2](offset, size) if offset + size <= entry[1] else 0

    def write(self, address: int, size: int, value: int) -> None:
        """The guest writes `size` bytes at physical `address`."""
        entry = self._pages.get(address >> PAGE_SHIFT)
        if entry is not None:
            offset = address - entry[0]
            if offset + size <= entry[1]:
                entry[3](offset, size, value)

    def reset(self) -> None:
        """Resets every device, in the order they were added."""
        for device in self._devices.values():
            device.reset()

    def save(self) -> State:
        """Every device's state, by name."""
        return {name: device.save() for name, device in self._devices.items()}

    def restore(self, state: State) -> None:
        """Restores every device; the state must be of the same set of devices."""
        assert state.keys() == self._devices.keys(), f"state of {sorted(state)}, devices {sorted(self._devices)}"
        for name, device in self._devices.items():
            device.restore(state[name])
