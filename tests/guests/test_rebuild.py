# SPDX-License-Identifier: GPL-2.0-or-later
"""The prebuilt images are what the sources give: the same bytes from Debian 12's compiler, a build from any other."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ftvm.guests import catalog

from .building import PREFIX, build

#: First lines of `--version` of what the prebuilt images were built with.
GCC = "riscv64-unknown-elf-gcc (12.2.0-14+deb12u1+11"
AS = "GNU assembler (2.40-2+4"


def first_line(program: str) -> str:
    """Of `program --version`."""
    output = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return output.splitlines()[0]


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all images, built from a copy of the sources in another place."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("out")
    build(sources, out)
    return out


def test_a_rebuild_gives_the_prebuilt_bytes(rebuilt: Path) -> None:
    """With another compiler, it says so, and the build working is all that is checked."""
    gcc, assembler = first_line(f"{PREFIX}gcc"), first_line(f"{PREFIX}as")
    if not (gcc.startswith(GCC) and assembler.startswith(AS)):
        warnings.warn(f"bytes not compared: prebuilt by Debian 12's compiler, this is {gcc}; {assembler}", stacklevel=1)
        return
    for name in [*(guest.path.name for guest in catalog.list()), "translate.elf"]:
        same = (rebuilt / name).read_bytes() == (catalog.directory() / name).read_bytes()
        assert same, f"{name} is not what its sources give: run make in ftvm/guests and commit the image"


def test_the_program_for_linux_is_static() -> None:
    """RISC-V 64, for user space, no loader and no library, no debug information, no path inside."""
    path = catalog.directory() / "translate.elf"
    with path.open("rb") as file:
        elf = ELFFile(file)
        assert (elf["e_machine"], elf.elfclass, elf["e_type"]) == ("EM_RISCV", 64, "ET_EXEC")
        kinds = {segment["p_type"] for segment in elf.iter_segments()}
        assert "PT_LOAD" in kinds and not kinds & {"PT_INTERP", "PT_DYNAMIC"}
        assert not [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_flags"] & 3 == 3], "W and X"
        assert not elf.has_dwarf_info()
    assert b"/home" not in path.read_bytes() and b"/tmp" not in path.read_bytes()


@pytest.mark.parametrize("guest", catalog.list(), ids=lambda guest: guest.name)
def test_images_are_as_their_loaders_expect(guest: catalog.Guest) -> None:
    """RISC-V 64, entered at the start of what is loaded, symbols kept, debug information not, no path inside."""
    with guest.path.open("rb") as file:
        elf = ELFFile(file)
        assert (elf["e_machine"], elf.elfclass, elf["e_entry"]) == ("EM_RISCV", 64, 0x8020_0000)
        loaded = [segment for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD"]
        assert loaded[0]["p_paddr"] == 0x8020_0000
        assert all(segment["p_paddr"] == segment["p_vaddr"] for segment in loaded)
        assert loaded[1]["p_paddr"] >= loaded[0]["p_paddr"] + 0x1000 - loaded[0]["p_paddr"] % 0x1000
        assert max(segment["p_paddr"] + segment["p_memsz"] for segment in loaded) < 0x8040_0000
        table = elf.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        assert table.get_symbol_by_name("guest_main")
        assert not elf.has_dwarf_info()
    assert b"/home" not in guest.path.read_bytes()
    assert b"/tmp" not in guest.path.read_bytes()
