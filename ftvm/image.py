# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels and what goes with them, laid out in the guest's RAM.

    RAM_BASE                                                                        end of RAM
    |  ...  | kernel at its own address, or at KERNEL_OFFSET |  ...  | initrd | device tree |

Three kinds of kernel are told apart by their first bytes: an ELF file (segments at their physical addresses), a RISC-V
Image (a flat binary with a header that says where in RAM it wants to be; gzip around it is taken off), and any other
flat binary, such as a boot loader, which is put and entered at RAM_BASE + KERNEL_OFFSET. Initrd and device tree go to
the top of RAM, page by page, as far from the kernel as they can. Nothing else is in RAM: a guest may use all of it.

Files come from users: whatever is wrong with one is an `ImageError` in words, and nothing else is ever raised.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from struct import unpack_from
from typing import Any

from elftools.elf.elffile import ELFFile

from ftvm.board import KERNEL_OFFSET, MEMORY_MAX, RAM_BASE
from ftvm.config import MachineConfig
from ftvm.config_kernel import bundled_guest, bundled_guests
from ftvm.config_values import format_size
from ftvm.device_tree import build_device_tree

PAGE = 4096
FILE_SIZE_MAX = MEMORY_MAX  # an ELF file may carry symbols beyond what it loads
SEGMENTS_MAX = 256

# Linux Documentation/arch/riscv/boot-image-header.rst
_IMAGE_HEADER = 64
_IMAGE_TEXT_OFFSET, _IMAGE_SIZE, _IMAGE_MAGIC2 = 8, 16, 56
_MAGIC2 = b"RSC\x05"
_ELF_MAGIC = b"\x7fELF"
_GZIP_MAGIC = b"\x1f\x8b"
_ZBOOT_MAGIC, _ZBOOT_AT = b"zimg", 4


class ImageError(Exception):
    """A kernel or initrd that cannot be loaded; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel's bytes at their addresses; `end` is where its memory, zeroed parts included, ends."""

    entry: int
    segments: tuple[tuple[int, bytes], ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """All that a machine's RAM holds at power-on; everything else in it is zero."""

    entry: int
    dtb_address: int
    segments: tuple[tuple[int, bytes], ...]
    digests: dict[str, str]  # SHA-256 in hexadecimal: kernel, initrd (when there is one), dtb


ImageFiles = Mapping[str, bytes]
"""Contents of a machine's `kernel` and, if it has one, `initrd`."""


def image_files(config: MachineConfig, files: ImageFiles | None = None) -> ImageFiles:
    """The files that a machine file names; or `files`, which stand in for them."""
    wanted = ("kernel",) if config.machine.initrd is None else ("kernel", "initrd")
    if files is not None:
        if missing := [name for name in wanted if not files.get(name)]:
            raise ImageError(f"machine.{missing[0]}: is not in the pack")
        return {name: files[name] for name in wanted}
    found = {"kernel": _kernel_file(config)}
    if config.initrd_path is not None:
        found["initrd"] = _read(config.initrd_path, "initrd")
    return found


def load_image(config: MachineConfig, files: ImageFiles | None = None) -> LoadedImage:
    """Kernel, initrd and device tree of a machine file, placed. `files`: see `image_files`."""
    name = str(config.kernel_path or config.machine.kernel)
    found = image_files(config, files)
    content, initrd = found["kernel"], found.get("initrd", b"")
    kernel = load_kernel(content, config.machine.memory, name)
    top = RAM_BASE + config.machine.memory
    arguments = (config.machine.memory, config.slots, config.machine.cmdline)
    # The tree's size does not depend on the addresses in it, so a first one is built to be measured.
    dtb_address = _below(top, len(build_device_tree(*arguments, (0, 0) if initrd else None, config.machine.seed)))
    initrd_address = _below(dtb_address, len(initrd))
    if initrd_address < kernel.end:
        raise ImageError(
            f"{name}: kernel, initrd and device tree do not fit in {format_size(config.machine.memory)} of memory; "
            "raise machine.memory"
        )
    region = (initrd_address, initrd_address + len(initrd)) if initrd else None
    dtb = build_device_tree(*arguments, region, config.machine.seed)
    segments = [*kernel.segments, (dtb_address, dtb)]
    digests = {"kernel": _sha256(content), "dtb": _sha256(dtb)}
    if initrd:
        segments.append((initrd_address, initrd))
        digests["initrd"] = _sha256(initrd)
    return LoadedImage(kernel.entry, dtb_address, tuple(segments), digests)


def load_kernel(content: bytes, memory: int, name: str) -> Kernel:
    """Where the bytes of a kernel go in `memory` bytes of RAM; `name` opens the messages."""
    if content.startswith(_GZIP_MAGIC):
        content = _gunzip(content, memory, name)
    if not content:
        raise ImageError(f"{name}: is empty")
    if content.startswith(_ELF_MAGIC):
        return _load_elf(content, memory, name)
    if content[_IMAGE_MAGIC2 : _IMAGE_MAGIC2 + 4] == _MAGIC2:
        return _load_riscv_image(content, memory, name)
    if content.startswith(b"MZ") and content[_ZBOOT_AT : _ZBOOT_AT + 4] == _ZBOOT_MAGIC:
        raise ImageError(f"{name}: is a self-extracting EFI program; give the plain Image that is packed in it")
    return _flat(content, RAM_BASE + KERNEL_OFFSET, len(content), memory, name)


def _kernel_file(config: MachineConfig) -> bytes:
    path = config.kernel_path
    if path is None:
        return _read(bundled_guest(config.machine.kernel), "kernel")
    if not path.exists():
        raise ImageError(f"machine.kernel: there is no file {path} and no bundled guest of that name{_bundled()}")
    return _read(path, "kernel")


def _bundled() -> str:
    names = bundled_guests()
    return f" ({', '.join(names)})" if names else ""


def _read(path: Path, field: str) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"machine.{field}: {path} is not a file")
        with path.open("rb") as file:
            content = file.read(FILE_SIZE_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"machine.{field}: {path} cannot be read: {reason}") from None
    if len(content) > FILE_SIZE_MAX:
        raise ImageError(f"machine.{field}: {path} is larger than {format_size(FILE_SIZE_MAX)}")
    if not content:
        raise ImageError(f"machine.{field}: {path} is empty")
    return content


