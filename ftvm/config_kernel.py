# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kernel a machine file means: the name of a bundled guest, or a path.

A bare word that is a bundled guest's name is that guest; anything else is a path, relative to the machine file. A file
of one's own that happens to be called `blockd` is written `./blockd`.
"""

from __future__ import annotations

from pathlib import Path

from ftvm.guests import catalog


def bundled_guests() -> tuple[str, ...]:
    """Names of the guests that come with the package."""
    return tuple(guest.name for guest in catalog.GUESTS)


def is_bundled(kernel: str) -> bool:
    """True when `kernel`, as written in a machine file, names a bundled guest."""
    return catalog.find(kernel) is not None


def bundled_guest(name: str) -> Path:
    """The ELF file of a bundled guest."""
    guest = catalog.find(name)
    assert guest is not None, name
    return guest.path


def resolve(path: str, base: Path) -> Path:
    """`path` as written in the machine file that lies in `base`."""
    return base / Path(path).expanduser()
