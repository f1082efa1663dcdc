# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory map, interrupts and devices on the reference page, from a machine that was built for it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from types import ModuleType
from typing import Final

import devices.finisher
import devices.plic
import devices.rtc
import devices.uart
import devices.virtio.blk
import devices.virtio.console
import devices.virtio.mmio
import devices.virtio.net
import devices.virtio.rng
from devices.virtio.mmio import VirtioDevice
from ftvm import board
from ftvm.hardware import SERVICE_PORT_NAME
from ftvm.hart import WINDOWS
from ftvm.machine import Machine
from ftvm.reference.markdown import address, code, table, tables_of, text

SIMPLE: Final = (
    ("Power and reset", devices.finisher, board.FINISHER_BASE),
    ("Real-time clock", devices.rtc, board.RTC_BASE),
    ("Interrupt controller", devices.plic, board.PLIC_BASE),
    ("UART", devices.uart, board.UART_BASE),
)
VIRTIO: Final = {
    "disk0": ("Disk", devices.virtio.blk, "BLK"),
    "network0": ("Network card", devices.virtio.net, "NET"),
    "port0": ("Console port", devices.virtio.console, "CONSOLE"),
    "entropy0": ("Entropy", devices.virtio.rng, "RNG"),
}
_QUEUES: Final = {
    "disk0": ("requestq",),
    "network0": ("receiveq1", "transmitq1", "controlq"),
    "port0": ("port 0 receiveq", "port 0 transmitq", "control receiveq", "control transmitq", "receiveq", "transmitq"),
    "entropy0": ("requestq",),
}


def memory_map(machine: Machine) -> list[str]:
    """Windows, and who raises which interrupt."""
    irqs = {board.RTC_BASE: board.RTC_IRQ, board.UART_BASE: board.UART_IRQ}
    irqs |= {slot.address: slot.irq for slot in machine.config.slots}
    names = list(machine.hardware.save())
    rows: list[tuple[int, tuple[object, ...]]] = [
        (base, (address(base), f"{size:#x}", irqs.get(base, ""), name))
        for (base, size), name in zip(machine.hardware.bus.windows(), names, strict=True)
    ]
    rows.append((board.RAM_BASE, (address(board.RAM_BASE), "as configured", "", "RAM")))
    windows = ", ".join(f"{address(base)} to {address(base + size - 1)}" for base, size in WINDOWS)
    return [
        "## Memory map and interrupts",
        "",
        *text(
            "A machine with one disk, one network card and a block service. Interrupts are sources of the controller."
        ),
        *table(("address", "size", "interrupt", "device"), [row for _, row in sorted(rows)]),
        *text(
            f"The {board.VIRTIO_SLOTS} virtio slots, {board.VIRTIO_SIZE:#x} apart from {address(board.VIRTIO_BASE)} on",
            f"and with interrupts from {board.VIRTIO_IRQ} on, are filled without gaps: disks, network cards, the",
            "port of a block service, entropy. What no device answers in these windows reads as 0 and ignores writes:",
            f"{windows}. Every other address but RAM is an access fault.",
        ),
    ]


def all_devices(machine: Machine) -> list[str]:
    """Registers, and what virtio devices offer."""
    lines = ["## Devices", ""]
    for title, module, base in SIMPLE:
        lines += [f"### {title}, {address(base)}", "", *text(_summary(module))]
        lines += [line for found in tables_of(module) for line in found]
    lines += _transport(machine)
    for slot in machine.config.slots:
        device = machine.hardware.bus.device(slot.name)
        assert isinstance(device, VirtioDevice)
        lines += _virtio(slot.name, device)
    return lines


def _summary(module: ModuleType) -> str:
    """The first paragraph of a module's docstring, as one sentence or more."""
    paragraph = (module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").rstrip(":")
    return paragraph if paragraph.endswith(".") else paragraph + "."


def _transport(machine: Machine) -> list[str]:
    mmio = devices.virtio.mmio
    device = machine.hardware.bus.device("entropy0")
    assert isinstance(device, VirtioDevice)
    registers = [(f"0x{offset:03x}", code(offset.name), device.access(offset)) for offset in mmio.Register]
    return [
        "### virtio-mmio, all slots",
        "",
        *text(
            f"Version {mmio.VERSION} of the transport (virtio 1.2, section 4.2); split queues; vendor",
            f"{mmio.VENDOR:#x}.",
            "Registers take aligned accesses of 32 bits, and read as 0 and ignore writes otherwise; the configuration",
            "space can be read in any size.",
        ),
        *table(("offset", "register", "access"), registers),
        *tables_of(mmio)[0],
    ]


def _virtio(name: str, device: VirtioDevice) -> list[str]:
    title, module, prefix = VIRTIO[name]
    features = [
        *_features(device.offered, getattr(module, "Feature", ()), f"VIRTIO_{prefix}_F_"),
        *_features(device.offered, devices.virtio.mmio.Feature, "VIRTIO_F_"),
    ]
    assert sum(1 << bit for bit, _ in features) == device.offered, f"{name} offers features without a name"
    queues = zip(_QUEUES[name], device.queues, strict=True)
    port = f" The block service's port is number 1, named `{SERVICE_PORT_NAME}`." if name == "port0" else ""
    return [
        f"### {title}: virtio device {device.device_id}",
        "",
        *text(_summary(module) + port),
        *table(("bit", "feature offered"), [(bit, code(feature)) for bit, feature in features]),
        *table(("queue", "name", "descriptors at most"), [(n, q, v.size_max) for n, (q, v) in enumerate(queues)]),
        *_config(module, device),
        *(line for found in tables_of(module)[-1:] for line in found if name != "port0" and name != "network0"),
    ]


def _features(offered: int, names: Iterable[IntEnum], prefix: str) -> list[tuple[int, str]]:
    return [(bit.bit_length() - 1, prefix + bit.name) for bit in names if offered & bit]


def _config(module: ModuleType, device: VirtioDevice) -> list[str]:
    fields: tuple[str, ...] = getattr(module, "CONFIG_FIELDS", ())
    if not fields:
        return ["No configuration space.", ""]
    layout: Struct = module.CONFIG
    values = dict(zip(fields, layout.unpack(device.config), strict=True))
    shown = [(code(name), value.hex(":") if isinstance(value, bytes) else value) for name, value in values.items()]
    return table(("configuration field", "value here"), [row for row in shown if row[1] != 0])
