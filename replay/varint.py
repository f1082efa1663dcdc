# SPDX-License-Identifier: GPL-2.0-or-later
"""Variable-length integers: 7 bits a byte, least significant first, the top bit says that more follow (LEB128).

Signed values are folded first ("zigzag": 0, -1, 1, -2, ... become 0, 1, 2, 3, ...), so that small ones stay short.
"""

from __future__ import annotations

from replay.errors import LogError

BITS_MAX = 70  # ten bytes; enough for a folded difference of two unsigned 64-bit numbers


def put(out: bytearray, value: int) -> None:
    """Append `value`, which is not negative."""
    assert value >= 0, f"varint of {value}"
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def take(data: bytes, at: int) -> tuple[int, int]:
    """The value at offset `at`, and the offset behind it."""
    try:
        value = data[at]
        at += 1
        if value < 0x80:
            return value, at
        value &= 0x7F
        shift = 7
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
            if shift >= BITS_MAX:
                raise LogError(f"number at offset {at} of the body is too long")
    except IndexError:
        raise LogError(f"body ends inside the number at its offset {at}") from None


def take_many(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """`count` values from offset `at` on, and the offset behind them."""
    values = []
    for _ in range(count):
        value, at = take(data, at)
        values.append(value)
    return values, at


def fold(value: int) -> int:
    """A signed number as an unsigned one."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unfold(value: int) -> int:
    """The inverse of `fold`."""
    return (value >> 1) ^ -(value & 1)
