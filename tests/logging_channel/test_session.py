# SPDX-License-Identifier: GPL-2.0-or-later
"""Admission: frames of another pair, term or session never get in, and are counted by cause."""

from __future__ import annotations

import pytest

from logging_channel.frame import FrameKind, encode
from logging_channel.session import Admission, Session

OURS = Session(pair=1, term=5, number=100)
ANSWERS = (FrameKind.WELCOME, FrameKind.REFUSE)
OTHERS = [kind for kind in FrameKind if kind not in (FrameKind.HELLO, *ANSWERS)]


def verdict(kind: FrameKind, pair: int = 1, term: int = 5, session: int = 100, ours: Session = OURS) -> str:
    """What becomes of such a frame: "in", or the cause it is counted under."""
    gate = Admission(ours)
    frame = gate.admit(encode(kind, pair, term, session, 7, b"body"))
    assert (frame is None) == (sum(gate.dropped.values()) == 1) == bool(gate.last_drop)
    return "in" if frame is not None else next(iter(gate.dropped))


@pytest.mark.parametrize("kind", FrameKind)
def test_a_frame_of_this_session_gets_in(kind: FrameKind) -> None:
    """Whatever its kind."""
    assert verdict(kind) == "in"


@pytest.mark.parametrize("kind", FrameKind)
def test_a_frame_of_another_pair_is_dropped(kind: FrameKind) -> None:
    """Two pairs on one host may mix up their ports."""
    assert verdict(kind, pair=2) == "pair"


@pytest.mark.parametrize("kind", OTHERS)
def test_terms_must_match(kind: FrameKind) -> None:
    """An older reign's frames have no say, a newer one's are told apart."""
    assert verdict(kind, term=4) == "older term"
    assert verdict(kind, term=6) == "newer term"


@pytest.mark.parametrize("kind", [*OTHERS, *ANSWERS])
def test_sessions_must_match(kind: FrameKind) -> None:
    """A late frame of an earlier connection is dropped, and anything before the first hello."""
    assert verdict(kind, session=99) == "session"
    assert verdict(kind, session=0, ours=Session(1, 5, 0)) == "session"


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_to_a_hello_may_bring_another_term(kind: FrameKind) -> None:
    """That is how a joiner learns it."""
    assert verdict(kind, term=9) == "in"


def test_a_hello_proposes_its_session() -> None:
    """A hello is judged by its body, not by numbers that the joiner cannot know."""
    assert verdict(FrameKind.HELLO, term=0, session=12345) == "in"


def test_damage_is_counted_and_told() -> None:
    """Garbage raises nothing."""
    gate = Admission(OURS)
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n" * 5, encode(FrameKind.ACK, 1, 5, 100)[:-1] + b"X"):
        assert gate.admit(garbage) is None
    assert gate.dropped == {"damaged": 3}
    assert "checksum" in gate.last_drop


def test_a_session_encodes_frames_that_its_peer_admits() -> None:
    """The numbers of the session are in every frame."""
    frame = Admission(OURS).admit(OURS.encode(FrameKind.ENTRY, 42, b"entry", 3))
    assert frame == (FrameKind.ENTRY, 1, 5, 100, 42, b"entry", 3)
