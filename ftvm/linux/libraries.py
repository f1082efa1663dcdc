# SPDX-License-Identifier: GPL-2.0-or-later
"""Which shared libraries the programs of a tree need, found in unpacked packages by what ELF files say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from ftvm.linux.errors import FetchError
from ftvm.linux.newc import Node, Tree, regular

_PLACES: Final = ("usr/lib", "usr/lib/riscv64-linux-gnu")  # programs name their loader in /lib


def needed_libraries(programs: Iterable[Node], root: Path) -> Tree:
    """Loader and libraries of all these programs, and those that libraries need; FetchError when one is missing."""
    found: Tree = {}
    waiting = [name for node in programs for name in _names(node.content)]
    while waiting:
        name = waiting.pop()
        path = _find(root, name)
        inside = path.relative_to(root).as_posix()
        if inside not in found:
            found[inside] = regular(path.read_bytes(), 0o755)
            waiting += _names(found[inside].content)
    return found


def _find(root: Path, name: str) -> Path:
    for place in _PLACES:
        if (path := root / place / name).exists():
            return path
    raise FetchError(f"a program needs the shared library {name}, which none of the packages brings")


def _names(content: bytes) -> Iterator[str]:
    if not content.startswith(b"\x7fELF"):
        return
    elf = ELFFile(BytesIO(content))
    if elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
        return
    for segment in elf.iter_segments():
        if isinstance(segment, InterpSegment):
            yield Path(segment.get_interp_name()).name
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            yield from (vars(tag)["needed"] for tag in section.iter_tags("DT_NEEDED"))
