# SPDX-License-Identifier: GPL-2.0-or-later
"""RAM as a section of a snapshot: blocks of 1 MiB, LZ4-compressed, all-zero blocks left out.

Layout: msgpack list of [block number, compressed bytes]; a block that is not listed is zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import lz4.block
import msgpack

BLOCK = 1 << 20
_ZERO = bytes(BLOCK)


def pack_ram(ram: memoryview) -> bytes:
    """Compress RAM; about 1 ms per 4 MiB that hold something."""
    blocks: list[list[object]] = []
    for number in range(0, (len(ram) + BLOCK - 1) // BLOCK):
        content = bytes(ram[number * BLOCK : (number + 1) * BLOCK])
        if content != _ZERO[: len(content)]:
            blocks.append([number, lz4.block.compress(content, store_size=False)])
    packed: bytes = msgpack.packb(blocks)
    return packed


def unpack_ram(packed: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of every block that is not zero; ValueError when the section does not fit `size`."""
    for number, compressed in msgpack.unpackb(packed):
        offset = number * BLOCK
        length = min(BLOCK, size - offset)
        if not 0 < length <= BLOCK:
            raise ValueError(f"RAM block {number} lies outside {size} bytes of RAM")
        yield offset, lz4.block.decompress(compressed, uncompressed_size=length)
