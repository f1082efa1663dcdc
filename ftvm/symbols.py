# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of a guest's functions and variables, from its kernel's symbol table, where it is an ELF file with one."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

_KINDS = frozenset({"STT_FUNC", "STT_OBJECT", "STT_NOTYPE"})


class Symbols:
    """Addresses to names. Without any, every address is just a number."""

    def __init__(self, found: list[tuple[int, str]]) -> None:
        self._found = sorted(found)

    @classmethod
    def of(cls, path: Path) -> Symbols:
        """Those of a file; none when it is not an ELF file, is stripped, or is not there."""
        try:
            with path.open("rb") as file:
                table = ELFFile(file).get_section_by_name(".symtab")
                symbols = list(table.iter_symbols()) if isinstance(table, SymbolTableSection) else []
        except (OSError, ELFError):
            symbols = []
        named = (each for each in symbols if each.name and each["st_info"]["type"] in _KINDS)
        return cls([(each["st_value"], each.name) for each in named if each["st_shndx"] != "SHN_UNDEF"])

    def name(self, address: int) -> str:
        """`symbol+0x12`, or an empty string where there is none before it."""
        index = bisect_right(self._found, (address, "\U0010ffff"))
        if not index:
            return ""
        start, name = self._found[index - 1]
        return name if start == address else f"{name}+{address - start:#x}"

    def address(self, name: str) -> int | None:
        """Where a symbol is."""
        return next((address for address, each in self._found if each == name), None)
