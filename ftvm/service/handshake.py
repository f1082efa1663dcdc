# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixed newstyle handshake, server side (proto.md, "Handshake phase"). No I/O: bytes in, bytes out.

    state      | consumes                    | next
    -----------|-----------------------------|----------------------------------------------------------------
    FLAGS      | client flags                | OPTION
    OPTION     | one option with its data    | OPTION; DONE after EXPORT_NAME, GO; CLOSED after ABORT
    SKIP       | data of an oversized option | OPTION
    DONE       | nothing                     | (the transmission phase)
    CLOSED     | nothing                     |

What the client gets to read is collected in `outgoing`. TLS and structured replies are not offered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Final

from ftvm.service.export import FLAGS, Export
from ftvm.service.nbd import ClientError

GREETING: Final = b"NBDMAGICIHAVEOPT"
OPTION_MAGIC: Final = 0x49484156454F5054
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
OPTION: Final = struct.Struct(">QII")
OPTION_REPLY: Final = struct.Struct(">QIII")
OPTION_DATA_MAX: Final = 8192  # names have at most 4096 bytes

FIXED_NEWSTYLE: Final = 1
NO_ZEROES: Final = 2


class Option(IntEnum):
    """Options that this server knows."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7


class OptionReply(IntEnum):
    """Option reply types; errors have bit 31 set."""

    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = 1 << 31 | 1
    ERR_INVALID = 1 << 31 | 3
    ERR_UNKNOWN = 1 << 31 | 6
    ERR_TOO_BIG = 1 << 31 | 9


class Info(IntEnum):
    """Information types of INFO and GO."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class State(Enum):
    """Where the handshake stands; see the table above."""

    FLAGS = "flags"
    OPTION = "option"
    SKIP = "skip"
    DONE = "done"
    CLOSED = "closed"


class Handshake:
    """Consumes a client's side of the handshake from a buffer, message by message."""

    def __init__(self, export: Export) -> None:
        self.export = export
        self.state = State.FLAGS
        self.outgoing = bytearray(GREETING + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        self._fixed = self._zeroes = True
        self._skip = 0
        self._answers: dict[int, Callable[[bytes], None]] = {
            Option.ABORT: self._abort,
            Option.LIST: self._list,
            Option.INFO: lambda data: self._info(Option.INFO, data),
            Option.GO: lambda data: self._info(Option.GO, data),
        }

    def advance(self, buffer: bytearray) -> bool:
        """Consume one message from the front of `buffer`; False when there is no whole one. ClientError on nonsense."""
        if self.state is State.FLAGS:
            return self._flags(buffer)
        if self.state is State.OPTION:
            return self._option(buffer)
        if self.state is State.SKIP:
            return self._skip_data(buffer)
        return False

    def _flags(self, buffer: bytearray) -> bool:
        if len(buffer) < 4:
            return False
        flags = int.from_bytes(buffer[:4], "big")
        del buffer[:4]
        if flags & ~(FIXED_NEWSTYLE | NO_ZEROES):
            raise ClientError(f"unknown client flags {flags:#x}")
        self._fixed, self._zeroes = bool(flags & FIXED_NEWSTYLE), not flags & NO_ZEROES
        self.state = State.OPTION
        return True

    def _option(self, buffer: bytearray) -> bool:
        if len(buffer) < OPTION.size:
            return False
        magic, option, length = OPTION.unpack_from(buffer)
        if magic != OPTION_MAGIC:
            raise ClientError(f"option has magic {magic:#x}")
        if length > OPTION_DATA_MAX:
            return self._too_big(buffer, option, length)
        if len(buffer) < OPTION.size + length:
            return False
        data = bytes(buffer[OPTION.size : OPTION.size + length])
        del buffer[: OPTION.size + length]
        if option == Option.EXPORT_NAME:
            self._export_name(data)
        elif not self._fixed:
            raise ClientError(f"option {option} from a client that does not speak fixed newstyle")
        elif answer := self._answers.get(option):
            answer(data)
        else:
            self._reply(option, OptionReply.ERR_UNSUP)
        return True

    def _too_big(self, buffer: bytearray, option: int, length: int) -> bool:
        if option == Option.EXPORT_NAME or not self._fixed:
            raise ClientError(f"option {option} of {length} bytes")
        del buffer[: OPTION.size]
        self._reply(option, OptionReply.ERR_TOO_BIG)
        self._skip, self.state = length, State.SKIP
        return True

    def _skip_data(self, buffer: bytearray) -> bool:
        if not buffer:
            return False
        here = min(self._skip, len(buffer))
        del buffer[:here]
        self._skip -= here
        if not self._skip:
            self.state = State.OPTION
        return True

    # -- answers ------------------------------------------------------------------------------------------------

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.outgoing += OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data

    def _export_name(self, name: bytes) -> None:
        if not self.export.accepts(name):
            raise ClientError(f"no export is called {name[:64]!r}")
        self.outgoing += struct.pack(">QH", self.export.size, FLAGS)
        if self._zeroes:
            self.outgoing += bytes(124)
        self.state = State.DONE

    def _abort(self, _data: bytes) -> None:
        self._reply(Option.ABORT, OptionReply.ACK)
        self.state = State.CLOSED

    def _list(self, data: bytes) -> None:
        if data:
            self._reply(Option.LIST, OptionReply.ERR_INVALID)
            return
        name = self.export.name.encode()
        self._reply(Option.LIST, OptionReply.SERVER, struct.pack(">I", len(name)) + name)
        self._reply(Option.LIST, OptionReply.ACK)

    def _info(self, option: Option, data: bytes) -> None:
        question = parse_info(data)
        if question is None:
            self._reply(option, OptionReply.ERR_INVALID)
            return
        name, wanted = question
        if not self.export.accepts(name):
            self._reply(option, OptionReply.ERR_UNKNOWN)
            return
        for info in self._infos(wanted):
            self._reply(option, OptionReply.INFO, info)
        self._reply(option, OptionReply.ACK)
        if option is Option.GO:
            self.state = State.DONE

    def _infos(self, wanted: frozenset[int]) -> list[bytes]:
        infos = [
            struct.pack(">HQH", Info.EXPORT, self.export.size, FLAGS),
            struct.pack(">HIII", Info.BLOCK_SIZE, *self.export.block_sizes),
        ]
        if Info.NAME in wanted:
            infos.append(struct.pack(">H", Info.NAME) + self.export.name.encode())
        if Info.DESCRIPTION in wanted and self.export.description:
            infos.append(struct.pack(">H", Info.DESCRIPTION) + self.export.description.encode())
        return infos


def parse_info(data: bytes) -> tuple[bytes, frozenset[int]] | None:
    """Name and wanted information types of an INFO or GO option; None when it is malformed."""
    if len(data) < 6:
        return None
    (size,) = struct.unpack_from(">I", data)
    if size > len(data) - 6:
        return None
    (count,) = struct.unpack_from(">H", data, 4 + size)
    if len(data) != 6 + size + 2 * count:
        return None
    return data[4 : 4 + size], frozenset(struct.unpack_from(f">{count}H", data, 6 + size))
