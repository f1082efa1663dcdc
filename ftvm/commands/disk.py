# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm disk`: take a disk out of a pair that does not run.

Which side's image is the newest is decided as at a cold start, and refused in words where it cannot be known; `--side`
overrides that, for somebody who knows better.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftvm.commands.options import log_json_option, state_dir_option

if TYPE_CHECKING:
    from ftvm.config import MachineConfig
    from ftvm.say import Say
    from ftvm.state_dir import StateDir

_CHUNK = 1 << 20


@click.group()
def command() -> None:
    """Copy a stopped pair's disk out."""


@command.command()
@click.argument("arguments", metavar="[NAME] FILE", nargs=-1, required=True)
@state_dir_option
@click.option("--disk", "unit", type=click.IntRange(min=0), default=0, show_default=True, help="Which [[disk]].")
@click.option("--side", type=click.Choice(["a", "b"]), help="Take this side's image, newest or not.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@log_json_option
def export(
    arguments: tuple[str, ...], state_dir: Path | None, unit: int, side: str | None, force: bool, log_json: bool
) -> None:
    """Copy the newest image of a stopped pair's disk to FILE: raw, sparse, synced."""
    from ftvm.config import load
    from ftvm.say import Say
    from ftvm.state_dir import StateDirError, find

    if len(arguments) > 2:
        raise click.UsageError("give [NAME] FILE")
    state = find(arguments[0] if len(arguments) == 2 else None, state_dir)
    target = Path(arguments[-1])
    if not state.machine.exists():
        raise StateDirError(f"{state.path}: no pair was ever started here: there is no {state.machine.name}")
    config = load(state.machine)
    if unit >= len(config.disk):
        raise click.UsageError(f"there is no disk {unit}; the pair has {len(config.disk)}")
    if target.exists() and not force:
        raise StateDirError(f"{target} exists already; --force replaces it")
    chosen = side or newest_side(state, config)
    say = Say("export", log_json)
    copied = copy_out(state.image(chosen, unit), target, say)
    say.info(f"copied side {chosen}'s disk {unit} to {target}: {copied} bytes of data", side=chosen, bytes=copied)


def newest_side(state: StateDir, config: MachineConfig) -> str:
    """The side whose images are the newest; ColdStartRefused when that cannot be known."""
    from ftvm.arbiter.file import FileArbiter
    from ftvm.disk.choose import choose
    from ftvm.disk.errors import DiskRefused
    from ftvm.disk.metadata import read_metadata
    from ftvm.state_dir import SIDES

    arbiter = FileArbiter(state.resolve(config.pair.arbiter.argument), config.name)
    notes = {side: read_metadata(state.side(side)) for side in SIDES}
    side = choose(arbiter.history(), notes, config.name)
    if side is None:
        raise DiskRefused(f"{state.path}: the pair has never been live, so no image holds more than the user's own")
    return side


def copy_out(source: Path, target: Path, say: Say) -> int:
    """Copy an image without its holes, whole or not at all; returns the bytes of data in it. DiskRefused."""
    from ftvm.disk.errors import DiskRefused
    from ftvm.disk.image import finish
    from ftvm.disk.storage import data_extents

    part = target.with_name(target.name + ".part")
    try:
        finish(source)
        with _held(source) as reader, part.open("wb") as writer:
            size = os.fstat(reader).st_size
            os.ftruncate(writer.fileno(), size)
            extents = list(data_extents(reader, size))
            total = sum(end - start for start, end in extents)
            with say.progress(f"copying {source.name}", total) as progress:
                for start, end in extents:
                    for offset in range(start, end, _CHUNK):
                        data = os.pread(reader, min(_CHUNK, end - offset), offset)
                        writer.seek(offset)
                        writer.write(data)
                        progress.advance(len(data))
            writer.flush()
            os.fsync(writer.fileno())
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DiskRefused(f"{source} cannot be copied to {target}: {error.strerror}") from None
    return total


@contextmanager
def _held(source: Path) -> Iterator[int]:
    """The image open for reading, and kept from being opened by a side that starts meanwhile."""
    from ftvm.disk.errors import DiskRefused

    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield reader
    except BlockingIOError:
        raise DiskRefused(f"{source} is in use: stop the pair first") from None
    finally:
        os.close(reader)
