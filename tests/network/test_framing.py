# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames on a byte stream: however it is cut, and whatever else than frames is on it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.offload import FRAME_MAX
from ftvm.world.network.framing import PEER_MAX, Deframer, FramingError, encode


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=6), st.lists(st.integers(1, 50), max_size=30))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(sent: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(encode, sent))
    deframer = Deframer()
    found = []
    for size in cuts:
        found += deframer.feed(stream[:size])
        stream = stream[size:]
    assert found + deframer.feed(stream) == sent


def test_one_byte_at_a_time() -> None:
    deframer = Deframer()
    found = [frame for byte in encode(b"one") + encode(b"two") for frame in deframer.feed(bytes([byte]))]
    assert found == [b"one", b"two"]


@pytest.mark.parametrize("length", [0, PEER_MAX + 1, 0x47455420, 0xFFFF_FFFF])
def test_a_length_that_no_frame_has_is_told(length: int) -> None:
    """Also the word GET."""
    with pytest.raises(FramingError, match=f"announced a frame of {length} bytes"):
        Deframer().feed(length.to_bytes(4))


def test_a_frame_that_no_guest_can_take_is_left_out_and_the_next_one_is_found() -> None:
    assert Deframer().feed(encode(bytes(FRAME_MAX + 1)) + encode(b"next")) == [b"next"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes_are_frames_or_told(pieces: list[bytes]) -> None:
    """And what is kept of them is never more than one frame."""
    deframer = Deframer()
    try:
        for piece in pieces:
            assert all(0 < len(frame) <= FRAME_MAX for frame in deframer.feed(piece))
            assert len(deframer._buffer) <= PEER_MAX + 4
    except FramingError:
        pass
