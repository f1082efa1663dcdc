# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames on a byte stream, as QEMU (`-netdev stream`, `-netdev socket`) and passt send them: each behind its length.

    le  = 4 bytes, most significant first; then that many bytes of Ethernet frame

Bytes in, frames out; no I/O.
"""

from __future__ import annotations

from typing import Final

from devices.virtio.offload import FRAME_MAX

LENGTH: Final = 4
PEER_MAX: Final = 4096 + 65536  # QEMU's NET_BUFSIZE: the longest that a peer in its senses announces


class FramingError(Exception):
    """The peer does not speak this protocol; the message says what it sent."""


def encode(frame: bytes) -> bytes:
    """A frame as it goes over the stream."""
    return len(frame).to_bytes(LENGTH) + frame


class Deframer:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes; FramingError when the stream is none of frames.

        A frame that is longer than a guest can take is left out.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while len(buffer) - at >= LENGTH:
            length = int.from_bytes(buffer[at : at + LENGTH])
            if not 0 < length <= PEER_MAX:
                raise FramingError(f"the peer announced a frame of {length} bytes: it does not send Ethernet frames")
            end = at + LENGTH + length
            if len(buffer) < end:
                break
            if length <= FRAME_MAX:
                frames.append(bytes(buffer[at + LENGTH : end]))
            at = end
        del buffer[:at]
        return frames