def _gunzip(content: bytes, memory: int, name: str) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(content, memory)
    except zlib.error as error:
        raise ImageError(f"{name}: starts like a gzip file, but is damaged: {error}") from None
    if not unpacker.eof:
        raise ImageError(f"{name}: is a gzip file that ends too early or unpacks to more than {format_size(memory)}")
    return unpacked


# -- flat binaries ------------------------------------------------------------------------------------------------


def _load_riscv_image(content: bytes, memory: int, name: str) -> Kernel:
    text_offset, image_size = unpack_from("<QQ", content.ljust(_IMAGE_HEADER, b"\0"), _IMAGE_TEXT_OFFSET)
    if text_offset % PAGE or text_offset >= memory:
        raise ImageError(f"{name}: its Image header asks for offset {text_offset:#x} in RAM, which is not a page there")
    return _flat(content, RAM_BASE + text_offset, max(image_size, len(content)), memory, name)


def _flat(content: bytes, address: int, size: int, memory: int, name: str) -> Kernel:
    _check_inside(address, size, memory, name, "the image")
    return Kernel(address, ((address, content),), address, address + size)


def _check_inside(address: int, size: int, memory: int, name: str, what: str) -> None:
    end = RAM_BASE + memory
    if address < RAM_BASE or address + size > end:
        raise ImageError(
            f"{name}: {what} takes {address:#x} to {address + size:#x}, but RAM is {RAM_BASE:#x} to {end:#x} "
            f"({format_size(memory)})"
        )


# -- ELF ----------------------------------------------------------------------------------------------------------


def _load_elf(content: bytes, memory: int, name: str) -> Kernel:
    try:
        elf = ELFFile(BytesIO(content))
        headers = _load_headers(elf)
        kind = (elf.elfclass, elf.little_endian, elf["e_machine"])
        entry = int(elf["e_entry"])
    except Exception as error:
        # The library raises whatever a damaged file makes it stumble over.
        raise ImageError(f"{name}: is a damaged ELF file: {type(error).__name__}: {error}") from None
    if kind != (64, True, "EM_RISCV"):
        order = "little" if kind[1] else "big"
        raise ImageError(f"{name}: is an ELF file for {kind[2]}, {kind[0]} bit, {order}-endian; not 64-bit RISC-V")
    if not headers:
        raise ImageError(f"{name}: the ELF file has nothing to load (no PT_LOAD segment)")
    segments = []
    for header in headers:
        segments += _segment(header, content, memory, name)
    start = min(header["p_paddr"] for header in headers)
    end = max(header["p_paddr"] + header["p_memsz"] for header in headers)
    return Kernel(_physical_entry(entry, headers, name), tuple(segments), start, end)


def _load_headers(elf: ELFFile) -> list[Any]:
    count = elf.num_segments()
    if count > SEGMENTS_MAX:
        raise ValueError(f"{count} segments")
    headers = [elf.get_segment(index).header for index in range(count)]
    return [header for header in headers if header["p_type"] == "PT_LOAD" and header["p_memsz"] > 0]


def _segment(header: Any, content: bytes, memory: int, name: str) -> list[tuple[int, bytes]]:
    address, offset = header["p_paddr"], header["p_offset"]
    in_file, in_memory = header["p_filesz"], header["p_memsz"]
    if in_file > in_memory or offset + in_file > len(content):
        raise ImageError(f"{name}: the ELF file is cut short: the segment for {address:#x} lies beyond its end")
    _check_inside(address, in_memory, memory, name, "a segment")
    return [(address, content[offset : offset + in_file])] if in_file else []


def _physical_entry(entry: int, headers: list[Any], name: str) -> int:
    """The hart starts without paging: an entry in virtual addresses is meant in its segment's physical ones."""
    if entry % 2:
        raise ImageError(f"{name}: the entry {entry:#x} is odd: no instruction can be there")
    for base in ("p_vaddr", "p_paddr"):
        for header in headers:
            if header[base] <= entry < header[base] + header["p_memsz"]:
                return int(header["p_paddr"] + entry - header[base])
    raise ImageError(f"{name}: the entry {entry:#x} lies in no segment")


def _below(top: int, size: int) -> int:
    return (top - size) // PAGE * PAGE


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
