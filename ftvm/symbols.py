# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of a guest's functions and variables, from whatever has them.

an ELF file with a symbol table      the bundled guests, a vmlinux with debug information
a Linux kernel as it is booted       an Image (gzip around it or not) or stripped ELF file: its own table (kallsyms.py)
a System.map                         `ADDRESS KIND NAME` on each line
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ftvm.kallsyms import kernel_symbols

FILE_MAX: Final = 1 << 30
NEAR: Final = 1 << 20  # so far behind a symbol an address is still called by it
_KINDS: Final = {"STT_FUNC": True, "STT_OBJECT": False, "STT_NOTYPE": False}
_ELF: Final = b"\x7fELF"
_GZIP: Final = b"\x1f\x8b"
_MAP_LINE: Final = re.compile(rb"^([0-9a-f]{8,16}) ([A-Za-z]) (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, order=True)
class Symbol:
    """One name."""

    address: int
    name: str
    function: bool = True


class Symbols:
    """Addresses to names. Without any, every address is just a number."""

    def __init__(self, found: Sequence[Symbol], source: bytes = b"") -> None:
        self.all = sorted(found)
        self.elf = source
        """The ELF file that they are from; empty when they are from elsewhere."""
        self._starts = [symbol.address for symbol in self.all]
        self._by_name = {symbol.name: symbol.address for symbol in reversed(self.all)}

    @classmethod
    def of(cls, path: Path) -> Symbols:
        """Those of a file; none when it has none, or is not there."""
        try:
            with path.open("rb") as file:
                content = file.read(FILE_MAX)
        except OSError:
            content = b""
        return cls.in_content(content)

    @classmethod
    def in_content(cls, content: bytes) -> Symbols:
        """The same of what such a file holds."""
        if content.startswith(_GZIP):
            content = _unzipped(content)
        if content.startswith(_ELF) and (found := _of_elf(content)):
            return cls(found, content)
        if _MAP_LINE.match(content):
            return cls([Symbol(int(at, 16), name.decode("utf-8", "replace"), kind in b"tTwW")
                        for at, kind, name in _MAP_LINE.findall(content)])  # fmt: skip
        return cls([Symbol(each.address, each.name, each.kind in "tTwW") for each in kernel_symbols(content)])

    def name(self, address: int) -> str:
        """`symbol+0x12`, or an empty string where there is none before it."""
        index = bisect_right(self._starts, address)
        if not index or address - self._starts[index - 1] > NEAR:
            return ""
        first = index - 1
        while first and self._starts[first - 1] == self._starts[index - 1]:
            first -= 1
        # Where several begin, the others are marks of the linker: __noinstr_text_start.
        symbol = min(self.all[first:index], key=lambda each: (not each.function, each.name.startswith("__")))
        return symbol.name if symbol.address == address else f"{symbol.name}+{address - symbol.address:#x}"

    def address(self, name: str) -> int | None:
        """Where a symbol is."""
        return self._by_name.get(name)


def _of_elf(content: bytes) -> list[Symbol]:
    try:
        table = ELFFile(BytesIO(content)).get_section_by_name(".symtab")
        symbols = list(table.iter_symbols()) if isinstance(table, SymbolTableSection) else []
    except (ELFError, ValueError, KeyError, OverflowError):
        return []
    return [
        Symbol(each["st_value"], each.name, _KINDS[each["st_info"]["type"]])
        for each in symbols
        if each.name and each["st_info"]["type"] in _KINDS and each["st_shndx"] != "SHN_UNDEF"
    ]


def _unzipped(content: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(content, FILE_MAX)
    except zlib.error:
        return b""
