# SPDX-License-Identifier: GPL-2.0-or-later
"""The flattened device tree that tells a guest what is on the board.

Built with libfdt's sequential writer from the constants in `ftvm.board`, so the tree cannot disagree with the machine.
Node and property names are those of QEMU's `virt`; only filled virtio slots are listed. The result is a function of
the arguments alone: both sides of a pair build the same bytes. There is room behind the tree: a boot loader adds to it
where it lies, and would otherwise write over what it has put behind it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from struct import pack

import libfdt

from ftvm import board

SIZE_MAX = 64 << 10
ROOM = 12 << 10  # as much as U-Boot reckons that it may add (CONFIG_SYS_FDT_PAD)
_PLIC_PHANDLE, _INTC_PHANDLE, _FINISHER_PHANDLE = 1, 2, 3
_S_EXTERNAL, _M_EXTERNAL = 9, 11  # interrupt causes, privileged specification table 4.2


class _Tree:
    """libfdt's writer with nesting as `with` blocks."""

    def __init__(self) -> None:
        self._fdt = libfdt.FdtSw(SIZE_MAX)  # roomy: finishing a tree does not make room by itself
        self._fdt.finish_reservemap()

    @contextmanager
    def node(self, name: str) -> Iterator[None]:
        self._fdt.begin_node(name)
        yield
        self._fdt.end_node()

    def cells(self, name: str, *values: int) -> None:
        self._fdt.property(name, b"".join(pack(">I", value) for value in values))

    def strings(self, name: str, *values: str) -> None:
        self._fdt.property(name, b"".join(value.encode() + b"\0" for value in values))

    def raw(self, name: str, value: bytes) -> None:
        self._fdt.property(name, value)

    def flag(self, name: str) -> None:
        self._fdt.property(name, b"")

    def region(self, base: int, size: int) -> None:
        """`reg` with two address cells and two size cells."""
        self.raw("reg", pack(">QQ", base, size))

    def interrupt(self, number: int) -> None:
        self.cells("interrupts", number)
        self.cells("interrupt-parent", _PLIC_PHANDLE)

    def finish(self) -> bytes:
        tree = self._fdt.as_fdt()
        tree.pack()
        tree.resize(tree.totalsize() + ROOM)
        return bytes(tree.as_bytearray())


def build_device_tree(
    memory: int,
    slots: Sequence[board.VirtioSlot],
    cmdline: str = "",
    initrd: tuple[int, int] | None = None,
    seed: int = 0,
) -> bytes:
    """The DTB of a machine with `memory` bytes of RAM; `initrd` is its (start, end) address.

    `seed` becomes `rng-seed`: 32 bytes that start the guest's random generator, equal on every replica and boot.
    """
    tree = _Tree()
    with tree.node(""):
        _header(tree)
        _chosen(tree, cmdline, initrd, seed)
        with tree.node(f"memory@{board.RAM_BASE:x}"):
            tree.strings("device_type", "memory")
            tree.region(board.RAM_BASE, memory)
        _cpus(tree)
        _power(tree)
        _soc(tree, slots)
    return tree.finish()


def _header(tree: _Tree) -> None:
    tree.cells("#address-cells", 2)
    tree.cells("#size-cells", 2)
    tree.strings("compatible", "riscv-virtio")
    tree.strings("model", "ftvm,virt")


def _chosen(tree: _Tree, cmdline: str, initrd: tuple[int, int] | None, seed: int) -> None:
    with tree.node("chosen"):
        tree.strings("bootargs", cmdline)
        tree.strings("stdout-path", f"/soc/serial@{board.UART_BASE:x}")
        tree.raw("rng-seed", hashlib.sha256(b"ftvm rng-seed " + str(seed).encode()).digest())
        if initrd is not None:
            tree.raw("linux,initrd-start", pack(">Q", initrd[0]))
            tree.raw("linux,initrd-end", pack(">Q", initrd[1]))


def _cpus(tree: _Tree) -> None:
    with tree.node("cpus"):
        tree.cells("#address-cells", 1)
        tree.cells("#size-cells", 0)
        tree.cells("timebase-frequency", board.TIMEBASE_HZ)
        with tree.node("cpu@0"):
            tree.strings("device_type", "cpu")
            tree.cells("reg", 0)
            tree.strings("status", "okay")
            tree.strings("compatible", "riscv")
            tree.strings("riscv,isa", board.ISA)
            tree.strings("riscv,isa-base", board.ISA_BASE)
            tree.strings("riscv,isa-extensions", *board.ISA_EXTENSIONS)
            tree.strings("mmu-type", board.MMU)
            with tree.node("interrupt-controller"):
                tree.cells("#interrupt-cells", 1)
                tree.flag("interrupt-controller")
                tree.strings("compatible", "riscv,cpu-intc")
                tree.cells("phandle", _INTC_PHANDLE)


def _power(tree: _Tree) -> None:
    """Power-off and reset as writes to the finisher, for guests that do not ask the SBI."""
    for name, value in (("poweroff", board.FINISHER_POWEROFF), ("reboot", board.FINISHER_RESET)):
        with tree.node(name):
            tree.strings("compatible", f"syscon-{name}")
            tree.cells("regmap", _FINISHER_PHANDLE)
            tree.cells("offset", 0)
            tree.cells("value", value)


def _soc(tree: _Tree, slots: Sequence[board.VirtioSlot]) -> None:
    with tree.node("soc"):
        tree.cells("#address-cells", 2)
        tree.cells("#size-cells", 2)
        tree.strings("compatible", "simple-bus")
        tree.flag("ranges")
        _plic(tree)
        with tree.node(f"test@{board.FINISHER_BASE:x}"):
            tree.strings("compatible", "sifive,test1", "sifive,test0", "syscon")
            tree.region(board.FINISHER_BASE, board.FINISHER_SIZE)
            tree.cells("phandle", _FINISHER_PHANDLE)
        with tree.node(f"rtc@{board.RTC_BASE:x}"):
            tree.strings("compatible", "google,goldfish-rtc")
            tree.region(board.RTC_BASE, board.RTC_SIZE)
            tree.interrupt(board.RTC_IRQ)
        with tree.node(f"serial@{board.UART_BASE:x}"):
            tree.strings("compatible", "ns16550a")
            tree.region(board.UART_BASE, board.UART_SIZE)
            tree.interrupt(board.UART_IRQ)
            tree.cells("clock-frequency", board.UART_CLOCK_HZ)
        for slot in slots:
            with tree.node(f"virtio_mmio@{slot.address:x}"):
                tree.strings("compatible", "virtio,mmio")
                tree.region(slot.address, board.VIRTIO_SIZE)
                tree.interrupt(slot.irq)


def _plic(tree: _Tree) -> None:
    with tree.node(f"plic@{board.PLIC_BASE:x}"):
        tree.strings("compatible", "sifive,plic-1.0.0", "riscv,plic0")
        tree.region(board.PLIC_BASE, board.PLIC_SIZE)
        tree.cells("#interrupt-cells", 1)
        tree.cells("#address-cells", 0)
        tree.flag("interrupt-controller")
        tree.cells("riscv,ndev", board.PLIC_SOURCES)
        tree.cells("interrupts-extended", _INTC_PHANDLE, _M_EXTERNAL, _INTC_PHANDLE, _S_EXTERNAL)
        tree.cells("phandle", _PLIC_PHANDLE)
