# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole page. It is made from a machine that has one of everything, so it cannot say what the code does not do."""

from __future__ import annotations

from collections.abc import Iterator

import libfdt

from ftvm.config import MachineConfig, parse
from ftvm.image import LoadedImage, load_image
from ftvm.machine import Machine
from ftvm.reference.deviations import deviations
from ftvm.reference.firmware import firmware
from ftvm.reference.hardware import all_devices, memory_map
from ftvm.reference.markdown import code, table, text
from ftvm.reference.processor import images, processor
from ftvm.scratch_disk import ScratchDisk

HEAD = """\
# The machine

What a guest finds: every address, register, call and feature. This page is printed by `ftvm machine reference`, from
the code's own tables and from a machine that is built for it; a test compares it.
"""
MIB = 1 << 20


def page() -> str:
    """The reference page, in Markdown."""
    config = example()
    image = load_image(config)
    machine = Machine(config, image, [ScratchDisk(disk.size or 0) for disk in config.disk])
    try:
        sections = [
            memory_map(machine),
            processor(machine.hart.registers()),
            images(image, config.machine.memory),
            _tree(image),
            firmware(),
            all_devices(machine),
            deviations(),
        ]
    finally:
        machine.close()
    return HEAD + "\n" + "\n".join(line for lines in sections for line in lines).rstrip() + "\n"


def example() -> MachineConfig:
    """A machine with one of everything."""
    return parse(
        {
            "name": "reference",
            "machine": {"kernel": "blockd", "memory": "64 MiB"},
            "disk": [{"image": "disk0.img", "size": "16 MiB"}],
            "network": [{"backend": "none"}],
            "service": {"block": {}},
        },
        "reference",
    )


def _tree(image: LoadedImage) -> list[str]:
    content = next(content for place, content in image.segments if place == image.dtb_address)
    fdt = libfdt.Fdt(content)
    rows = [(code(path), ", ".join(map(code, compatible))) for path, compatible in _compatible(fdt)]
    room = fdt.totalsize() - fdt.off_dt_strings() - fdt.size_dt_strings()
    return [
        "## Device tree",
        "",
        *table(("node", "compatible"), rows),
        *text(
            "`/chosen` has `bootargs` (the machine file's `cmdline`), `stdout-path`, `rng-seed` (equal on every boot",
            "and side, made from the machine file's `seed`), and the initrd's place.",
            f"There are {room >> 10} KiB of room behind the tree.",
        ),
    ]


def _compatible(fdt: libfdt.Fdt) -> Iterator[tuple[str, list[str]]]:
    """Path and compatible strings of every node that has some."""
    offset, depth = 0, 0
    while offset >= 0:
        found = fdt.getprop(offset, "compatible", [libfdt.NOTFOUND])
        if isinstance(found, bytes | bytearray):
            yield fdt.get_path(offset), bytes(found).rstrip(b"\0").decode().split("\0")
        offset, depth = fdt.next_node(offset, depth, [libfdt.NOTFOUND])
        if depth < 0:
            break
