# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm machine`: an example machine file, a check of one before it is run, and the machine's reference page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftvm.commands.options import json_option, machine_argument, print_json, state_dir_option

if TYPE_CHECKING:
    from ftvm.config import MachineConfig


@click.group()
def command() -> None:
    """Write an example machine file, check one, make keys, describe the machine."""


@command.command()
@click.option("--name", default="disk0", help="The pair's name in it.", show_default=True)
def example(name: str) -> None:
    """Print a commented machine file with every default in it."""
    from ftvm.config_text import example as text

    click.echo(text(name), nl=False)


@command.command()
def reference() -> None:
    """Print the machine's reference page: memory map, interrupts, registers, features, firmware calls."""
    from ftvm.reference.page import page

    click.echo(page(), nl=False)


@command.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def keys(file: Path) -> None:
    """Write new channel keys to FILE, for `[pair] keys`. Both hosts of a pair need the same file."""
    from ftvm.config_keys import write_keys

    write_keys(file)


@command.command()
@machine_argument
@state_dir_option
@json_option
def check(machine: Path, state_dir: Path | None, as_json: bool) -> None:
    """Check a machine file and the images that it names, and show the machine that it describes."""
    from ftvm.config import load
    from ftvm.state_dir import default_path

    config = load(machine)
    found = summary(config, state_dir or default_path(config.name))
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        for line in value if isinstance(value, list) else [value]:
            click.echo(f"{key.replace('_', ' '):<16}{line}")


def summary(config: MachineConfig, state: Path) -> dict[str, Any]:
    """What the file describes, images loaded; raises ConfigError or ImageError."""
    from ftvm.config_values import format_size
    from ftvm.image import load_image

    settled = config.settled(state)
    image = load_image(settled)
    block = config.service_block
    return {
        "name": config.name,
        "state_dir": str(state),
        "memory": format_size(config.machine.memory),
        "kernel": str(config.kernel_path or f"{config.machine.kernel} (bundled)"),
        "entry": f"{image.entry:#x}",
        "device_tree": f"{image.dtb_address:#x}",
        "slots": [f"{slot.index}: {slot.name} at {slot.address:#x}, interrupt {slot.irq}" for slot in config.slots],
        "disks": [
            f"{unit}: {format_size(disk.size or 0)}, {_origin(config, unit, state)}"
            for unit, disk in enumerate(settled.disk)
        ],
        "serves": [str(address) for address in block.listen] if block is not None else [],
        "restart": config.driver_restart,
        "configuration": settled.digest(),
        "images": [f"{name} {digest}" for name, digest in image.digests.items()],
    }


def _origin(config: MachineConfig, unit: int, state: Path) -> str:
    path = config.disk_path(unit, state)
    if path.exists():
        return f"copied from {path} at the first start"
    beside = config.base / config.disk[unit].image
    hint = f"; {beside} is not it: images are looked for in the state directory" if beside.exists() else ""
    return f"new and empty at the first start (there is no {path}){hint}"
