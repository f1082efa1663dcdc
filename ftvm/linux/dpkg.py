# SPDX-License-Identifier: GPL-2.0-or-later
"""dpkg's database for a tree whose packages were laid down by hand: as after `dpkg --unpack`, before `--configure`.

    var/lib/dpkg/status                    each package's fields, "install ok unpacked", sums of its conffiles
    var/lib/dpkg/info/NAME.{list,...}      its files, and its control archive's files
    var/lib/dpkg/triggers/{File,TRIGGER}   who wants to know when something changes

From there the guest's own dpkg does the rest, and knows no difference: deb-triggers(5), and dpkg's doc/triggers.txt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ftvm.linux.deb import Deb

_ADMIN: Final = Path("var/lib/dpkg")
_EMPTY: Final = ("available", "diversions", "statoverride", "lock", "triggers/Lock", "triggers/Unincorp")
_NOAWAIT: Final = "/noawait"


def write_database(root: Path, packages: Sequence[Deb]) -> None:
    """Write the database of these packages, which are laid down in `root`."""
    admin = root / _ADMIN
    for name in ("info", "triggers", "updates", "alternatives", "parts"):
        (admin / name).mkdir(parents=True, exist_ok=True)
    for name in _EMPTY:
        (admin / name).write_bytes(b"")
    (admin / "info/format").write_text("1\n")
    (admin / "status").write_text("".join(_status(root, package) + "\n" for package in packages))
    for package in packages:
        _info(admin / "info", package)
    _triggers(admin / "triggers", packages)


def _status(root: Path, package: Deb) -> str:
    first, *others = package.fields.splitlines()
    lines = [first, "Status: install ok unpacked", *others]
    if conffiles := list(_conffiles(package)):
        lines.append("Conffiles:")
        for name in conffiles:
            digest = hashlib.md5((root / name.lstrip("/")).read_bytes(), usedforsecurity=False).hexdigest()
            lines.append(f" {name} {digest}")
    return "\n".join(lines) + "\n"


def _conffiles(package: Deb) -> Iterator[str]:
    """Conffiles that the package brings; it may also name some that are to go."""
    for line in package.control.get("conffiles", b"").decode().splitlines():
        flag, _, name = line.strip().rpartition(" ")
        if name and flag != "remove-on-upgrade":
            yield name


def _info(directory: Path, package: Deb) -> None:
    names = ["/." if name == "/" else name for name in package.files]
    (directory / f"{package.known_as}.list").write_text("".join(f"{name}\n" for name in names))
    for name, content in package.control.items():
        path = directory / f"{package.known_as}.{name}"
        path.write_bytes(content)
        path.chmod(0o755 if content.startswith(b"#!") else 0o644)


def _triggers(directory: Path, packages: Sequence[Deb]) -> None:
    wanted: dict[str, list[str]] = {}
    for package in packages:
        for trigger, flag in _interests(package):
            wanted.setdefault(trigger, []).append(f"{package.known_as}{flag}")
    files = [f"{trigger} {who}\n" for trigger, names in wanted.items() if trigger.startswith("/") for who in names]
    (directory / "File").write_text("".join(files))
    for trigger, names in wanted.items():
        if not trigger.startswith("/"):
            (directory / trigger).write_text("".join(f"{who}\n" for who in names))


def _interests(package: Deb) -> Iterator[tuple[str, str]]:
    for line in package.control.get("triggers", b"").decode().splitlines():
        words = line.partition("#")[0].split()
        if len(words) == 2 and words[0].startswith("interest"):
            yield words[1], _NOAWAIT if words[0] == "interest-noawait" else ""
