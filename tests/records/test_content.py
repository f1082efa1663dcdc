# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bytes of events and outputs mean, and that none of them can act on whoever looks at them."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.event import EventKind, OutputKind
from devices.virtio.offload import GSO_TCPV4, NEEDS_CSUM, PACKET_HEADER, plain
from ftvm.machine import EpochEnd
from ftvm.records.content import (
    BlockReply,
    BlockRequest,
    ConsoleText,
    Content,
    Control,
    Packet,
    Unknown,
    event_content,
    output_content,
)
from ftvm.records.happening import INPUT_KINDS, OUTPUT_KINDS
from ftvm.records.printable import printable
from ftvm.service.nbd import FLUSH, FUA, READ, TRIM, VENDOR, WRITE
from ftvm.service.request import encode_close, encode_request
from replay.inspect import REASONS
from tests.machine import frames


@pytest.mark.parametrize(
    ("kind", "flags", "data", "words"),
    [
        (READ, 0, b"", "read on connection 9: 1024 bytes at 0x2000"),
        (WRITE, FUA, b"x" * 512, "write on connection 9: 512 bytes at 0x2000, FUA"),
        (FLUSH, 0, b"", "flush on connection 9"),
        (TRIM, 0, b"", "trim on connection 9: 1024 bytes at 0x2000"),
        (VENDOR, 0, b"", "vendor on connection 9: 1024 bytes at 0x2000"),
    ],
)
def test_a_block_request_says_what_it_asks_for(kind: int, flags: int, data: bytes, words: str) -> None:
    request = event_content(EventKind.BLOCK_REQUEST, 0, encode_request(9, kind, flags, 0x2000, 1024, data))
    assert isinstance(request, BlockRequest)
    assert (str(request), request.data) == (words, data)


def test_what_else_comes_in_says_what_it_is() -> None:
    assert str(event_content(EventKind.BLOCK_CLOSE, 0, encode_close(4))) == "connection 4 ended"
    assert str(event_content(EventKind.CONTROL, 0, b"stop")) == "stop"
    assert str(event_content(EventKind.LINK, 1, b"\2")) == "link of network 1: moved"
    assert str(event_content(EventKind.ENTROPY, 0, bytes(32))) == "32 random bytes"
    assert str(event_content(EventKind.CONSOLE_INPUT, 0, b"ls\r")) == '"ls\\r"'


def test_a_packet_tells_what_is_left_to_do() -> None:
    frame = frames.ipv4(17, frames.datagram(1, 2, b"hi"))
    assert str(event_content(EventKind.PACKET, 0, plain(frame))) == "10.0.2.2:1 > 10.0.2.15:2 UDP, 2 bytes [44 bytes]"
    long = output_content(OutputKind.PACKET, 3, PACKET_HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16) + frame, 0)
    assert isinstance(long, Packet)
    assert (long.unit, long.segment, long.checksum_due, long.data) == (3, 1448, True, frame)
    assert str(long).endswith("[44 bytes, in pieces of 1448]")


def test_a_reply_tells_its_error() -> None:
    done = output_content(OutputKind.BLOCK_REPLY, 2, bytes(4) + b"data", 17)
    assert done == BlockReply(2, 17, 0, b"data") and str(done) == "reply to request 17: done, 4 bytes"
    failed = output_content(OutputKind.BLOCK_REPLY, 2, (5).to_bytes(4), 18)
    assert str(failed) == "reply to request 18: EIO"
    assert str(output_content(OutputKind.BLOCK_REPLY, 2, (99).to_bytes(4), 19)) == "reply to request 19: error 99"


def test_bytes_that_nobody_writes_are_unknown_and_told_as_they_are() -> None:
    for content in (
        event_content(EventKind.BLOCK_REQUEST, 0, b"\1\x0c"),
        event_content(EventKind.BLOCK_CLOSE, 0, b""),
        event_content(EventKind.LINK, 0, b"\7"),
        event_content(99, 0, b"x"),
        event_content(EventKind.PACKET, 0, b"short"),
        output_content(OutputKind.BLOCK_REPLY, 0, b"", 0),
        output_content(77, 0, b"", 0),
    ):
        assert isinstance(content, Unknown) and content.why


@given(st.integers(0, 12), st.integers(0, 300), st.binary(max_size=80))
def test_no_bytes_raise_or_reach_a_terminal(kind: int, unit: int, data: bytes) -> None:
    for content in (event_content(kind, unit, data), output_content(kind, unit, data, 0)):
        assert isinstance(content, get_args(Content)) and str(content).isprintable()


def test_what_would_act_on_a_terminal_is_escaped() -> None:
    assert printable(b"\x1b[2J\x07\x00\r\n") == "\\x1b[2J\\x07\\x00\\r\\n"
    assert printable("\u202eevil\u2066\u200b") == "\\u202eevil\\u2066\\u200b"
    assert printable("\x9b31m") == "\\x9b31m", "the 8-bit form of an escape sequence"
    assert printable(b"\xff\xfe ok \xc3\xa4") == "\\xff\\xfe ok \u00e4"
    assert printable("a\\n") == "a\\\\n", "an escape that the guest wrote is told from one that stands for a byte"
    assert printable(b"x" * 100, 10) == "x" * 10 + "..."


@given(st.binary(max_size=60))
def test_any_bytes_become_printable_and_can_be_had_back(data: bytes) -> None:
    text = printable(data)
    assert text.isprintable()
    assert eval('"' + text.replace('"', '\\"') + '"') is not None  # it is one Python string
    assert printable(data) == text


def test_a_control_command_of_an_attacker_is_escaped() -> None:
    found = event_content(EventKind.CONTROL, 0, b"st\x1b[31mop")
    assert isinstance(found, Control) and str(found) == "st\\x1b[31mop"
    assert str(ConsoleText(b"\x1b")) == '"\\x1b"'


def test_names_are_those_of_machine_and_devices() -> None:
    """The floors below have no names for these: they are given twice, and are the same."""
    assert tuple(end.name.lower() for end in EpochEnd) == REASONS
    assert set(INPUT_KINDS) == set(EventKind) and set(OUTPUT_KINDS) == set(OutputKind)
