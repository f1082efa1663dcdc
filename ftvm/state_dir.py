# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair's state directory: everything that it keeps, and who works in it.

    STATE/                      $XDG_STATE_HOME/ftvm/NAME, by default ~/.local/state/ftvm/NAME; mode 0700
        machine.toml            the machine file as it was settled at the last start
        lock                    held (flock) by the launcher, whose process it names
        arbiter/                the file arbiter's grants, unless the machine file puts them elsewhere
        a/, b/                  one directory a side: lock, status.json, image.json, disk0.img ...
        console.log, nbd.sock   what the machine file names by relative paths

A lock dies with its process, so a killed launcher leaves nothing that has to be cleaned up by hand.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any

from ftvm.process import Process

SIDES = ("a", "b")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class StateDirError(Exception):
    """A state directory that is missing, taken, or unusable; told in words."""


class StateDir:
    """Paths in one state directory."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    @property
    def machine(self) -> Path:
        """The settled machine file."""
        return self.path / "machine.toml"

    def side(self, side: str) -> Path:
        """The directory of side "a" or "b"."""
        assert side in SIDES, side
        return self.path / side

    def status(self, side: str) -> Path:
        """The file that a side writes its status to."""
        return self.side(side) / "status.json"

    def image(self, side: str, unit: int) -> Path:
        """A side's own copy of disk `unit`."""
        return self.side(side) / f"disk{unit}.img"

    def resolve(self, path: str) -> Path:
        """A path of the machine file that is relative to the state directory."""
        return self.path / Path(path).expanduser()

    def create(self) -> None:
        """Make the directory and those of its sides."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for side in SIDES:
                self.side(side).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StateDirError(f"{self.path}: cannot be used as a state directory: {error.strerror}") from None

    def keep_machine(self, text: str) -> None:
        """Keep the settled machine file."""
        write_atomically(self.machine, text.encode())

    def lock(self) -> Lock:
        """Become the launcher of this directory; StateDirError when another process is."""
        return Lock(self.path)

    def lock_side(self, side: str) -> Lock:
        """Become the only process that works in a side's directory; StateDirError when another one does."""
        return Lock(self.side(side))

    def side_process(self, side: str) -> Process | None:
        """The living process that works in a side's directory, or None."""
        return _holder(self.side(side))

    def launcher_process(self) -> Process | None:
        """The living launcher, or None."""
        return _holder(self.path)


class Lock:
    """A directory's lock, held by at most one process; not inherited across exec, so children do not keep it."""

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateDirError(f"{path}: cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            holder = _holder(directory)
            who = f"process {holder.pid}" if holder is not None else "another process"
            raise StateDirError(f"{directory}: is in use by {who}; stop it, or give another --state-dir") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(Process.current().save()).encode(), 0)

    def release(self) -> None:
        """Let another process in."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _holder(directory: Path) -> Process | None:
    process = Process.load(read_json(directory / "lock"))
    return process if process is not None and process.alive else None


def root() -> Path:
    """Where the state directories of this user's pairs are."""
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".local" / "state") / "ftvm"


def default_path(name: str) -> Path:
    """The state directory of the pair called `name`."""
    return root() / name


def known_pairs() -> list[str]:
    """Names of the pairs that have a state directory at the default place."""
    try:
        return sorted(path.parent.name for path in root().glob("*/machine.toml"))
    except OSError:
        return []


def find(name: str | None, state_dir: Path | str | None) -> StateDir:
    """An existing state directory, by the pair's name or by path; with neither, the only pair that there is."""
    if state_dir is not None:
        return _existing(StateDir(state_dir), f"{state_dir}: there is no such state directory")
    pairs = known_pairs()
    if name is None:
        if len(pairs) != 1:
            raise StateDirError(f"say which pair, by NAME or --state-dir{_listed(pairs)}")
        name = pairs[0]
    if _NAME.fullmatch(name) is None:
        raise StateDirError(f'"{name}" is not the name of a pair; for a directory use --state-dir')
    return _existing(StateDir(default_path(name)), f'there is no pair "{name}"{_listed(pairs)}')


def _existing(state: StateDir, message: str) -> StateDir:
    if not state.path.is_dir():
        raise StateDirError(message)
    return state


def _listed(pairs: list[str]) -> str:
    return f" (there are: {', '.join(pairs)})" if pairs else f" (there are none in {root()})"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader sees the old or the new content; not synced, since it describes the present."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file; empty when there is none that can be read."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
