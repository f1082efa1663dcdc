# SPDX-License-Identifier: GPL-2.0-or-later
"""A pack: a recording and the images that it needs, in one file. Whatever reads a log reads a pack.

    preamble   8s magic, u16 format, u32 length of the index, u32 check of these 14 bytes
    index      msgpack array of [name, stored size, size, check of what is stored], u32 check
    members    in that order: `kernel` and `initrd`, one LZ4 frame each; `checkpoints`, as in LOG.ckpt
    log        to the end of the file

There are no other names, and none of them is ever a path: nothing is unpacked to anywhere. A member takes no more
memory than its index says, which LZ4 bounds by what is stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, Final, Self
from zlib import crc32

import lz4.frame
import msgpack

from replay.errors import LogDamaged, LogError

MAGIC: Final = b"\x89ftvmpak"
FORMAT: Final = 1
PREAMBLE: Final = Struct("<8sHI")
CHECK: Final = Struct("<I")
KERNEL, INITRD, CHECKPOINTS = "kernel", "initrd", "checkpoints"
NAMES: Final = frozenset({KERNEL, INITRD, CHECKPOINTS})
INDEX_MAX: Final = 4096
SIZE_MAX: Final = 1 << 30  # of an image
LZ4_RATIO_MAX: Final = 256
LEVEL: Final = 3
PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """Where one is, as stored; its size when it is unpacked."""

    offset: int
    stored: int
    size: int
    check: int


class Pack:
    """The index of a pack, and its members. The log is read like any other, from `log` on."""

    def __init__(self, fd: int, name: str) -> None:
        """LogError when it is damaged; the file stays the caller's."""
        self._fd = fd
        self.name = name
        self.members: dict[str, Member] = {}
        self.log = self._read_index()

    @classmethod
    def find(cls, fd: int, name: str) -> Self | None:
        """None when the file is none."""
        return cls(fd, name) if os.pread(fd, len(MAGIC), 0) == MAGIC else None

    def content(self, name: str) -> bytes:
        """A member, unpacked; LogError when it is damaged."""
        member = self.members[name]
        unpacker = lz4.frame.LZ4FrameDecompressor()
        try:
            content: bytes = unpacker.decompress(self._stored(name, member), max_length=member.size + 1)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise LogError(f"{self.name}: its {name} cannot be unpacked: {error}") from None
        if len(content) != member.size or not unpacker.eof:
            raise LogError(f"{self.name}: its {name} does not unpack to the {member.size} bytes that it should have")
        return content

    def verify(self) -> None:
        """Every member is as it was written; LogError."""
        for name, member in self.members.items():
            if name == CHECKPOINTS:
                self._check(name, member, crc32_of(self._pieces(member)))
            else:
                self.content(name)

    def _read_index(self) -> int:
        head = os.pread(self._fd, PREAMBLE.size + CHECK.size, 0)
        if len(head) < PREAMBLE.size + CHECK.size:
            raise LogError(f"{self.name}: the pack ends inside its preamble")
        _, version, length = PREAMBLE.unpack_from(head)
        if crc32(head[: PREAMBLE.size]) != CHECK.unpack_from(head, PREAMBLE.size)[0]:
            raise self._damaged("the pack's preamble", 0)
        if version != FORMAT or length > INDEX_MAX:
            raise LogError(f"{self.name}: format {version} of a pack is not known; this ftvm reads {FORMAT}")
        stored = os.pread(self._fd, length + CHECK.size, len(head))
        if len(stored) < length + CHECK.size or crc32(stored[:length]) != CHECK.unpack_from(stored, length)[0]:
            raise self._damaged("the pack's index", len(head))
        return self._place(stored[:length], len(head) + len(stored))

    def _place(self, index: bytes, offset: int) -> int:
        try:
            rows = [(str(name), int(stored), int(size), int(check)) for name, stored, size, check in unpacked(index)]
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError) as error:
            raise LogError(f"{self.name}: the pack's index makes no sense: {error}") from None
        for name, stored, size, check in rows:
            if name not in NAMES or name in self.members:
                raise LogError(f"{self.name}: the pack holds {name!r}, which is not for a pack of format {FORMAT}")
            fits = size == stored if name == CHECKPOINTS else 0 <= size <= min(SIZE_MAX, LZ4_RATIO_MAX * stored)
            if stored < 0 or not fits:
                raise LogError(f"{self.name}: the pack's {name} has an impossible size")
            self.members[name] = Member(offset, stored, size, check)
            offset += stored
        if offset > os.fstat(self._fd).st_size:
            raise LogError(f"{self.name}: the pack was cut: its log is missing")
        return offset

    def _stored(self, name: str, member: Member) -> bytes:
        stored = b"".join(self._pieces(member))
        self._check(name, member, crc32(stored))
        return stored

    def _check(self, name: str, member: Member, check: int) -> None:
        if check != member.check:
            raise self._damaged(f"the pack's {name}", member.offset)

    def _pieces(self, member: Member) -> Iterator[bytes]:
        yield from file_pieces(self._fd, member.offset, member.offset + member.stored)

    def _damaged(self, what: str, offset: int) -> LogDamaged:
        return LogDamaged(self.name, f"{what} is not as it was written", offset=offset, record=0, sequence=None)


def unpacked(index: bytes) -> list[Any]:
    """The rows of an index."""
    rows = msgpack.unpackb(index)
    if type(rows) is not list:
        raise ValueError("it is no list")
    return rows


def write_pack(
    out: Path, images: Mapping[str, bytes], checkpoints: tuple[int, int, int] | None, log: Iterable[bytes]
) -> None:
    """A new pack. `checkpoints`: an open file that holds them, from where to where; LogError."""
    packed = {
        name: lz4.frame.compress(content, compression_level=LEVEL, content_checksum=True)
        for name, content in images.items()
    }
    rows: list[tuple[str, int, int, int]] = [
        (name, len(stored), len(images[name]), crc32(stored)) for name, stored in packed.items()
    ]
    if checkpoints is not None:
        size = checkpoints[2] - checkpoints[1]
        rows.append((CHECKPOINTS, size, size, crc32_of(file_pieces(*checkpoints))))
    index: bytes = msgpack.packb(rows)
    preamble = PREAMBLE.pack(MAGIC, FORMAT, len(index))
    head = b"".join((preamble, CHECK.pack(crc32(preamble)), index, CHECK.pack(crc32(index))))
    part = out.with_name(out.name + ".part")
    if out.exists():
        raise LogError(f"{out} exists: remove it, or pack to another file")
    try:
        with part.open("wb") as file:
            file.writelines((head, *packed.values()))
            if checkpoints is not None:
                file.writelines(file_pieces(*checkpoints))
            file.writelines(log)
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LogError(f"cannot write {out}: {error.strerror}") from None


def file_pieces(fd: int, start: int, end: int) -> Iterator[bytes]:
    """A part of a file."""
    while start < end and (piece := os.pread(fd, min(PIECE, end - start), start)):
        yield piece
        start += len(piece)


def crc32_of(pieces: Iterable[bytes]) -> int:
    """The check over all of them."""
    check = 0
    for piece in pieces:
        check = crc32(piece, check)
    return check
