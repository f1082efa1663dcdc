# SPDX-License-Identifier: GPL-2.0-or-later
"""The board's table, and the device tree that is made from it."""

from __future__ import annotations

from itertools import pairwise

import libfdt
import pytest

from ftvm import board
from ftvm.device_tree import ROOM, build_device_tree


def tree(memory: int = 64 << 20, **kwargs: object) -> libfdt.Fdt:
    """A parsed device tree of a machine with two disks, a network, a port and entropy."""
    return libfdt.Fdt(build_device_tree(memory, board.virtio_slots(2, 1, True), **kwargs))  # type: ignore[arg-type]


def test_slots_are_disks_then_networks_then_the_port_then_entropy() -> None:
    names = [slot.name for slot in board.virtio_slots(2, 1, True)]
    assert names == ["disk0", "disk1", "network0", "port0", "entropy0"]
    assert [slot.name for slot in board.virtio_slots(1, 0, False)] == ["disk0", "entropy0"]


def test_a_slot_has_the_address_and_interrupt_of_qemu_virt() -> None:
    last = board.virtio_slots(5, 1, True)[-1]
    assert (last.index, last.address, last.irq) == (7, 0x1000_8000, 8)


def test_windows_do_not_overlap_each_other_or_ram() -> None:
    windows = [
        (board.FINISHER_BASE, board.FINISHER_SIZE),
        (board.RTC_BASE, board.RTC_SIZE),
        (board.PLIC_BASE, board.PLIC_SIZE),
        (board.UART_BASE, board.UART_SIZE),
        *((board.VIRTIO_BASE + i * board.VIRTIO_SIZE, board.VIRTIO_SIZE) for i in range(board.VIRTIO_SLOTS)),
        (board.RAM_BASE, board.MEMORY_MAX),
    ]
    windows.sort()
    assert all(base + size <= following for (base, size), (following, _) in pairwise(windows))


def test_the_tree_says_how_much_memory_there_is() -> None:
    fdt = tree(memory=16 << 20)
    reg = bytes(fdt.getprop(fdt.path_offset("/memory@80000000"), "reg"))
    assert reg == (0x8000_0000).to_bytes(8) + (16 << 20).to_bytes(8)


def test_the_tree_carries_command_line_initrd_and_console() -> None:
    fdt = tree(cmdline="console=ttyS0 quiet", initrd=(0x8300_0000, 0x8300_1234))
    chosen = fdt.path_offset("/chosen")
    assert fdt.getprop(chosen, "bootargs").as_str() == "console=ttyS0 quiet"
    assert bytes(fdt.getprop(chosen, "linux,initrd-start")) == (0x8300_0000).to_bytes(8)
    assert bytes(fdt.getprop(chosen, "linux,initrd-end")) == (0x8300_1234).to_bytes(8)
    console = fdt.getprop(chosen, "stdout-path").as_str()
    assert fdt.getprop(fdt.path_offset(console), "compatible").as_str() == "ns16550a"


def test_the_cpu_is_described_in_the_old_and_the_new_way() -> None:
    fdt = tree()
    cpu = fdt.path_offset("/cpus/cpu@0")
    assert fdt.getprop(cpu, "riscv,isa").as_str() == "rv64imafdc"
    assert fdt.getprop(cpu, "riscv,isa-base").as_str() == "rv64i"
    assert bytes(fdt.getprop(cpu, "riscv,isa-extensions")).split(b"\0")[:6] == [b"i", b"m", b"a", b"f", b"d", b"c"]
    assert fdt.getprop(cpu, "mmu-type").as_str() == "riscv,sv39"
    assert fdt.getprop(fdt.path_offset("/cpus"), "timebase-frequency").as_uint32() == 10_000_000


@pytest.mark.parametrize("slot", board.virtio_slots(2, 1, True), ids=lambda slot: str(slot.name))
def test_every_slot_is_listed_with_its_window_and_interrupt(slot: board.VirtioSlot) -> None:
    fdt = tree()
    node = fdt.path_offset(f"/soc/virtio_mmio@{slot.address:x}")
    assert bytes(fdt.getprop(node, "reg")) == slot.address.to_bytes(8) + (0x1000).to_bytes(8)
    assert fdt.getprop(node, "interrupts").as_uint32() == slot.irq
    plic = fdt.node_offset_by_phandle(fdt.getprop(node, "interrupt-parent").as_uint32())
    assert fdt.get_name(plic) == "plic@c000000"


def test_power_off_and_reboot_lead_to_the_finisher() -> None:
    fdt = tree()
    for name, value in (("poweroff", 0x5555), ("reboot", 0x7777)):
        node = fdt.path_offset(f"/{name}")
        assert fdt.getprop(node, "value").as_uint32() == value
        finisher = fdt.node_offset_by_phandle(fdt.getprop(node, "regmap").as_uint32())
        assert fdt.get_name(finisher) == "test@100000"


def test_both_sides_build_the_same_bytes_and_the_seed_changes_only_its_property() -> None:
    assert tree(seed=1).as_bytearray() == tree(seed=1).as_bytearray()
    one, two = tree(seed=1), tree(seed=2)
    assert bytes(one.getprop(one.path_offset("/chosen"), "rng-seed")) != bytes(
        two.getprop(two.path_offset("/chosen"), "rng-seed")
    )
    assert len(one.as_bytearray()) == len(two.as_bytearray())


def test_a_tree_is_built_whatever_its_size() -> None:
    """The writer's buffer does not grow when the tree is finished: every length of command line must do."""
    for length in range(0, 1024):
        assert tree(cmdline="x" * length, initrd=(0x8400_0000, 0x8410_0000)).totalsize() > length


def test_a_boot_loader_can_add_to_the_tree_where_it_lies() -> None:
    """U-Boot says what it loaded; there is room for as much as it reckons with, and none of it is needed to read."""
    fdt = tree()
    chosen = fdt.path_offset("/chosen")
    fdt.setprop(chosen, "bootargs", b"x" * 8000)
    fdt.setprop(chosen, "linux,initrd-start", bytes(8))
    assert fdt.totalsize() == tree().totalsize()
    with pytest.raises(libfdt.FdtException):
        fdt.setprop(chosen, "bootargs", b"x" * ROOM)
