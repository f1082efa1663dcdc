# SPDX-License-Identifier: GPL-2.0-or-later
"""One package's file: what it says of itself, and its files, laid down with a note of who is to own them.

    control archive    control (the fields), conffiles, md5sums, triggers, preinst, postinst, ... -> `Deb.control`
    data archive       the files                                                                  -> `lay_down`

`dpkg-deb` unpacks both; only archives of which apt has checked the sums come here.
"""

from __future__ import annotations

import posixpath
import subprocess
import tarfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from ftvm.linux.errors import FetchError


@dataclass(frozen=True, slots=True)
class Owned:
    """What a file of a package is to be, whoever unpacks it."""

    mode: int
    uid: int
    gid: int
    mtime: int  # seconds


@dataclass(frozen=True, slots=True)
class Deb:
    """One unpacked package. Paths are absolute, in the order of the archive."""

    fields: str  # of the control file, one a line, without an empty line at the end
    control: dict[str, bytes]  # the control archive's other files
    files: dict[str, Owned] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """One field, empty when it is not there."""
        found = [line.partition(":")[2] for line in self.fields.splitlines() if line.startswith(f"{name}:")]
        return found[0].strip() if found else ""

    @property
    def name(self) -> str:
        """The package's name."""
        return self.value("Package")

    @property
    def known_as(self) -> str:
        """The name by which dpkg's database knows it: with the architecture where several may be installed."""
        return f"{self.name}:{self.value('Architecture')}" if self.value("Multi-Arch") == "same" else self.name


def lay_down(file: Path, root: Path) -> Deb:
    """Unpack a package into `root`: files belong to whoever runs this, modes and times are the package's."""
    control = _members(_dpkg_deb("--ctrl-tarfile", file))
    data = _dpkg_deb("--fsys-tarfile", file)
    extract = ["tar", "-x", "-p", "-f", "-", "--no-same-owner", "--keep-directory-symlink", "-C", str(root)]
    done = subprocess.run([*extract, "--warning=no-timestamp"], input=data, capture_output=True)
    if done.returncode:
        raise FetchError(f"{file.name} cannot be unpacked: {done.stderr.decode(errors='replace').strip()}")
    return Deb(control.pop("control").decode().rstrip("\n"), control, _owned(data))


def _dpkg_deb(option: str, file: Path) -> bytes:
    done = subprocess.run(["dpkg-deb", option, str(file)], capture_output=True)
    if done.returncode:
        raise FetchError(f"{file} cannot be read: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _members(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                found[posixpath.normpath(member.name)] = content.read()
    return found


def _owned(archive: bytes) -> dict[str, Owned]:
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        return {
            posixpath.normpath(f"/{member.name}"): Owned(member.mode, member.uid, member.gid, int(member.mtime))
            for member in tar
        }
