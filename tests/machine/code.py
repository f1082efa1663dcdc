# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of hand-made guests: what a kernel does to registers, firmware and rings, as instructions."""

from __future__ import annotations

from collections.abc import Sequence

from devices.virtio.mmio import Register
from devices.virtio.queue import DESCRIPTOR
from ftvm import board
from tests.ftvm.asm import Asm
from tests.machine.box import ENTRY

DATA = ENTRY + 0x10_0000  # where these guests keep what they want to show
VERSION_1_WORD = 1  # VIRTIO_F_VERSION_1 in the second word of features


def store(code: Asm, address: int, value: int, width: str = "sw") -> None:
    """*address = value."""
    code.li("t0", address)
    code.li("t1", value)
    getattr(code, width)("t1", 0, "t0")


def load_to(code: Asm, register: str, address: int, width: str = "lwu") -> None:
    """register = *address."""
    code.li("t0", address)
    getattr(code, width)(register, 0, "t0")


def keep(code: Asm, register: str, index: int) -> None:
    """Word `index` of DATA = register."""
    code.li("t0", DATA + 8 * index)
    code.sd(register, 0, "t0")


def spin(code: Asm) -> None:
    """Nothing more, for ever."""
    code.j(code.here)


def power_off(code: Asm) -> None:
    """The end, by the finisher."""
    store(code, board.FINISHER_BASE, board.FINISHER_POWEROFF)
    spin(code)


def firmware(code: Asm, extension: int, function: int, args: Sequence[int], index: int) -> None:
    """One call to the firmware; a0 and a1 afterwards become words 2 `index` and 2 `index` + 1 of DATA."""
    for number, value in enumerate(args):
        code.li(f"a{number}", value)
    code.sbi(extension, function)
    keep(code, "a0", 2 * index)
    keep(code, "a1", 2 * index + 1)


class Ring:
    """A virtqueue of a device in a slot, its rings and buffers at `place`; the guest's code does the rest."""

    def __init__(self, slot: int, place: int, num: int = 8, queue: int = 0) -> None:
        self.base = board.VIRTIO_BASE + slot * board.VIRTIO_SIZE
        self.desc, self.avail, self.used, self.buffers = place, place + 0x1000, place + 0x2000, place + 0x3000
        self.num, self.queue = num, queue

    def start(self, code: Asm) -> None:
        """From reset to DRIVER_OK, with VERSION_1 and INDIRECT_DESC."""
        for status in (0, 1, 3):
            self.set(code, Register.STATUS, status)
        for word, value in ((0, 1 << 28), (1, VERSION_1_WORD)):
            self.set(code, Register.DRIVER_FEATURES_SEL, word)
            self.set(code, Register.DRIVER_FEATURES, value)
        self.set(code, Register.STATUS, 11)
        self.set(code, Register.QUEUE_SEL, self.queue)
        self.set(code, Register.QUEUE_NUM, self.num)
        self.set(code, Register.QUEUE_DESC_LOW, self.desc)
        self.set(code, Register.QUEUE_DRIVER_LOW, self.avail)
        self.set(code, Register.QUEUE_DEVICE_LOW, self.used)
        self.set(code, Register.QUEUE_READY, 1)
        self.set(code, Register.STATUS, 15)

    def set(self, code: Asm, register: int, value: int) -> None:
        """Writes a register."""
        store(code, self.base + register, value)

    def describe(self, code: Asm, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        """Writes a descriptor, of the queue's table or (by a table's address as `index`) of another."""
        where = index if index >= 1 << 16 else self.desc + 16 * index
        entry = DESCRIPTOR.pack(address, length, flags, following)
        store(code, where, int.from_bytes(entry[:8], "little"), "sd")
        store(code, where + 8, int.from_bytes(entry[8:], "little"), "sd")

    def offer(self, code: Asm, heads: Sequence[int], index: int) -> None:
        """These heads from slot 0 on, the available index, and the notification."""
        for slot, head in enumerate(heads):
            store(code, self.avail + 4 + 2 * slot, head, "sh")
        store(code, self.avail + 2, index, "sh")
        self.notify(code)

    def notify(self, code: Asm) -> None:
        """Tells the device."""
        self.set(code, Register.QUEUE_NOTIFY, self.queue)
