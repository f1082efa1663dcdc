# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel a machine file means: the name of a bundled guest, or a path.

A bare word that is a bundled guest's name is that guest; anything else is a path, relative to the machine file. A file
of one's own that happens to be called `blockd` is written `./blockd`.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

_SUFFIX = ".elf"


@cache
def bundled_guests() -> tuple[str, ...]:
    """Names of the guests that come with the package."""
    names = (item.name for item in files("ftvm.guests").iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)))


def bundled_guest(name: str) -> bytes:
    """The ELF file of a bundled guest."""
    assert name in bundled_guests(), name
    return files("ftvm.guests").joinpath(name + _SUFFIX).read_bytes()


def is_bundled(kernel: str) -> bool:
    """True when `kernel`, as written in a machine file, names a bundled guest."""
    return kernel in bundled_guests()


def resolve(path: str, base: Path) -> Path:
    """`path` as written in the machine file that lies in `base`."""
    return base / Path(path).expanduser()
