# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of functions and variables: out of a kernel's own compressed table, a System.map, an ELF file; and into one."""

from __future__ import annotations

import gzip
import random
import struct
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from ftvm.guests import catalog
from ftvm.kallsyms import LINKED_AT, kernel_symbols
from ftvm.symbol_file import symbol_file
from ftvm.symbols import Symbols

PIECES = [b"sys_", b"_lock", b"tick", b"do_", b"T__", b"work"]  # tokens of several letters, in place of unused ones


def padded(content: bytes, to: int = 8) -> bytes:
    return content + bytes(-len(content) % to)


def image_of(names: list[tuple[int, str]], *, layout: str, base: int = LINKED_AT) -> bytes:
    """A kernel with this table, laid out as Linux 6.12, 6.2 or 5.10 does it."""
    tokens = [bytes([code]) for code in range(256)]
    for code, piece in enumerate([b"unused", *PIECES]):
        tokens[code] = piece
    packed, markers = b"", []
    for number, (_, name) in enumerate(names):
        content = name.encode()
        for code, piece in enumerate(PIECES, 1):
            content = content.replace(piece, bytes([code]))
        if number % 256 == 0:
            markers.append(len(packed))
        size = len(content)
        packed += (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + content
    table, places = b"", []
    for token in tokens:
        places.append(len(table))
        table += token + b"\0"
    offsets = padded(b"".join(struct.pack("<I", at) for at, _ in names))
    number_of = padded(struct.pack("<I", len(names)))
    body = number_of + padded(packed) + padded(b"".join(struct.pack("<I", marker) for marker in markers))
    if layout == "6.2":
        body += padded(b"".join(struct.pack("<I", n)[:3] for n in range(len(names))))
    index = padded(b"".join(struct.pack("<H", place) for place in places))
    ends = padded(table) + index
    where = offsets + struct.pack("<Q", base)
    table_of_names = body + ends + where if layout == "6.12" else where + body + ends
    noise = random.Random(3).randbytes(4096)
    return noise + b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00" + bytes(44) + table_of_names + noise


def some_names(count: int = 1000) -> list[tuple[int, str]]:
    chance = random.Random(count)
    at, found = 0, []
    for number in range(count):
        word = chance.choice(["sys_open", "do_work", "tick_lock", "x" * 150, "vfs_read"])
        found.append((at, chance.choice("TtdDbB") + f"{word}_{number}"))
        at += chance.choice([0, 4, 64, 4096])
    return found


@pytest.mark.parametrize("layout", ["6.12", "6.2", "5.10"])
@pytest.mark.parametrize("count", [600, 1000])
def test_a_kernels_own_table_is_found_and_read(layout: str, count: int) -> None:
    names = some_names(count)
    found = kernel_symbols(image_of(names, layout=layout))
    assert [(each.address - LINKED_AT, each.kind + each.name) for each in found] == names


def test_a_base_that_relocation_would_fill_in_is_the_usual_one() -> None:
    assert kernel_symbols(image_of(some_names(), layout="6.12", base=0))[0].address == LINKED_AT


def test_damage_and_noise_give_no_names_and_no_harm() -> None:
    whole = image_of(some_names(), layout="6.12")
    chance = random.Random(8)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 3, 40])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        kernel_symbols(bytes(damaged[: chance.choice([len(whole), chance.randrange(len(whole))])]))
    assert kernel_symbols(b"") == kernel_symbols(bytes(10_000)) == []


def test_symbols_come_from_whatever_has_them(tmp_path: Path) -> None:
    names = some_names()
    image, map_file = tmp_path / "Image.gz", tmp_path / "System.map"
    image.write_bytes(gzip.compress(image_of(names, layout="6.12")))
    map_file.write_text("".join(f"{LINKED_AT + at:016x} {name[0]} {name[1:]}\n" for at, name in names))
    one, other = Symbols.of(image), Symbols.of(map_file)
    assert one.all == other.all and len(one.all) == len(names)
    assert one.elf == b"" and not Symbols.of(tmp_path / "nothing").all and not Symbols.of(tmp_path).all
    guest = catalog.find("blockd")
    assert guest is not None
    assert Symbols.of(guest.path).elf == guest.path.read_bytes() and Symbols.of(guest.path).address("blk_submit")


def test_an_address_is_named_by_the_function_before_it() -> None:
    lines = b"ffffffff80000000 T _start\nffffffff80000100 D __mark\nffffffff80000100 t work\nffffffff80000200 D value\n"
    path = Path("/nowhere")
    assert Symbols.of(path).name(5) == ""
    symbols = symbols_of(lines)
    assert symbols.name(LINKED_AT) == "_start" and symbols.name(LINKED_AT + 0x104) == "work+0x4"
    assert symbols.name(LINKED_AT + 0x8000_0000) == "" and symbols.name(0x1000) == ""


def symbols_of(lines: bytes) -> Symbols:
    from ftvm.symbols import Symbol

    rows = [line.split() for line in lines.decode().splitlines()]
    return Symbols([Symbol(int(at, 16), name, kind in "tT") for at, kind, name in rows])


def test_the_file_for_a_debugger_holds_all_of_them() -> None:
    symbols = symbols_of(b"ffffffff80000000 T _start\nffffffff80000100 t work\nffffffff80e00000 D value\n")
    elf = ELFFile(BytesIO(symbol_file(symbols.all)))
    assert elf["e_machine"] == "EM_RISCV" and elf["e_entry"] == LINKED_AT
    table = elf.get_section_by_name(".symtab")
    found = [(each.name, each["st_value"], each["st_info"]["type"]) for each in table.iter_symbols() if each.name]
    assert found == [
        ("_start", LINKED_AT, "STT_FUNC"), ("work", LINKED_AT + 0x100, "STT_FUNC"),
        ("value", LINKED_AT + 0xE0_0000, "STT_OBJECT"),
    ]  # fmt: skip
    text = elf.get_section_by_name(".text")
    assert text["sh_addr"] <= LINKED_AT + 0x100 < text["sh_addr"] + text["sh_size"]
