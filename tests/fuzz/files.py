# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that users give: machine files and kernels."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

from ftvm.board import RAM_BASE
from ftvm.config import MachineConfig, load_text
from ftvm.config_error import ConfigError
from ftvm.config_text import example, to_toml
from ftvm.guests import catalog
from ftvm.image import ImageError, load_kernel
from tests.fuzz.engine import Target

MEMORY = 16 << 20
NAME = Path("fuzz.toml")
WORDS = (
    b"\n[machine]\n", b"\n[[disk]]\n", b"\n[[network]]\n", b"\n[service.block]\n", b"\n[pair]\n", b"\n[driver]\n",
    b" = ", b"true", b"{}", b"[[[[[[", b"1e400", b"9" * 30, b'"16 MiB"', b'"unix:x"', b'"127.0.0.1:0"', b"nan", b"'''",
    b"\\u0000", b"\xc3\x28", b"\xed\xa0\x80", b"image", b"size", b"keys", b"listen", b"1979-05-27", b'"\\ud800"',
)  # fmt: skip
SMALL = b"""name = "x"
machine.memory = "32 MiB"
network = [{mac = "52:54:00:00:00:01"}, {}]
disk = [{image = "a", size = "1 MiB"}, {image = "b"}]
service.block.listen = ["unix:a.sock", "[::1]:7"]
console.backend = "unix:c"
pair = {listen = "0.0.0.0:7", keys = "k", heartbeat_ms = 5, timeout_ms = 50}
driver = {watchdog_ms = 50, restart = false}
"""


def check_machine_file(data: bytes) -> None:
    """A configuration that reads back as itself when written, or an error that names the file."""
    try:
        config: MachineConfig = load_text(data, NAME)
    except ConfigError as error:
        assert all(line.startswith("fuzz.toml: ") for line in str(error).split("\n")), str(error)
        assert len(str(error)) < 100_000
        return
    again = load_text(to_toml(config).encode(), NAME)
    assert again.slots == config.slots and again.pair == config.pair and again.machine == config.machine
    assert [again.mac(unit) for unit in range(len(again.network))] == [
        config.mac(unit) for unit in range(len(config.network))
    ]
    if all(disk.size for disk in config.disk):
        assert again.digest() == config.digest()


def small_elf() -> bytes:
    """Two segments, one of them with zeros behind it."""
    content = bytes(range(64))
    head = struct.pack("<4sBBBBB7xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 0, 2, 243, 1, RAM_BASE + 0x200000, 64, 0, 0,
                       64, 56, 2, 64, 0, 0)  # fmt: skip
    segments = b"".join(
        struct.pack("<IIQQQQQQ", 1, 5, 64 + 2 * 56, address, address, 64, size, 4096)
        for address, size in ((RAM_BASE + 0x200000, 64), (RAM_BASE + 0x300000, 8192))
    )
    return head + segments + content


def riscv_image() -> bytes:
    """A flat Image with its header (Linux, boot-image-header.rst)."""
    fields = (0x13, 0x13, 0x200000, 0x10000, 0, 2, 0, 0, b"RISCV\0\0\0", b"RSC\x05", 0)
    return struct.pack("<IIQQQIIQ8s4sI", *fields) + bytes(64)


def image_samples() -> list[bytes]:
    guests = [(catalog.directory() / f"{name}.elf").read_bytes() for name in ("console", "timer")]
    small = [small_elf(), riscv_image(), b"\x13\0\0\0" * 20]
    return [*small * 4, *guests, *[gzip.compress(sample, mtime=0) for sample in (small[0], small[1], bytes(100_000))]]


def check_image(data: bytes) -> None:
    """Segments within RAM and an entry in the kernel, or an error that names the file."""
    try:
        kernel = load_kernel(data, MEMORY, "fuzz.elf")
    except ImageError as error:
        assert str(error).startswith("fuzz.elf: ")
        return
    assert RAM_BASE <= kernel.start <= kernel.entry < kernel.end <= RAM_BASE + MEMORY
    assert sum(len(content) for _, content in kernel.segments) <= 256 * max(len(data), MEMORY)
    for address, content in kernel.segments:
        assert address >= RAM_BASE and address + len(content) <= RAM_BASE + MEMORY


TARGETS = [
    Target("machine-file", lambda: [example().encode(), SMALL, b'name = "x"\n'], check_machine_file, words=WORDS),
    Target("image", image_samples, check_image),
]
