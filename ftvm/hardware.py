# SPDX-License-Identifier: GPL-2.0-or-later
"""The devices of one machine, built from its configuration and wired to bus, interrupt controller and host.

Which device sits where is `board.slots(config)`; this file turns that table into objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from devices.bus import Bus
from devices.device import Device
from devices.event import LINK_MOVED, LINK_UP, Event, EventKind, Output
from devices.finisher import Finisher
from devices.memory import GuestMemory
from devices.plic import Plic
from devices.rtc import Rtc
from devices.uart import Uart
from devices.virtio.blk import BlockBackend, VirtioBlk
from devices.virtio.console import VirtioConsole
from devices.virtio.net import VirtioNet
from devices.virtio.rng import VirtioRng
from ftvm import board
from ftvm.board import SlotKind, VirtioSlot
from ftvm.config import MachineConfig
from ftvm.hart import Hart

SERVICE_PORT: Final = 1
SERVICE_PORT_NAME: Final = "ftvm.block"
RTC_BASE_NS: Final = 1_767_225_600_000_000_000  # 2026-01-01 00:00 UTC: guest time 0, the same on every replica


class Host(Protocol):
    """What the devices need of the machine around them."""

    hart: Hart
    memory: GuestMemory

    def output(self, output: Output) -> None:
        """An externally visible effect leaves the machine."""

    def violation(self, text: str) -> None:
        """The driver broke a device's protocol."""

    def power(self, action: str, reason: int) -> None:
        """The guest asks for 'poweroff' or 'reset'; a reason other than 0 is a failure."""

    def from_driver(self, data: bytes) -> None:
        """The driver wrote to the block service's port."""

    def driver_opened(self, opened: bool) -> None:
        """The driver opened or closed that port."""


class Hardware:
    """All devices of one machine."""

    def __init__(self, config: MachineConfig, host: Host, disks: Sequence[BlockBackend]) -> None:
        assert len(disks) == len(config.disk), f"{len(config.disk)} disks configured, {len(disks)} given"
        self._config = config
        self._host = host
        self._disks = disks
        self._port: VirtioConsole | None = None
        self._to_driver = bytearray()  # within one delivery
        self._entropy: VirtioRng | None = None
        self.networks: list[VirtioNet] = []
        self.bus = Bus()
        self.plic = Plic(host.hart.set_external)
        self.bus.add(board.PLIC_BASE, self.plic, "plic")
        self.uart = Uart(self.plic.line(board.UART_IRQ), host.output)
        self.bus.add(board.UART_BASE, self.uart, "uart")
        self.rtc = Rtc(lambda: host.hart.time, self.plic.line(board.RTC_IRQ), RTC_BASE_NS)
        self.bus.add(board.RTC_BASE, self.rtc, "rtc")
        self.bus.add(board.FINISHER_BASE, Finisher(self._finish), "finisher")
        for slot in board.slots(config):
            self.bus.add(slot.address, self._build(slot), slot.name)

    # -- towards the guest --------------------------------------------------------------------------------------

    def deliver(self, event: Event) -> None:
        """Hand one event to the device it is for; ValueError when there is none."""
        kind, unit = event.kind, event.unit
        if kind == EventKind.CONSOLE_INPUT:
            self.uart.input(event.data)
        elif kind == EventKind.ENTROPY and self._entropy is not None:
            self._entropy.feed(event.data)
        elif kind == EventKind.PACKET and unit < len(self.networks):
            self.networks[unit].receive(event.data)
        elif kind == EventKind.LINK and unit < len(self.networks):
            if event.data == LINK_MOVED:
                self.networks[unit].announce()
            else:
                self.networks[unit].set_link(event.data == LINK_UP)
        else:
            raise ValueError(f"the log holds an event of kind {kind} for unit {unit}, which this machine does not have")

    def to_driver(self, data: bytes) -> None:
        """Bytes for the driver's end of the block service's port; they get there with the next `push`."""
        self._to_driver += data

    def push(self) -> None:
        """Hand the driver all of that at once: many requests fit into one of its buffers."""
        if self._to_driver:
            assert self._port is not None
            data, self._to_driver = self._to_driver, bytearray()
            self._port.input(SERVICE_PORT, data)

    @property
    def entropy_wanted(self) -> int:
        """Random bytes that the guest waits for."""
        return self._entropy.wanted if self._entropy is not None else 0

    @property
    def deadline(self) -> int | None:
        """Guest ticks at which a device has something to do; None for never."""
        return self.rtc.deadline

    def expire(self) -> bool:
        """Guest time has moved on: ring what is due. True when something rang, so that the guest may have to wake."""
        armed = self.rtc.deadline is not None
        self.rtc.expire()
        return armed and self.rtc.deadline is None

    def flush(self) -> None:
        """The epoch ends: emit what devices have gathered."""
        self.uart.flush()

    # -- state --------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Power-on state of every device; streams of output go on."""
        self.bus.reset()

    def save(self) -> dict[str, Any]:
        """Every device's state, by name."""
        return self.bus.save()

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `save`."""
        self.bus.restore(state)

    # -- building -----------------------------------------------------------------------------------------------

    def _build(self, slot: VirtioSlot) -> Device:
        host, line = self._host, self.plic.line(slot.irq)

        def violation(text: str) -> None:
            host.violation(f"{slot.name}: {text}")

        if slot.kind is SlotKind.DISK:
            return VirtioBlk(host.memory, line, violation, self._disks[slot.unit], f"ftvm-disk{slot.unit}")
        if slot.kind is SlotKind.NETWORK:
            mac = self._config.mac(slot.unit)
            self.networks.append(VirtioNet(host.memory, line, violation, host.output, mac, slot.unit))
            return self.networks[-1]
        if slot.kind is SlotKind.PORT:
            names = [None] * SERVICE_PORT + [SERVICE_PORT_NAME]
            self._port = VirtioConsole(host.memory, line, violation, names, self._port_output, self._port_opened)
            return self._port
        self._entropy = VirtioRng(host.memory, line, violation)
        return self._entropy

    def _port_output(self, port: int, data: bytes) -> None:
        if port == SERVICE_PORT:
            self._host.from_driver(data)

    def _port_opened(self, port: int, opened: bool) -> None:
        if port == SERVICE_PORT:
            self._host.driver_opened(opened)

    def _finish(self, code: str, status: int) -> None:
        if code == "fail":
            self._host.power("poweroff", status or 1)
        else:
            self._host.power(code, 0)
