# SPDX-License-Identifier: GPL-2.0-or-later
"""What the demo writes: blocks that say which block and version they are, so that a read tells what it found.

    block   4096 bytes = 8 sectors of 512 bytes
    sector  magic:8s run:u64 block:u64 version:u64 client:u32 sector:u32 (40 bytes, little-endian), then filler

The filler is SHAKE-128 of run, block, version and client: it does not compress, and it can be made again from the
header alone. So a block is checked by making it again and comparing every byte; no checksum is needed beside it. Each
sector has its own header, so that a block made of two versions (torn) is told from damage.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 4096
SECTOR: Final = 512
ZEROS: Final = bytes(BLOCK)
ZERO: Final = -1  # stands for a version where the content is zeros

_HEADER: Final = struct.Struct("<8sQQQII")
_SEED: Final = struct.Struct("<QQQI")
_MAGIC: Final = b"ftvmdemo"


class Damage(Exception):
    """The content is nothing that was ever written to this block: what it is instead, in words."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Makes and recognises the content of one run's blocks; `run` tells it from what another run left behind."""

    run: int

    def make(self, block: int, version: int, client: int) -> bytes:
        """The content of this version."""
        content = bytearray(hashlib.shake_128(_SEED.pack(self.run, block, version, client)).digest(BLOCK))
        for sector in range(BLOCK // SECTOR):
            _HEADER.pack_into(content, sector * SECTOR, _MAGIC, self.run, block, version, client, sector)
        return bytes(content)

    def versions(self, block: int, client: int, data: bytes) -> set[int]:
        """The versions that `data` consists of: one, or several when it is torn; ZERO for zeros. Raises Damage."""
        assert len(data) == BLOCK
        if data == ZEROS:
            return {ZERO}
        version = _HEADER.unpack_from(data)[3]
        if data == self.make(block, version, client):
            return {version}
        return {self._sector_version(block, client, data, at) for at in range(0, BLOCK, SECTOR)}

    def _sector_version(self, block: int, client: int, data: bytes, at: int) -> int:
        sector = data[at : at + SECTOR]
        if sector == ZEROS[:SECTOR]:
            return ZERO
        magic, run, its_block, version, its_client, number = _HEADER.unpack_from(sector)
        if magic != _MAGIC:
            raise Damage(f"sector {at // SECTOR} is no content of the demo")
        if run != self.run:
            raise Damage(f"sector {at // SECTOR} was written by another run")
        if (its_block, number) != (block, at // SECTOR):
            raise Damage(f"sector {at // SECTOR} holds sector {number} of block {its_block}")
        if its_client != client or sector != self.make(block, version, client)[at : at + SECTOR]:
            raise Damage(f"sector {at // SECTOR} claims to be version {version}, but its bytes are not")
        return int(version)
