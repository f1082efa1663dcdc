# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest, a peer or a damaged log may put into events and outputs, and all that is made of it for people."""

from __future__ import annotations

import contextlib
import io
import json

from devices.event import EventKind, OutputKind
from devices.virtio.offload import GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, PACKET_HEADER, plain
from ftvm.records.content import Unknown
from ftvm.records.happening import Happening, Input, Output
from ftvm.records.lines import line
from ftvm.records.pcapng import CaptureWriter
from ftvm.records.query import PatternError, hex_pattern, text_pattern, with_whole_lines
from ftvm.service.request import encode_close, encode_request
from tests.fuzz.engine import Target
from tests.records.test_frame import SAMPLES


def content_samples() -> list[bytes]:
    """A byte for the kind, one for the device, then the data."""
    packets = [plain(frame) for frame, _ in SAMPLES.values()]
    for kind in (GSO_TCPV4, GSO_TCPV6):
        packets.append(PACKET_HEADER.pack(NEEDS_CSUM, kind, 54, 1448, 34, 16) + SAMPLES["data"][0])
    return [
        *(bytes([EventKind.PACKET, 0]) + packet for packet in packets),
        bytes([EventKind.BLOCK_REQUEST, 0]) + encode_request(9, 1, 1, 4096, 512, bytes(512)),
        bytes([EventKind.BLOCK_CLOSE, 0]) + encode_close(300),
        bytes([EventKind.CONSOLE_INPUT, 0]) + "ls -l\r\x1b[A\u202e".encode(),
        bytes([EventKind.CONTROL, 0]) + b"stop",
        bytes([EventKind.LINK, 1]) + b"\2",
        bytes([OutputKind.BLOCK_REPLY, 2]) + (5).to_bytes(4) + b"data",
        bytes([OutputKind.NOTICE, 0]) + b"driver restart 1: the guest panicked",
    ]


def check_content(data: bytes) -> None:
    """As an event and as an output: words that a terminal may print, JSON, and a capture; nothing raises."""
    if len(data) < 2:
        return
    kind, unit, rest = data[0] % 16, data[1], data[2:]
    happenings: list[Happening] = [Input(1, 0, 5, 6, kind, unit, rest), Output(1, 0, 5, 6, kind, unit, rest, 7, False)]
    capture = CaptureWriter(io.BytesIO(), "fuzz")
    for happening in happenings:
        assert line(happening).isprintable(), "a line can do something to a terminal"
        assert len(happening.summary) < 2000, "a line without end"
        assert json.loads(json.dumps(happening.as_dict()))["payload"] == happening.payload.hex()
        assert len(happening.payload) <= max(len(rest), 0)
        capture.add(happening)
    content = happenings[0].content  # type: ignore[attr-defined]
    if kind == EventKind.BLOCK_REQUEST and not isinstance(content, Unknown):
        assert content.length >= len(content.data)
    joined = b"".join(each.payload for each in with_whole_lines(happenings) if each.kind == "console_output")
    assert joined == (rest if kind == OutputKind.CONSOLE else b"")


def pattern_samples() -> list[bytes]:
    return [b"de ad (..){2} be|bf", b"00{3}(ff|fe)+", b"who has [0-9.]+\\?", b"(a|b)*c{1,3}"]


def check_pattern(data: bytes) -> None:
    """A pattern is one or is refused."""
    text = data.decode("utf-8", "replace")
    for make in (hex_pattern, text_pattern):
        with contextlib.suppress(PatternError):
            make(text)


TARGETS = [
    Target("content", content_samples, check_content),
    Target("pattern", pattern_samples, check_pattern),
]
