# SPDX-License-Identifier: GPL-2.0-or-later
"""Who talks: a session is one acquaintance of two members of a pair, from a hello to the next one.

The joiner proposes a session id that it has never used (random, not 0) in the header of its HELLO; the WELCOME carries
it back, together with the primary's term, and from there on every frame of both sides carries pair, term and session.
Whatever else arrives was meant for somebody else, or for an earlier acquaintance, and is dropped and counted: the
transport may hand an old connection's frames to a new one.

    frame            pair must match   session must match   term must match
    HELLO            yes               no (it proposes)     no (the body's is judged)
    WELCOME, REFUSE  yes               yes                  no (the joiner learns it)
    all others       yes               yes                  yes
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from logging_channel.errors import ChannelError
from logging_channel.frame import Frame, FrameKind, decode, encode

_ANSWERS = (FrameKind.WELCOME, FrameKind.REFUSE)


@dataclass(frozen=True, slots=True)
class Session:
    """The three numbers that every frame carries. Session number 0: nobody is known yet."""

    pair: int
    term: int
    number: int

    def encode(self, kind: FrameKind, sequence: int = 0, body: bytes = b"", flags: int = 0) -> bytes:
        """Return the bytes of a frame of this session."""
        return encode(kind, self.pair, self.term, self.number, sequence, body, flags)


class Admission:
    """The gate every received message passes: returns frames of this session and counts the rest by cause."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.dropped: Counter[str] = Counter()  # damaged, pair, session, older term, newer term
        self.last_drop = ""  # the latest drop in words, for the log

    def admit(self, data: bytes) -> Frame | None:
        """Return the frame in `data`, or None when it is damaged or somebody else's."""
        try:
            frame = decode(data)
        except ChannelError as error:
            return self._drop("damaged", str(error))
        ours = self.session
        if frame.pair != ours.pair:
            return self._drop("pair", f"a {frame.kind.name} of pair {frame.pair:#x}, this is {ours.pair:#x}")
        if frame.kind is FrameKind.HELLO:
            return frame
        if frame.session != ours.number or ours.number == 0:
            return self._drop("session", f"a {frame.kind.name} of session {frame.session:#x}, not {ours.number:#x}")
        if frame.term != ours.term and frame.kind not in _ANSWERS:
            age = "older" if frame.term < ours.term else "newer"
            return self._drop(f"{age} term", f"a {frame.kind.name} of {age} term {frame.term}, not {ours.term}")
        return frame

    def _drop(self, cause: str, words: str) -> Frame | None:
        self.dropped[cause] += 1
        self.last_drop = words
        return None
