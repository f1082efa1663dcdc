# SPDX-License-Identifier: GPL-2.0-or-later
"""An ext4 image of a directory, without mounting and without being root: the same directory gives the same bytes.

mke2fs copies the directory, and debugfs then sets what an ordinary user cannot give to files (owners), and what would
tell one making from another (the times at which the files were made here).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ftvm.linux.deb import Owned
from ftvm.linux.errors import FetchError

_SEARCH: Final = ("/usr/sbin", "/sbin")  # not in every user's PATH
_TIMES: Final = ("atime", "ctime", "mtime", "crtime")


def make_image(image: Path, size: int, tree: Path, owned: Mapping[str, Owned], uuid: str, time: int) -> None:
    """Write `image` (`size` bytes, sparse) with the files of `tree`, owned by root where `owned` does not say more.

    `uuid` is the file system's, and seeds its directories' hashes; `time` (seconds) is when it was made. FetchError
    without e2fsprogs, or when the files do not fit.
    """
    make, fix = tools()
    environment = {**os.environ, "E2FSPROGS_FAKE_TIME": str(time), "LC_ALL": "C.UTF-8"}
    _touch(tree, owned, time)
    image.unlink(missing_ok=True)
    options = f"root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard,hash_seed={uuid}"
    command = [make, "-q", "-F", "-t", "ext4", "-b", "4096", "-U", uuid, "-L", "root", "-E", options]
    _call([*command, "-d", str(tree), str(image), f"{size >> 10}k"], environment, f"{size >> 20} MiB may be too small")
    script = image.with_name(f"{image.name}.owners")
    script.write_text("".join(_commands(tree, owned, time)))
    try:
        _call([fix, "-w", "-f", str(script), str(image)], environment, "")
    finally:
        script.unlink()


def tools() -> tuple[str, str]:
    """Where mke2fs and debugfs are; FetchError when one is not there."""
    return _tool("mke2fs"), _tool("debugfs")


def _tool(name: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SEARCH])
    if (found := shutil.which(name, path=path)) is None:
        raise FetchError(f"a root file system is made by {name}, and this machine has none; install e2fsprogs")
    return found


def _call(command: list[str], environment: Mapping[str, str], hint: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    # debugfs goes on after an error, and says nothing else on standard error but its version.
    complaints = [line for line in done.stderr.splitlines() if line and not line.startswith("debugfs ")]
    if done.returncode or complaints:
        said = "\n".join(complaints[-10:]) or f"exit code {done.returncode}"
        raise FetchError(f"{Path(command[0]).name} failed: {said}" + (f" ({hint})" if hint else ""))


def _paths(tree: Path) -> Iterator[tuple[Path, str]]:
    """Every file with its absolute name inside, in order, the root first."""
    yield tree, "/"
    for path in sorted(tree.rglob("*")):
        yield path, f"/{path.relative_to(tree).as_posix()}"


def _touch(tree: Path, owned: Mapping[str, Owned], time: int) -> None:
    """Modes and times from the packages: unpacking one may have changed a directory of another."""
    for path, name in reversed(list(_paths(tree))):
        found = owned.get(name)
        if found is not None and not path.is_symlink():
            path.chmod(found.mode)
        mtime = time if found is None else found.mtime
        os.utime(path, (mtime, mtime), follow_symlinks=False)


def _commands(tree: Path, owned: Mapping[str, Owned], time: int) -> Iterator[str]:
    for _, name in _paths(tree):
        if '"' in name or "\n" in name:
            raise FetchError(f"a file system cannot be made with a file called {name!r}")
        found = owned.get(name) or Owned(0, 0, 0, time)
        yield f'sif "{name}" uid {found.uid}\nsif "{name}" gid {found.gid}\n'
        yield from (f'sif "{name}" {field} @{found.mtime}\n' for field in _TIMES)
