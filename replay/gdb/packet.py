# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets of GDB's remote serial protocol (GDB manual, appendix E): bytes of a connection to packets, and back.

    $payload#cs     a packet; cs is the sum of the payload's bytes, modulo 256, in hexadecimal
    + -             the other side has received it well, or wants it again; until both agree to do without
    0x03            interrupt, outside any packet

In a payload `}` stands before a byte that was changed by 0x20, and `*` after a character means that it is repeated; the
latter we understand and do not send.
"""

from __future__ import annotations

import re
from typing import Final

PACKET_MAX: Final = 1 << 14  # bytes of payload, either way
INTERRUPT: Final = b"\x03"
ACK: Final = b"+"
NAK: Final = b"-"
_NUMBER: Final = re.compile("[0-9a-fA-F]{1,16}")
_SPECIAL: Final = re.compile(rb"[$#}*]")


class ProtocolError(Exception):
    """The peer does not speak this protocol."""


def number(text: str) -> int:
    """An unsigned number of at most 64 bits, as packets carry them; ValueError."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number")
    return int(text, 16)


def frame(payload: bytes) -> bytes:
    """A packet around a payload that is escaped where needed."""
    escaped = _SPECIAL.sub(lambda found: bytes((ord("}"), found[0][0] ^ 0x20)), payload)
    return b"$" + escaped + b"#%02x" % (sum(escaped) % 256)


def unescape(content: bytes) -> bytes:
    """The payload inside a packet; ProtocolError."""
    out = bytearray()
    index = 0
    while index < len(content):
        byte = content[index]
        if byte == ord("}") and index + 1 < len(content):
            index += 1
            out.append(content[index] ^ 0x20)
        elif byte == ord("*") and out and index + 1 < len(content):
            index += 1
            out += bytes((out[-1],)) * max(0, content[index] - 29)
        else:
            out.append(byte)
        index += 1
        if len(out) > PACKET_MAX:
            raise ProtocolError(f"a packet of more than {PACKET_MAX} bytes")
    return bytes(out)


class PacketReader:
    """Takes bytes as they come. Gives payloads, and INTERRUPT, ACK or NAK as they are."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """(what was sent, whether it is a packet's payload) in order; b"" for a packet whose sum is wrong."""
        self._buffer += data
        found = []
        while (item := self._next()) is not None:
            found.append(item)
        return found

    def _next(self) -> tuple[bytes, bool] | None:
        while self._buffer and self._buffer[0] != ord("$"):
            byte = bytes(self._buffer[:1])
            del self._buffer[:1]
            if byte in (INTERRUPT, ACK, NAK):
                return byte, False
        end = self._buffer.find(b"#")
        if end < 0 or len(self._buffer) < end + 3:
            if len(self._buffer) > 2 * PACKET_MAX + 4:
                raise ProtocolError(f"a packet of more than {PACKET_MAX} bytes")
            return None
        content, told = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
        del self._buffer[: end + 3]
        try:
            right = int(told, 16) == sum(content) % 256
        except ValueError:
            right = False
        return (unescape(content), True) if right else (NAK, True)
