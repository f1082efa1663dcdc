# SPDX-License-Identifier: GPL-2.0-or-later
"""What a backup sends to a debugger over a Unix socket: a moment of its machine, then the entries behind it.

    length of the body u32 | kind u8 | body            little-endian

    HELLO    msgpack [version, entry of the moment, entry now, configuration's digest, disks' sizes]
    SECTION  msgpack [name, bytes]: of the machine's state without RAM
    RAM      pages of RAM (ram_feed.py)
    CHUNK    unit u32, index u32, LZ4 block with its size: 64 KiB of a disk; what does not come is all zero
    WHOLE    the moment is complete
    ENTRY    msgpack [entry as on the channel, reason, clock, time, digest, pages]: what was executed, and its result
    BYE      why nothing more will come, in words

The debugger sends nothing: closing the connection is all that it has to say.
"""

from __future__ import annotations

import socket
from enum import IntEnum
from struct import Struct
from typing import Final

import lz4.block
import msgpack

from ftvm.scratch_disk import CHUNK
from logging_channel.errors import ChannelError
from replay.entry import Entry, EpochResult, decode_entry

VERSION: Final = 1
NAME: Final = "debug.sock"
BODY_MAX: Final = 1 << 28
RECEIVE: Final = 1 << 18
_HEAD: Final = Struct("<IB")
_PLACE: Final = Struct("<II")


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    SECTION = 2
    RAM = 3
    CHUNK = 4
    WHOLE = 5
    ENTRY = 6
    BYE = 7


def message(kind: Kind, body: bytes = b"") -> bytes:
    """As it is sent."""
    return _HEAD.pack(len(body), kind) + body


def chunk_body(unit: int, index: int, content: bytes) -> bytes:
    """Of a CHUNK."""
    packed: bytes = lz4.block.compress(content)
    return _PLACE.pack(unit, index) + packed


def decode_chunk(body: bytes) -> tuple[int, int, bytes]:
    """Inverse of `chunk_body`; ChannelError."""
    try:
        unit, index = _PLACE.unpack_from(body)
        packed = body[_PLACE.size :]
        if int.from_bytes(packed[:4], "little") > CHUNK:
            raise ValueError("it is too large")
        return unit, index, lz4.block.decompress(packed)
    except Exception as error:  # of LZ4, of many kinds
        raise ChannelError(f"a chunk of a disk cannot be read: {error}") from None


def entry_body(data: bytes, result: EpochResult) -> bytes:
    """Of an ENTRY; `data` is the entry as on the channel."""
    fields = [data, result.reason, result.clock, result.time, result.digest, result.pages]
    packed: bytes = msgpack.packb(fields)
    return packed


def decode_executed(body: bytes) -> tuple[Entry, EpochResult]:
    """Inverse of `entry_body`; ChannelError, LogError."""
    try:
        data, *numbers = msgpack.unpackb(body)
        reason, clock, time, digest, pages = map(int, numbers)
    except Exception as error:  # of msgpack, of many kinds
        raise ChannelError(f"an executed entry cannot be read: {error}") from None
    entry = decode_entry(data)
    return entry, EpochResult(entry.sequence, reason, clock, time, digest, pages)


class MessageReader:
    """Messages from a socket. With a timeout on that, `receive` gives None when it has passed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def receive(self) -> tuple[int, bytes] | None:
        """The next message; ChannelError when the connection has ended."""
        while (found := self._whole()) is None:
            try:
                data = self._connection.recv(RECEIVE)
            except TimeoutError:
                return None
            except OSError as error:
                raise ChannelError(f"the connection to the backup was lost: {error.strerror}") from None
            if not data:
                raise ChannelError("the backup's process has ended")
            self._buffer += data
        return found

    def _whole(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < _HEAD.size:
            return None
        length, kind = _HEAD.unpack_from(self._buffer)
        if length > BODY_MAX:
            raise ChannelError(f"a message of {length} bytes: this is no backup")
        if len(self._buffer) < _HEAD.size + length:
            return None
        body = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
        del self._buffer[: _HEAD.size + length]
        return kind, body
