# SPDX-License-Identifier: GPL-2.0-or-later
"""An ELF file of nothing but symbols, for a debugger: a stock kernel has no file that GDB could read.

    ELF header | symbols, each 24 bytes | their names | names of sections | five section headers

`.text` and `.data` say where functions and variables lie and have no contents: memory is read from the guest.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from ftvm.symbols import Symbol

_EHDR: Final = Struct("<16sHHIQQQIHHHHHH")
_SHDR: Final = Struct("<IIQQQQIIQQ")
_SYM: Final = Struct("<IBBHQQ")
_IDENT: Final = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
_EXECUTABLE, _RISCV, _RVC_DOUBLE = 2, 243, 0x5
_SYMTAB, _STRTAB, _NOBITS = 2, 3, 8
_WRITE, _ALLOC, _EXEC = 1, 2, 4
_GLOBAL_OBJECT, _GLOBAL_FUNCTION = 0x11, 0x12
_SECTION_NAMES: Final = b"\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0"


def symbol_file(symbols: Sequence[Symbol]) -> bytes:
    """The file; the symbols are in the order of their addresses."""
    table, names = bytearray(_SYM.size), bytearray(b"\0")
    for index, symbol in enumerate(symbols):
        after = symbols[index + 1].address if index + 1 < len(symbols) else symbol.address
        kind, section = (_GLOBAL_FUNCTION, 1) if symbol.function else (_GLOBAL_OBJECT, 2)
        table += _SYM.pack(len(names), kind, 0, section, symbol.address, after - symbol.address)
        names += symbol.name.encode() + b"\0"
    sections = _Sections()
    sections.add("")
    for name, flags in (".text", _ALLOC | _EXEC), (".data", _ALLOC | _WRITE):
        here = [each.address for each in symbols if each.function == (name == ".text")]
        first, last = (here[0], here[-1] + 4) if here else (0, 0)
        sections.add(name, _NOBITS, flags, first, size=last - first)
    sections.add(".symtab", _SYMTAB, content=bytes(table), link=4, info=1, entry=_SYM.size)
    sections.add(".strtab", _STRTAB, content=bytes(names))
    sections.add(".shstrtab", _STRTAB, content=_SECTION_NAMES)
    at = _EHDR.size + len(sections.content)
    entry = next((each.address for each in symbols if each.function), 0)
    head = _EHDR.pack(
        _IDENT, _EXECUTABLE, _RISCV, 1, entry, 0, at, _RVC_DOUBLE, _EHDR.size, 0, 0, _SHDR.size, sections.count,
        sections.count - 1,
    )  # fmt: skip
    return head + bytes(sections.content) + bytes(sections.headers)


class _Sections:
    def __init__(self) -> None:
        self.content = bytearray()
        self.headers = bytearray()
        self.count = 0

    def add(
        self, name: str, kind: int = 0, flags: int = 0, address: int = 0, *, content: bytes = b"", size: int = 0,
        link: int = 0, info: int = 0, entry: int = 0,
    ) -> None:  # fmt: skip
        self.content += bytes(-len(self.content) % 8)
        self.headers += _SHDR.pack(
            _SECTION_NAMES.index(f"\0{name}\0".encode()) + 1 if name else 0, kind, flags, address,
            _EHDR.size + len(self.content), size or len(content), link, info, 8 if kind == _SYMTAB else 1, entry,
        )  # fmt: skip
        self.content += content
        self.count += 1
