# SPDX-License-Identifier: GPL-2.0-or-later
"""`GuestMemory`: the guest's RAM as devices see it, for DMA.

One memoryview over all RAM. Two ways in:

| by         | checked | used by                          | methods                 |
|------------|---------|----------------------------------|-------------------------|
| address    | yes     | the machine, anything occasional | `read`, `view`, `write` |
| RAM offset | no      | virtqueues, which checked before | `fetch`, `store`        |

Every write runs through `store`: the CPU is told first (`writes`), and it is folded, with its place, into `digest`.
`fetch` folds what devices took out of RAM in too, so that the digest covers all bytes moved by DMA. The digest is a
chain of XXH3 hashes: the previous value plus the address seeds the next one.

`work` counts what devices do for the guest in units of roughly a microsecond: one for each descriptor, each access by
DMA and each 4 KiB of it. A guest can ask for much of it with one instruction, so whoever bounds time looks at it and
sets it back; it is no part of the state.
"""

from __future__ import annotations

from collections.abc import Callable

from xxhash import xxh3_64_intdigest

from devices.device import State
from devices.guest_error import GuestError

_MASK = (1 << 64) - 1
_FETCHED = 1 << 63  # Keeps a fetch at an address apart from a store there.

Bytes = bytes | bytearray | memoryview


class GuestMemory:
    """RAM of `len(buffer)` bytes at physical address `base`."""

    __slots__ = ("base", "buffer", "digest", "size", "work", "writes")

    def __init__(self, buffer: memoryview, base: int, writes: Callable[[int, int], None]) -> None:
        """`buffer`: writable, one byte an item. `writes(address, length)` is called before each write."""
        assert buffer.itemsize == 1 and not buffer.readonly
        self.buffer = buffer
        self.base = base
        self.size = len(buffer)
        self.writes = writes
        self.digest = 0
        self.work = 0

    def _offset(self, address: int, length: int) -> int:
        offset = address - self.base
        if length < 0 or offset < 0 or offset + length > self.size:
            raise GuestError(
                f"{length} bytes at {address:#x} are not within RAM [{self.base:#x}, {self.base + self.size:#x})"
            )
        return offset

    def read(self, address: int, length: int) -> bytes:
        """A copy of `length` bytes at physical `address`; GuestError when they are not all RAM."""
        offset = self._offset(address, length)
        return bytes(self.buffer[offset : offset + length])

    def view(self, address: int, length: int) -> memoryview:
        """A read-only window on `length` bytes at physical `address`; GuestError when they are not all RAM."""
        offset = self._offset(address, length)
        return self.buffer[offset : offset + length].toreadonly()

    def write(self, address: int, data: Bytes) -> None:
        """Stores `data` at physical `address`; GuestError, and nothing stored, when it does not fit in RAM."""
        self.store(self._offset(address, len(data)), data)

    def store(self, offset: int, data: Bytes) -> None:
        """Stores `data` at a RAM offset that the caller has checked."""
        length = len(data)
        address = self.base + offset
        self.writes(address, length)
        self.buffer[offset : offset + length] = data
        self.digest = xxh3_64_intdigest(data, (self.digest + address) & _MASK)
        self.work += 1 + (length >> 12)

    def fetch(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes at a RAM offset that the caller has checked, folded into the digest."""
        data = bytes(self.buffer[offset : offset + length])
        self.digest = xxh3_64_intdigest(data, (self.digest + offset + _FETCHED) & _MASK)
        self.work += 1 + (length >> 12)
        return data

    def save(self) -> State:
        """The running digest; the bytes themselves belong to the CPU's state."""
        return {"digest": self.digest}

    def restore(self, state: State) -> None:
        """Continues the digest of `state`."""
        self.digest = state["digest"]
