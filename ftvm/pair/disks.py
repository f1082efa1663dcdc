# SPDX-License-Identifier: GPL-2.0-or-later
"""The images of one side: copies of the user's images in the side's own directory, `STATE/a/disk0.img` and so on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ftvm.config import MachineConfig
from ftvm.disk.image import DiskImage
from ftvm.disk.storage import copy_sparse
from ftvm.state_dir import StateDir
from ftvm.world.poller import Poller


class SideDisks:
    """All disks of one side."""

    def __init__(self, config: MachineConfig, state: StateDir, member: str) -> None:
        """Open the side's images; those that are missing are made, as copies of the user's images where there are any.

        DiskRefused when one is in use or of another size.
        """
        directory = state.side(member)
        self.images: list[DiskImage] = []
        for unit, table in enumerate(config.disk):
            path = directory / f"disk{unit}.img"
            assert table.size is not None, "the configuration is settled before disks are opened"
            if not path.exists():
                _copy_in(config.disk_path(unit, state.path), path, table.size)
            self.images.append(DiskImage(path, table.size))

    def durable(self, executed: int) -> int:
        """The last entry up to which every flush has reached every disk."""
        return min((image.durable(executed) for image in self.images), default=executed)

    def check(self) -> None:
        """Raise DiskFailure when a disk has failed."""
        for image in self.images:
            image.check()

    def sync(self) -> None:
        """Everything written so far is durable when this returns."""
        for image in self.images:
            image.sync()

    def watch(self, poller: Poller, news: Callable[[], None]) -> None:
        """Call `news` in the poller's loop whenever a sync has become durable."""
        for image in self.images:
            poller.watch(image.fileno(), True, False, _listener(image, news))

    def close(self) -> None:
        """Release the images."""
        for image in self.images:
            image.close()


def _listener(image: DiskImage, news: Callable[[], None]) -> Callable[[bool, bool], None]:
    def call(readable: bool, writable: bool) -> None:
        image.acknowledge()
        news()

    return call


def _copy_in(source: Path, target: Path, size: int) -> None:
    """The user's image, where there is one; complete or not there at all."""
    if source.is_file():
        copy_sparse(source, target, size)
