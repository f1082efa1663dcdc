# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of every form, placed in RAM or refused in words."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from struct import pack

import libfdt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.board import RAM_BASE
from ftvm.config import MachineConfig, load_text
from ftvm.guests.catalog import GUESTS
from ftvm.image import ImageError, load_image, load_kernel

MEMORY = 16 << 20
TOP = RAM_BASE + MEMORY
KERNEL = RAM_BASE + 0x20_0000
CODE = b"\x13\0\0\0" * 4

Segment = tuple[int, int, bytes, int]  # virtual address, physical address, bytes, size in memory


def elf(
    *segments: Segment, entry: int = KERNEL, machine: int = 243, bits: int = 64, order: str = "<", count: int = -1
) -> bytes:
    """An ELF file with these PT_LOAD segments; `count` overrides how many the header claims."""
    count = len(segments) if count < 0 else count
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    if bits == 32:
        return ident + pack(order + "HHIIIIIHHHHHH", 2, machine, 1, entry & 0xFFFFFFFF, 52, 0, 0, 52, 32, 0, 40, 0, 0)
    header = pack(order + "HHIQQQIHHHHHH", 2, machine, 1, entry, 64, 0, 0, 64, 56, count, 64, 0, 0)
    offset = 64 + 56 * len(segments)
    headers, body = b"", b""
    for virtual, physical, content, size in segments:
        headers += pack(order + "IIQQQQQQ", 1, 7, offset + len(body), virtual, physical, len(content), size, 4096)
        body += content
    return ident + header + headers + body


def riscv_image(text_offset: int = 0x20_0000, image_size: int = 0x3000, code: bytes = CODE) -> bytes:
    """A kernel with the header of arch/riscv/boot/Image."""
    header = pack("<IIQQQIIQ8s4sI", 0x13, 0x13, text_offset, image_size, 0, 2, 0, 0, b"RISCV\0\0\0", b"RSC\x05", 0)
    assert len(header) == 64
    return header + code


def config(tmp_path: Path, kernel: bytes, extra: str = "") -> MachineConfig:
    """A machine of 16 MiB with that kernel."""
    (tmp_path / "kernel").write_bytes(kernel)
    text = f'name = "x"\n[machine]\nmemory = "16 MiB"\nkernel = "kernel"\n{extra}'
    return load_text(text.encode(), tmp_path / "x.toml")


def refusal(content: bytes) -> str:
    """What is said about that kernel."""
    with pytest.raises(ImageError) as caught:
        load_kernel(content, MEMORY, "kernel")
    return str(caught.value)


# -- what is loaded -----------------------------------------------------------------------------------------------


def test_elf_segments_go_to_their_physical_addresses() -> None:
    kernel = load_kernel(elf((KERNEL, KERNEL, CODE, 0x2000), (KERNEL + 0x4000, KERNEL + 0x4000, b"d", 1)), MEMORY, "k")
    assert kernel.segments == ((KERNEL, CODE), (KERNEL + 0x4000, b"d"))
    assert (kernel.entry, kernel.start, kernel.end) == (KERNEL, KERNEL, KERNEL + 0x4001)


def test_an_entry_in_virtual_addresses_becomes_physical() -> None:
    high = 0xFFFF_FFFF_8000_0000
    assert load_kernel(elf((high, KERNEL, CODE, 16), entry=high + 8), MEMORY, "k").entry == KERNEL + 8
    assert load_kernel(elf((high, KERNEL, CODE, 16), entry=KERNEL + 4), MEMORY, "k").entry == KERNEL + 4


def test_a_segment_without_bytes_reserves_memory_only() -> None:
    kernel = load_kernel(elf((KERNEL, KERNEL, CODE, 16), (KERNEL + 16, KERNEL + 16, b"", 0x1000)), MEMORY, "k")
    assert kernel.segments == ((KERNEL, CODE),) and kernel.end == KERNEL + 16 + 0x1000


def test_a_riscv_image_goes_where_its_header_says() -> None:
    content = riscv_image(text_offset=0x40_0000)
    kernel = load_kernel(content, MEMORY, "k")
    assert kernel.segments == ((RAM_BASE + 0x40_0000, content),)
    assert (kernel.entry, kernel.end) == (RAM_BASE + 0x40_0000, RAM_BASE + 0x40_3000)


def test_a_gzipped_image_is_unpacked() -> None:
    content = riscv_image()
    assert load_kernel(gzip.compress(content), MEMORY, "k") == load_kernel(content, MEMORY, "k")


def test_any_other_bytes_are_a_flat_binary() -> None:
    kernel = load_kernel(CODE, MEMORY, "k")
    assert kernel.segments == ((KERNEL, CODE),) and kernel.entry == KERNEL


