# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: a guest on QEMU, and blockd with a disk and a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from .port_client import PortClient
from .qemu import QemuGuest

DISK_BYTES = 8 << 20

StartGuest = Callable[..., QemuGuest]
StartBlockd = Callable[..., "Blockd"]


@dataclass(slots=True)
class Blockd:
    """A running blockd, its disk image and a client of its port."""

    guest: QemuGuest
    image: Path
    port: Path
    client: PortClient

    def on_disk(self, offset: int, length: int) -> bytes:
        """What the image holds."""
        with self.image.open("rb") as file:
            file.seek(offset)
            return file.read(length)


@pytest.fixture
def start_guest(tmp_path: Path) -> Iterator[StartGuest]:
    """Starts guests: start_guest(name, arguments, devices, memory)."""
    with ExitStack() as stack:

        def start(name: str, arguments: str = "", devices: Sequence[str] = (), memory: int = 16) -> QemuGuest:
            return stack.enter_context(QemuGuest(tmp_path, name, arguments, devices, memory))

        yield start


@pytest.fixture
def start_blockd(tmp_path: Path, start_guest: StartGuest) -> Iterator[StartBlockd]:
    """Starts blockd: `content` is the disk's start, `device` and `console` are options, `disk` replaces the drive."""
    with ExitStack() as stack:

        def start(
            arguments: str = "",
            content: bytes = b"",
            device: str = "",
            disk: Sequence[str] = (),
            memory: int = 16,
            console: str = "",
        ) -> Blockd:
            image, port = tmp_path / "disk.img", tmp_path / "port"
            image.write_bytes(content)
            with image.open("r+b") as file:
                file.truncate(DISK_BYTES)
            drive = disk or ("-drive", f"file={image},if=none,id=disk,format=raw,discard=unmap,cache=writeback")
            devices = [
                *(*drive, "-device", f"virtio-blk-device,drive=disk{device}"),
                *("-chardev", f"socket,id=port,path={port},server=on,wait=off"),
                *("-device", f"virtio-serial-device{console}"),
                *("-device", "virtserialport,chardev=port,name=ftvm.block"),
            ]
            guest = start_guest("blockd", arguments, devices, memory)
            client = PortClient(port)
            stack.callback(client.close)
            guest.wait_for(f"blockd: ready, {DISK_BYTES // 512} sectors")
            return Blockd(guest, image, port, client)

        yield start
