# SPDX-License-Identifier: GPL-2.0-or-later
"""`VirtioDevice`: the memory-mapped transport, version 2 (virtio 1.2, section 4.2), and the device status (2.1).

A device of some type subclasses it, serves its queues in `serve`, and hears of resets in `on_reset`. Control registers
are 32 bits wide and answer only to aligned 32-bit accesses (4.2.2.2); the configuration space takes any size.

Life of the device (3.1.1), kept in the status register; bits are only ever added, until a write of 0:

| status                | what happens                                                                          |
|-----------------------|---------------------------------------------------------------------------------------|
| FEATURES_OK written   | sticks only when the driver's features are a subset of ours with VIRTIO_F_VERSION_1    |
| DRIVER_OK written     | queues are served from now on, beginning with what already waits on them              |
| DEVICE_NEEDS_RESET    | the driver broke a rule: nothing is served any more, and the host is told the reason  |
| 0 written             | everything as at power-on                                                             |
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum

from devices.device import Device, Line, State
from devices.memory import GuestMemory
from devices.virtio.queue import RingViolation, Virtqueue


class Register(IntEnum):
    """Offsets (4.2.2, table 4.1)."""

    MAGIC_VALUE = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_NUM_MAX = 0x034
    QUEUE_NUM = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    SHM_LEN_LOW = 0x0B0
    SHM_LEN_HIGH = 0x0B4
    SHM_BASE_LOW = 0x0B8
    SHM_BASE_HIGH = 0x0BC
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


class Status(IntEnum):
    """Device status (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class Feature(IntEnum):
    """Reserved feature bits that belong to no device type (6)."""

    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32


MAGIC = 0x74726976  # "virt"
VERSION = 2
VENDOR = 0x4D565446  # "FTVM"

INTERRUPT_USED_BUFFER = 1
INTERRUPT_CONFIG_CHANGE = 2

_TRANSPORT_FEATURES = int(Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.VERSION_1)
_DRIVER_BITS = int(Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK | Status.FEATURES_OK | Status.FAILED)
_DRIVER_OK = int(Status.DRIVER_OK)
_FEATURES_OK = int(Status.FEATURES_OK)
_NEEDS_RESET = int(Status.DEVICE_NEEDS_RESET)
_CONFIG = int(Register.CONFIG)
_LOW = 0xFFFFFFFF


class VirtioDevice(Device):
    """The transport of one device. Subclasses set `device_id` and `kind`, and keep `config` up to date."""

    size = 0x1000
    device_id: int  # section 5
    kind: str  # for messages

    def __init__(
        self,
        memory: GuestMemory,
        line: Line,
        violation: Callable[[str], None],
        *,
        features: int,
        queue_sizes: Sequence[int],
        config: bytes,
    ) -> None:
        """`features`: of the device type; those of the transport are added. `violation(reason)`: see the module."""
        self.memory = memory
        self.config = config
        self.queues = [Virtqueue(memory, size) for size in queue_sizes]
        self._line = line
        self._violation = violation
        self._offered = features | _TRANSPORT_FEATURES
        self._generation = 0
        self.resets = 0  # Lets a device type see that a callback reset it; not part of the state.
        self._queue_fields: dict[int, tuple[str, int]] = {
            Register.QUEUE_DESC_LOW: ("desc", 0),
            Register.QUEUE_DESC_HIGH: ("desc", 32),
            Register.QUEUE_DRIVER_LOW: ("avail", 0),
            Register.QUEUE_DRIVER_HIGH: ("avail", 32),
            Register.QUEUE_DEVICE_LOW: ("used", 0),
            Register.QUEUE_DEVICE_HIGH: ("used", 32),
        }
        self._reads: dict[int, Callable[[], int]] = {
            Register.MAGIC_VALUE: lambda: MAGIC,
            Register.VERSION: lambda: VERSION,
            Register.DEVICE_ID: lambda: self.device_id,
            Register.VENDOR_ID: lambda: VENDOR,
            Register.DEVICE_FEATURES: lambda: self._offered >> 32 * self._device_sel & _LOW,
            Register.QUEUE_NUM_MAX: lambda: queue.size_max if (queue := self._selected()) else 0,
            Register.QUEUE_READY: lambda: int(queue.ready) if (queue := self._selected()) else 0,
            Register.INTERRUPT_STATUS: lambda: self._isr,
            Register.STATUS: lambda: self.status,
            # There are no shared memory regions: length and base of each are -1 (4.2.2).
            Register.SHM_LEN_LOW: lambda: _LOW,
            Register.SHM_LEN_HIGH: lambda: _LOW,
            Register.SHM_BASE_LOW: lambda: _LOW,
            Register.SHM_BASE_HIGH: lambda: _LOW,
            Register.CONFIG_GENERATION: lambda: self._generation,
        }
        self._writes: dict[int, Callable[[int], None]] = {
            Register.DEVICE_FEATURES_SEL: self._write_device_sel,
            Register.DRIVER_FEATURES: self._write_driver_features,
            Register.DRIVER_FEATURES_SEL: self._write_driver_sel,
            Register.QUEUE_SEL: self._write_queue_sel,
            Register.QUEUE_NUM: self._write_queue_num,
            Register.QUEUE_READY: self._write_queue_ready,
            Register.QUEUE_NOTIFY: self.kick,
            Register.INTERRUPT_ACK: self._write_interrupt_ack,
            Register.STATUS: self._write_status,
        }
        self._clear()

    def _clear(self) -> None:
        self.resets += 1
        self.status = 0
        self._isr = 0
        self._device_sel = self._driver_sel = self._queue_sel = 0
        self._driver_features = 0
        for queue in self.queues:
            queue.reset()

    # What a device type implements and uses

    @abstractmethod
    def serve(self, index: int, queue: Virtqueue) -> None:
        """The driver may have put buffers on the running queue `index`; RingViolation stops the device."""

    def on_reset(self) -> None:
        """The driver reset the device; the device type forgets what belongs to that driver."""

    @property
    def offered(self) -> int:
        """Feature bits that a driver may accept."""
        return self._offered

    def access(self, register: int) -> str:
        """How the register at an offset is used: r, w, rw, or - for one that is not there."""
        writable = register in self._writes or register in self._queue_fields
        readable = register in self._reads or register >= _CONFIG
        return "r" * readable + "w" * writable or "-"

    @property
    def running(self) -> bool:
        """The driver is ready and has not broken a rule."""
        return self.status & (_DRIVER_OK | _NEEDS_RESET) == _DRIVER_OK

    def negotiated(self, feature: int) -> bool:
        """Whether the driver accepted `feature`."""
        return bool(self._driver_features & feature)

    def kick(self, index: int) -> None:
        """Serves queue `index` if it runs: the driver notified, or the host has something for it."""
        if self.running and index < len(self.queues):
            queue = self.queues[index]
            if queue.ready:
                try:
                    self.serve(index, queue)
                except RingViolation as error:
                    self.fail(f"queue {index}: {error}")

    def interrupt(self, cause: int = INTERRUPT_USED_BUFFER) -> None:
        """Raises the interrupt (4.2.3.4)."""
        if not self._isr & cause:
            self._isr |= cause
            self._line(True)

    def change_config(self, config: bytes) -> None:
        """Replaces the configuration space and tells a running driver."""
        self.config = config
        self._generation = (self._generation + 1) & _LOW
        if self.running:
            self.interrupt(INTERRUPT_CONFIG_CHANGE)

    def fail(self, reason: str) -> None:
        """The driver broke a rule: stops the device until the driver resets it (2.1.2)."""
        if self.status & _NEEDS_RESET:
            return
        for queue in self.queues:
            queue.stop()
        if self.status & _DRIVER_OK:
            self.interrupt(INTERRUPT_CONFIG_CHANGE)
        self.status |= _NEEDS_RESET
        self._violation(f"virtio {self.kind}: {reason}")

    # Registers

    def read(self, offset: int, size: int) -> int:
        """Reads a register or the configuration space."""
        if offset >= _CONFIG:
            start = offset - _CONFIG
            return int.from_bytes(self.config[start : start + size], "little")
        register = self._reads.get(offset)
        return register() if register is not None and size == 4 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Writes a register; no configuration space here is writable."""
        if size != 4:
            return
        register = self._writes.get(offset)
        if register is not None:
            register(value)
        elif offset in self._queue_fields:
            self._write_queue_address(*self._queue_fields[offset], value)

    def _selected(self) -> Virtqueue | None:
        return self.queues[self._queue_sel] if self._queue_sel < len(self.queues) else None

    def _write_device_sel(self, value: int) -> None:
        self._device_sel = min(value, 2)  # All words from 2 on are empty.

    def _write_driver_sel(self, value: int) -> None:
        self._driver_sel = min(value, 2)

    def _write_driver_features(self, value: int) -> None:
        if not self.status & _FEATURES_OK:  # They are frozen from then on (3.1.1).
            shift = 32 * self._driver_sel
            self._driver_features = self._driver_features & ~(_LOW << shift) | value << shift

    def _write_queue_sel(self, value: int) -> None:
        self._queue_sel = value

    def _setting_up(self) -> Virtqueue | None:
        """The selected queue if it may be changed; to change one that is in use breaks 4.2.2.2."""
        queue = self._selected()
        if queue is not None and queue.ready:
            self.fail(f"queue {self._queue_sel} is set up while it is in use")
            return None
        return queue

    def _write_queue_num(self, value: int) -> None:
        if queue := self._setting_up():
            queue.num = value

    def _write_queue_address(self, field: str, shift: int, value: int) -> None:
        if queue := self._setting_up():
            setattr(queue, field, getattr(queue, field) & ~(_LOW << shift) | value << shift)

    def _write_queue_ready(self, value: int) -> None:
        queue = self._selected()
        if queue is None:
            return
        if not value & 1:
            queue.stop()
        elif not queue.ready and not self.status & _NEEDS_RESET:
            try:
                queue.start()
            except RingViolation as error:
                self.fail(f"queue {self._queue_sel}: {error}")

    def _negotiate(self) -> None:
        event_idx, indirect = self.negotiated(Feature.EVENT_IDX), self.negotiated(Feature.INDIRECT_DESC)
        for queue in self.queues:
            queue.negotiate(event_idx, indirect)

    def _write_interrupt_ack(self, value: int) -> None:
        if self._isr:
            self._isr &= ~value
            if not self._isr:
                self._line(False)

    def _write_status(self, value: int) -> None:
        if value == 0:
            self._clear()
            self._line(False)
            self.on_reset()
            return
        added = value & _DRIVER_BITS & ~self.status
        if added & _FEATURES_OK and not self._acceptable():
            added &= ~_FEATURES_OK
        self.status |= added
        if added & _DRIVER_OK:
            self._begin()

    def _acceptable(self) -> bool:
        return not self._driver_features & ~self._offered and self.negotiated(Feature.VERSION_1)

    def _begin(self) -> None:
        if not self.status & _FEATURES_OK:
            self.fail("DRIVER_OK without FEATURES_OK")
            return
        self._negotiate()
        for index in range(len(self.queues)):
            self.kick(index)

    # State

    def reset(self) -> None:
        """Power-on reset."""
        self._clear()
        self._line(False)

    def save(self) -> State:
        """The transport's state; device types add theirs."""
        return {
            "status": self.status,
            "isr": self._isr,
            "selectors": [self._device_sel, self._driver_sel, self._queue_sel],
            "features": list(divmod(self._driver_features, 1 << 64)),
            "generation": self._generation,
            "config": self.config,
            "queues": [queue.save() for queue in self.queues],
        }

    def restore(self, state: State) -> None:
        """Takes over what `save` returned."""
        self.status = state["status"]
        self._isr = state["isr"]
        self._device_sel, self._driver_sel, self._queue_sel = state["selectors"]
        if not (0 <= self._device_sel <= 2 and 0 <= self._driver_sel <= 2 and self._queue_sel >= 0):
            raise ValueError(f"virtio {self.kind}: impossible selectors {state['selectors']}")
        self._driver_features = state["features"][0] << 64 | state["features"][1]
        self._generation = state["generation"]
        self.config = state["config"]
        for queue, saved in zip(self.queues, state["queues"], strict=True):
            queue.restore(saved)
        self._negotiate()
