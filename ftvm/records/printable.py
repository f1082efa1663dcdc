# SPDX-License-Identifier: GPL-2.0-or-later
"""Words of a guest as text that is safe to show: on a terminal, in a log, in a page.

A guest may write whatever it likes to its console. Here everything that is not a printable character is escaped as in
Python (`\\n`, `\\x1b`, `\\u202e`), bytes that are no UTF-8 as `\\xNN`, and the backslash itself as `\\\\`; so no
terminal acts on it, no line is broken or turned around by it, and what was written can be told from what stands here.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 80  # characters of a summary
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def printable(text: bytes | str, most: int | None = None) -> str:
    """The text, escaped; when it has more than `most` bytes or characters, its beginning and `...`."""
    cut = text if most is None else text[:most]
    if isinstance(cut, bytes):
        cut = cut.decode("utf-8", "surrogateescape")
    return "".join(map(_escape, cut)) + ("..." if most is not None and len(text) > most else "")


def _escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