def test_initrd_and_device_tree_lie_at_the_top_and_say_so(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"i" * 5000)
    image = load_image(config(tmp_path, CODE, 'initrd = "initrd"\ncmdline = "quiet"\n'))
    placed = dict(image.segments)
    fdt = libfdt.Fdt(placed[image.dtb_address])
    chosen = fdt.path_offset("/chosen")
    start = int.from_bytes(bytes(fdt.getprop(chosen, "linux,initrd-start")))
    end = int.from_bytes(bytes(fdt.getprop(chosen, "linux,initrd-end")))
    assert placed[start] == b"i" * 5000 and end == start + 5000
    assert start % 4096 == 0 and image.dtb_address % 4096 == 0
    assert KERNEL < start < end <= image.dtb_address < TOP
    assert image.dtb_address + len(placed[image.dtb_address]) <= TOP


def test_digests_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"i")
    image = load_image(config(tmp_path, CODE, 'initrd = "initrd"\n'))
    assert image.digests["kernel"] == hashlib.sha256(CODE).hexdigest()
    assert image.digests["initrd"] == hashlib.sha256(b"i").hexdigest()
    assert image.digests["dtb"] == hashlib.sha256(dict(image.segments)[image.dtb_address]).hexdigest()
    assert set(load_image(config(tmp_path, CODE)).digests) == {"kernel", "dtb"}


@pytest.mark.parametrize("name", [guest.name for guest in GUESTS])
def test_bundled_guests_load_by_name(name: str) -> None:
    text = f'name = "x"\n[machine]\nmemory = "16 MiB"\nkernel = "{name}"\n'
    image = load_image(load_text(text.encode(), Path("x.toml")))
    assert any(start <= image.entry < start + len(content) for start, content in image.segments)


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (elf((KERNEL, KERNEL, CODE, 16), machine=62), "EM_X86_64, 64 bit, little-endian; not 64-bit RISC-V"),
        (elf(bits=32), "EM_RISCV, 32 bit"),
        (elf((KERNEL, KERNEL, CODE, 16), order=">"), "big-endian"),
        (elf(), "has nothing to load"),
        (elf((0, 0, CODE, 16), entry=0), "a segment takes 0x0 to 0x10, but RAM is 0x80000000 to 0x81000000 (16 MiB)"),
        (elf((KERNEL, KERNEL, CODE, MEMORY)), "but RAM is"),
        (elf((KERNEL, (1 << 64) - 8, CODE, 16)), "but RAM is"),
        (elf((KERNEL, KERNEL, CODE, 8)), "cut short"),
        (elf((KERNEL, KERNEL, CODE, 16))[:-1], "cut short"),
        (elf((KERNEL, KERNEL, CODE, 16), entry=0x1000), "the entry 0x1000 lies in no segment"),
        (elf((KERNEL, KERNEL, CODE, 16), entry=KERNEL + 1), "is odd"),
        (elf((KERNEL, KERNEL, CODE, 16), count=60000), "damaged ELF file"),
        (b"\x7fELF", "damaged ELF file"),
        (riscv_image(text_offset=1 << 63), "asks for offset 0x8000000000000000 in RAM"),
        (riscv_image(text_offset=12), "asks for offset 0xc in RAM"),
        (riscv_image(image_size=1 << 62), "but RAM is"),
        (bytes(MEMORY), "but RAM is"),
        (b"\x1f\x8b" + CODE, "starts like a gzip file, but is damaged"),
        (gzip.compress(CODE)[:-4], "ends too early or unpacks to more than 16 MiB"),
        (gzip.compress(bytes(MEMORY + 1)), "ends too early or unpacks to more than 16 MiB"),
        (b"MZ\0\0zimg" + bytes(64), "self-extracting EFI program"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_in_words(content: bytes, words: str) -> None:
    assert words in refusal(content)


def test_a_kernel_and_initrd_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(bytes(14 << 20))
    with pytest.raises(ImageError, match="do not fit in 16 MiB of memory; raise machine"):
        load_image(config(tmp_path, CODE, 'initrd = "initrd"\n'))


def test_missing_files_are_told_with_their_field(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"machine\.initrd: .*none cannot be read: No such file"):
        load_image(config(tmp_path, CODE, 'initrd = "none"\n'))
    with pytest.raises(ImageError, match=r"machine\.initrd: .* is not a file"):
        load_image(config(tmp_path, CODE, 'initrd = "."\n'))
    missing = load_text(b'name = "x"\n[machine]\nkernel = "blokd"\n', tmp_path / "x.toml")
    with pytest.raises(ImageError, match=r"no file .*blokd and no bundled guest of that name \(blockd"):
        load_image(missing)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_hostile_kernels_raise_nothing_but_image_errors(data: st.DataObject) -> None:
    good = [
        elf((KERNEL, KERNEL, CODE, 64), (KERNEL + 64, KERNEL + 64, CODE, 64)),
        riscv_image(),
        gzip.compress(riscv_image()),
    ]
    content = bytearray(data.draw(st.sampled_from(good) | st.binary(max_size=300)))
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    content = content[: data.draw(st.sampled_from([len(content), len(content) // 2]))]
    try:
        kernel = load_kernel(bytes(content), MEMORY, "k")
    except ImageError as error:
        assert str(error).startswith("k: ")
    else:
        assert RAM_BASE <= kernel.start <= kernel.entry < kernel.end <= TOP
        assert all(at >= RAM_BASE and at + len(piece) <= TOP for at, piece in kernel.segments)
