# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames: any bytes decode to a frame or to an error in words, and damage never passes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_channel.errors import ChannelError
from logging_channel.frame import BODY_MAX, HEADER_SIZE, VERSION, Frame, FrameKind, checksum, decode, encode

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
FRAMES = st.builds(Frame, st.sampled_from(FrameKind), U64, U32, U64, U64, st.binary(max_size=300), U16)
SAMPLE = encode(FrameKind.ENTRY, 0x1122334455667788, 3, 0x99AABBCCDDEEFF00, 77, b"what the guest is given", 1)


def forged(magic: bytes = b"FTVM", version: int = VERSION, kind: int = 4, length: int = 0, body: bytes = b"") -> bytes:
    """A frame with a right checksum over whatever is asked for."""
    header = struct.pack("<4sBBHIQIQQ", magic, version, kind, 0, length, 1, 2, 3, 4)
    return header + struct.pack("<I", checksum(header, body)) + body


@given(FRAMES)
@settings(max_examples=200)
def test_every_frame_survives_the_wire(frame: Frame) -> None:
    """Decoding gives back every field."""
    assert decode(encode(frame.kind, *frame[1:])) == frame


def test_the_header_is_laid_out_as_documented() -> None:
    """Golden bytes: another release must be able to read what this one writes."""
    assert SAMPLE.hex() == (
        "4654564d" "02" "04" "0100" "17000000" "8877665544332211" "03000000" "00ffeeddccbbaa99" "4d00000000000000"
    ) + SAMPLE[40:44].hex() + b"what the guest is given".hex()  # fmt: skip
    assert HEADER_SIZE == 44


def test_every_single_bit_flip_is_detected() -> None:
    """Exhaustively, header, checksum and body."""
    for bit in range(len(SAMPLE) * 8):
        damaged = bytearray(SAMPLE)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ChannelError):
            decode(bytes(damaged))


def test_a_frame_cut_or_extended_at_any_byte_is_refused() -> None:
    """Fed byte by byte, nothing but the whole frame decodes."""
    for length in range(len(SAMPLE)):
        with pytest.raises(ChannelError):
            decode(SAMPLE[:length])
    for more in (b"\0", SAMPLE):
        with pytest.raises(ChannelError, match=r"announces a body of 23 bytes and carries"):
            decode(SAMPLE + more)
    assert decode(SAMPLE).sequence == 77


@given(st.binary(max_size=400))
@settings(max_examples=150)
def test_any_bytes_give_a_frame_or_a_channel_error(data: bytes) -> None:
    """No other exception ever comes out of the decoder."""
    try:
        assert isinstance(decode(data), Frame)
    except ChannelError as error:
        assert str(error)


@given(st.binary(min_size=4, max_size=4), st.integers(0, 255), st.integers(0, 255), U32, st.binary(max_size=64))
@settings(max_examples=150)
def test_any_header_with_a_right_checksum_gives_a_frame_or_a_channel_error(
    magic: bytes, version: int, kind: int, length: int, body: bytes
) -> None:
    """A checksum is no promise: every field is checked for itself."""
    try:
        frame = decode(forged(magic, version, kind, length, body))
    except ChannelError:
        return
    assert (magic, version, length) == (b"FTVM", VERSION, len(body)) and frame.kind in FrameKind


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "shorter than its header"),
        (forged(magic=b"HTTP"), "does not speak this protocol"),
        (forged(version=9), "version 9, this side speaks 2"),
        (forged(kind=0), "unknown kind 0"),
        (forged(kind=200), "unknown kind 200"),
        (forged(length=5), "announces a body of 5 bytes and carries 0"),
        (forged(length=BODY_MAX + 1), "the limit is"),
        (SAMPLE[:-1] + b"X", "fails its checksum"),
    ],
)
def test_the_error_says_what_is_wrong(data: bytes, words: str) -> None:
    """Each cause has its words."""
    with pytest.raises(ChannelError, match=words):
        decode(data)


def test_a_body_over_the_limit_is_our_own_bug() -> None:
    """Encoding asserts: the caller cuts its chunks smaller."""
    with pytest.raises(AssertionError, match="over the limit"):
        encode(FrameKind.ENTRY, 0, 0, 0, 0, bytes(BODY_MAX + 1))
