# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole machine on one page: where each device sits, and which interrupt it raises.

The map is that of QEMU's `virt` machine (hw/riscv/virt.c), so that guests built for it run unchanged:

    address        size        irq     device
    0x0010_0000    0x1000              SiFive test finisher (power-off, reset)
    0x0010_1000    0x1000      11      goldfish RTC
    0x0c00_0000    0x60_0000           PLIC (53 sources; one hart: context 0 is M mode, context 1 is S mode)
    0x1000_0000    0x100       10      UART, ns16550a
    0x1000_1000    0x1000 * 8  1..8    virtio-mmio slots 0 to 7
    0x8000_0000    memory              RAM; a kernel that names no address is put at 0x8020_0000

The virtio slots are filled in one fixed order: disks, networks, the port device (when the machine has a block
service), entropy. So a slot's number follows from the machine file alone, the same on both sides of a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from devices import plic

if TYPE_CHECKING:
    from ftvm.config import MachineConfig

FINISHER_BASE, FINISHER_SIZE = 0x0010_0000, 0x1000
RTC_BASE, RTC_SIZE, RTC_IRQ = 0x0010_1000, 0x1000, 11
PLIC_BASE, PLIC_SIZE, PLIC_SOURCES = 0x0C00_0000, 0x60_0000, plic.SOURCES
UART_BASE, UART_SIZE, UART_IRQ = 0x1000_0000, 0x100, 10
UART_CLOCK_HZ = 3_686_400
VIRTIO_BASE, VIRTIO_SIZE, VIRTIO_IRQ, VIRTIO_SLOTS = 0x1000_1000, 0x1000, 1, 8
RAM_BASE = 0x8000_0000
KERNEL_OFFSET = 0x20_0000  # from RAM_BASE: where firmware would have ended
TIMEBASE_HZ = 10_000_000  # one tick of guest time is 100 ns

FINISHER_POWEROFF = 0x5555
FINISHER_RESET = 0x7777

MEMORY_MIN, MEMORY_MAX = 16 << 20, 1 << 30

ISA = "rv64imafdc"
ISA_BASE = "rv64i"
ISA_EXTENSIONS = ("i", "m", "a", "f", "d", "c", "zicsr", "zifencei")
MMU = "riscv,sv39"


class SlotKind(Enum):
    """What sits in a virtio-mmio slot."""

    DISK = "disk"
    NETWORK = "network"
    PORT = "port"  # the multiport console that carries the block service
    ENTROPY = "entropy"


@dataclass(frozen=True, slots=True)
class VirtioSlot:
    """One virtio-mmio slot: `unit` counts the devices of its kind, from 0."""

    index: int
    kind: SlotKind
    unit: int

    @property
    def address(self) -> int:
        return VIRTIO_BASE + self.index * VIRTIO_SIZE

    @property
    def irq(self) -> int:
        return VIRTIO_IRQ + self.index

    @property
    def name(self) -> str:
        """A name for reports and saved state, e.g. `disk0`."""
        return f"{self.kind.value}{self.unit}"


def slots_needed(disks: int, networks: int, block_service: bool) -> int:
    """How many virtio slots such a machine takes; more than `VIRTIO_SLOTS` cannot be built."""
    return disks + networks + int(block_service) + 1


def virtio_slots(disks: int, networks: int, block_service: bool) -> tuple[VirtioSlot, ...]:
    """The filled slots, in order: disks, networks, the port device of a block service, entropy."""
    assert slots_needed(disks, networks, block_service) <= VIRTIO_SLOTS, "the machine file's validation counts slots"
    kinds = [(SlotKind.DISK, unit) for unit in range(disks)]
    kinds += [(SlotKind.NETWORK, unit) for unit in range(networks)]
    kinds += [(SlotKind.PORT, 0)] * block_service
    kinds += [(SlotKind.ENTROPY, 0)]
    return tuple(VirtioSlot(index, kind, unit) for index, (kind, unit) in enumerate(kinds))


def slots(config: MachineConfig) -> tuple[VirtioSlot, ...]:
    """The filled slots of the machine that a file describes."""
    return virtio_slots(len(config.disk), len(config.network), config.service_block is not None)
