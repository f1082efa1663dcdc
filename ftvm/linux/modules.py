# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock kernel's modules: where they are, what they need, and in which order they are to be loaded.

A module says of itself what it depends on, in its `.modinfo` section (zero-terminated `key=value` strings): `depends`
names other modules, `softdep=pre:` what should be there before it, by name or as an alias `crypto-ALGORITHM`.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile

from ftvm.linux.errors import FetchError

_SUFFIX: Final = ".ko.xz"
_BUILT_IN: Final = "modules.builtin"
# Which module implements an algorithm that another one asks for by its alias.
_ALIASES: Final = {"crypto_crc32c": "crc32c_generic", "crc32c": "crc32c_generic"}


class Modules:
    """The modules of one unpacked kernel package; `-` and `_` in names are the same."""

    def __init__(self, directory: Path) -> None:
        """`directory` is lib/modules/VERSION."""
        self._files = {_plain(path.name.removesuffix(_SUFFIX)): path for path in directory.rglob(f"*{_SUFFIX}")}
        listed = (directory / _BUILT_IN).read_text().split()
        self._built_in = {_plain(Path(line).stem) for line in listed}

    def in_order(self, names: Iterable[str]) -> dict[str, bytes]:
        """These modules and all that they need, unpacked, in an order in which each finds what it needs."""
        ordered: dict[str, bytes] = {}
        for name in names:
            self._add(_plain(name), ordered, ())
        return ordered

    def _add(self, name: str, ordered: dict[str, bytes], needed_by: tuple[str, ...]) -> None:
        name = _ALIASES.get(name, name)
        if name in ordered or name in self._built_in or name in needed_by:
            return
        path = self._files.get(name)
        if path is None:
            by = f", which {needed_by[-1]} needs" if needed_by else ""
            raise FetchError(f"this kernel has no module {name}{by}")
        try:
            content = lzma.decompress(path.read_bytes())
        except (OSError, lzma.LZMAError) as error:
            raise FetchError(f"{path}: cannot be unpacked: {error}") from None
        for other in _needs(content):
            self._add(other, ordered, (*needed_by, name))
        ordered[name] = content


def _needs(module: bytes) -> Iterator[str]:
    section = ELFFile(BytesIO(module)).get_section_by_name(".modinfo")
    for entry in () if section is None else section.data().split(b"\0"):
        key, _, value = entry.decode(errors="replace").partition("=")
        if key == "softdep" and value.startswith("pre:"):
            yield from (_plain(name) for name in value.removeprefix("pre:").partition("post:")[0].split())
        elif key == "depends":
            yield from (_plain(name) for name in value.split(",") if name)


def _plain(name: str) -> str:
    return name.replace("-", "_")
