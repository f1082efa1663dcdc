# SPDX-License-Identifier: GPL-2.0-or-later
"""What was fetched or made (`versions.txt`, `debian.txt`), in which versions, with which sums.

Written last: without it nothing is complete.

PACKAGE <tab> VERSION        each package, as the mirror had it
SHA-256 <two spaces> FILE    each file that a machine file may name; `sha256sum -c` reads these lines too
# wanted: {...}              what was asked for, so that asking again for the same is answered at once
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ftvm.linux.errors import FetchError

NAME: Final = "versions.txt"
FILES: Final = ("vmlinux", "initramfs.cpio.gz", "u-boot.bin")
_WANTED: Final = "# wanted: "
_SUM: Final = re.compile(r"([0-9a-f]{64})  (\S+)")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a directory may hold: the manifest's name, the files that it vouches for, the command that makes them."""

    name: str
    files: tuple[str, ...]
    command: str


STOCK: Final = Kind(NAME, FILES, "ftvm guest fetch")
ROOT: Final = Kind("debian.txt", ("debian.ext4",), "ftvm guest root")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One `versions.txt`. `wanted` is plain JSON."""

    packages: tuple[str, ...]  # "name<tab>version"
    sums: dict[str, str]  # file -> SHA-256 in hexadecimal
    wanted: dict[str, Any]

    def text(self) -> str:
        """The file's content."""
        lines = [*self.packages, *(f"{digest}  {name}" for name, digest in self.sums.items())]
        return "\n".join([*lines, _WANTED + json.dumps(self.wanted, sort_keys=True)]) + "\n"


def make(directory: Path, packages: Sequence[str], wanted: dict[str, Any], kind: Kind = STOCK) -> Manifest:
    """The manifest of the files that are in `directory` now."""
    return Manifest(tuple(packages), {name: digest_of(directory / name) for name in kind.files}, wanted)


def read(directory: Path, kind: Kind = STOCK) -> Manifest:
    """What was fetched to `directory`; FetchError when nothing was, or not to its end."""
    path = directory / kind.name
    try:
        lines = path.read_text().splitlines()
        asked = [json.loads(line.removeprefix(_WANTED)) for line in lines if line.startswith(_WANTED)]
    except FileNotFoundError:
        raise FetchError(
            f"{directory}: there is no {kind.name}: nothing was fetched here, or not to its end; "
            f"`{kind.command}` does it"
        ) from None
    except (OSError, ValueError) as error:
        raise FetchError(f"{path}: cannot be read: {error}") from None
    sums = {match[2]: match[1] for line in lines if (match := _SUM.fullmatch(line))}
    if missing := [name for name in kind.files if name not in sums]:
        raise FetchError(f"{path}: has no sum of {missing[0]}; fetch again")
    return Manifest(tuple(line for line in lines if "\t" in line), sums, asked[0] if asked else {})


def check(directory: Path, kind: Kind = STOCK) -> Manifest:
    """Compare every file with its sum; FetchError with one line for each that differs."""
    manifest = read(directory, kind)
    wrong = []
    for name, expected in manifest.sums.items():
        path = directory / name
        if not path.is_file():
            wrong.append(f"{path}: is missing")
        elif digest_of(path) != expected:
            wrong.append(f"{path}: is not what was fetched: its SHA-256 differs from the one in {kind.name}")
    if wrong:
        raise FetchError("\n".join([*wrong, "fetch again, or put back what was there"]))
    return manifest


def digest_of(path: Path) -> str:
    """SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
