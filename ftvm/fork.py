# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that goes live from a place of a recording: what was until there stays, what comes then is another story.

    recording   entry entry entry [place] entry entry
                                     |
                                     +--> state and disks --> a side of its own, alone: STATE/a, and a new recording

The epoch that the place is in ends there. The new recording begins with the state, so it needs nothing of its parent;
it only names it, in its header's notes. The state directory is a new one: addresses of the machine file that are
relative to it (the console, the service's socket) are the fork's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final

from ftvm.config import MachineConfig, PairTable
from ftvm.config_values import Backend
from ftvm.debugger import Debugger
from ftvm.disk.image import DiskImage
from ftvm.image import ImageFiles
from ftvm.machine import FINAL, EpochEnd
from ftvm.pair.side import Origin
from ftvm.scratch_disk import ScratchDisk
from ftvm.state_dir import SIDES, StateDir, StateDirError
from replay.errors import LogError
from replay.position import Position

OVER: Final = FINAL - {EpochEnd.STOPPED}  # an operator's stop is no end for the guest


def free_name(log: Path) -> Path:
    """Where a fork's recording goes when nobody says: LOG.fork1, LOG.fork2, ..."""
    return next(path for n in count(1) if not (path := log.with_name(f"{log.name}.fork{n}")).exists())


def fork_config(config: MachineConfig, *, terminal: bool) -> MachineConfig:
    """The parent's machine, as far as the guest sees it; nothing of the parent's pair. Its console on the terminal."""
    disks = tuple(disk.model_copy(update={"image": f"disk{unit}.img"}) for unit, disk in enumerate(config.disk))
    changes: dict[str, object] = {"disk": disks, "pair": PairTable()}
    if terminal:
        changes["console"] = config.console.model_copy(update={"backend": Backend("stdio")})
    return config.model_copy(update=changes)


def new_state_dir(path: Path) -> StateDir:
    """A state directory that no machine has used; StateDirError."""
    state = StateDir(path)
    if state.path.exists() and any(state.path.iterdir()):
        raise StateDirError(f"{state.path}: is not empty; a fork needs a state directory of its own: give --state-dir")
    return state


def origin_at(debugger: Debugger, place: Position) -> Origin:
    """Go there, and take the state; the debugger's timeline is of no use then. LogError when the guest is over."""
    timeline, log = debugger.timeline, debugger.reader.path
    reached = timeline.seek(place)
    if not timeline.inside and reached.sequence >= timeline.entries.first:
        _go_on_possible(timeline.entries[reached.sequence][1].reason, log)
    cut = timeline.leave()
    if cut is not None:
        _go_on_possible(cut.reason, log)
    return Origin(debugger.machine.save(), debugger.parentage(reached))


def _go_on_possible(reason: int, log: Path) -> None:
    if reason in OVER:
        how = EpochEnd(reason).name.lower()
        raise LogError(f"{log}: the guest is over there ({how}): nothing can go on; choose a place before its end")


def copy_images(config: MachineConfig, files: ImageFiles, state: StateDir) -> MachineConfig:
    """The images of a pack, as files of the fork's own. OSError."""
    paths = {}
    for name, content in files.items():
        path = state.path / name
        path.write_bytes(content)
        paths[name] = str(path)
    return config.model_copy(update={"machine": config.machine.model_copy(update=paths)})


def copy_disks(disks: Sequence[ScratchDisk], state: StateDir) -> None:
    """The images of the fork's side: the disks as they were. DiskRefused, DiskFailure."""
    for unit, disk in enumerate(disks):
        image = DiskImage(state.image(SIDES[0], unit), disk.capacity)
        try:
            for index in disk.data_chunks():
                image.write_chunk(index, disk.read_chunk(index))
            image.sync()
        finally:
            image.close()
