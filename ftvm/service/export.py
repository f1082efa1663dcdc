# SPDX-License-Identifier: GPL-2.0-or-later
"""`Export`: what one block service offers, and which requests the host refuses before the driver sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ftvm.service.nbd import (
    FLUSH,
    FUA,
    LENGTH_MAX,
    NO_HOLE,
    PART_MAX,
    READ,
    SECTOR,
    TRIM,
    VENDOR,
    WRITE,
    WRITE_ZEROES,
    Errno,
    TransmissionFlag,
)

PREFERRED: Final = 4096
# CAN_MULTI_CONN is true: every request of every connection passes one journal and one driver, and a FLUSH that any
# connection sends is submitted after all writes that any of them saw answered.
FLAGS: Final = int(
    TransmissionFlag.HAS_FLAGS
    | TransmissionFlag.SEND_FLUSH
    | TransmissionFlag.SEND_FUA
    | TransmissionFlag.SEND_TRIM
    | TransmissionFlag.SEND_WRITE_ZEROES
    | TransmissionFlag.CAN_MULTI_CONN
)


@dataclass(frozen=True, slots=True)
class Export:
    """One exported disk: `size` in bytes; the default export "" is always accepted beside `name`."""

    size: int
    name: str = ""
    description: str = ""
    vendor: bool = False  # accept the vendor command and hand it to the driver

    def __post_init__(self) -> None:
        assert self.size > 0 and self.size % SECTOR == 0, f"an export of {self.size} bytes is not whole sectors"

    def accepts(self, name: bytes) -> bool:
        """Does a client that asks for `name` get this export?"""
        return name == b"" or name == self.name.encode()

    @property
    def block_sizes(self) -> tuple[int, int, int]:
        """Minimum, preferred, maximum (NBD_INFO_BLOCK_SIZE)."""
        return SECTOR, PREFERRED, PART_MAX

    def check(self, kind: int, flags: int, offset: int, length: int) -> int:
        """0 when the driver is to see this request, else the error to answer it with."""
        if kind in (READ, WRITE, TRIM, WRITE_ZEROES):
            if flags & ~FUA and (flags & ~(FUA | NO_HOLE) or kind != WRITE_ZEROES):
                return Errno.EINVAL
            if (offset | length) % SECTOR:
                return Errno.EINVAL
            if offset + length > self.size:
                return Errno.ENOSPC if kind in (WRITE, WRITE_ZEROES) else Errno.EINVAL
            return Errno.EINVAL if length > LENGTH_MAX and kind in (READ, WRITE) else Errno.OK
        if kind == FLUSH or (kind == VENDOR and self.vendor):
            return Errno.EINVAL if flags & ~FUA else Errno.OK
        return Errno.EINVAL
