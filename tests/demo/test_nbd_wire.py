# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD client's protocol without I/O: whole, in pieces, refused and hostile."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.demo.nbd_wire import (
    ANSWER,
    ANSWER_ACK,
    ANSWER_ERROR,
    ANSWER_INFO,
    ANSWER_MAGIC,
    GREETING,
    INFO_EXPORT,
    OPTION_GO,
    REPLY,
    REPLY_MAGIC,
    Command,
    Export,
    ExportFlag,
    Handshake,
    NbdError,
    Reply,
    ReplyParser,
    Request,
)
from ftvm.service.export import Export as ServedExport
from ftvm.service.nbd import VENDOR
from ftvm.service.session import ClientRequest, Session

HELLO = GREETING.pack(b"NBDMAGIC", b"IHAVEOPT", 3)


def answer(kind: int, body: bytes = b"") -> bytes:
    return ANSWER.pack(ANSWER_MAGIC, OPTION_GO, kind, len(body)) + body


OFFER = answer(ANSWER_INFO, INFO_EXPORT.pack(0, 4096, 5)) + answer(ANSWER_INFO, b"\0\3blocksizes") + answer(ANSWER_ACK)


def reply(cookie: int, error: int = 0, data: bytes = b"") -> bytes:
    return REPLY.pack(REPLY_MAGIC, error, cookie) + data


def test_handshake_fed_byte_by_byte_asks_once_and_finds_the_export() -> None:
    handshake, sent = Handshake(), b""
    for byte in HELLO + OFFER + b"rest":
        sent += handshake.feed(bytes([byte]))
    assert handshake.export == Export(4096, 5)
    assert handshake.rest == b"rest"
    assert sent == b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\7" + b"\0\0\0\6" + bytes(6)


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b"HTTP/1.1 400 Bad Request", "no newstyle NBD server"),
        (GREETING.pack(b"NBDMAGIC", b"IHAVEOPT", 0), "fixed newstyle"),
        (HELLO + answer(ANSWER_ERROR | 6, b"no such thing"), "has no such export no such thing"),
        (HELLO + answer(ANSWER_ERROR | 99), "answers with error 0x80000063"),
        (HELLO + answer(ANSWER_ACK), "without having told the export's size"),
        (HELLO + answer(ANSWER_INFO, b"\0\0short"), "NBD_INFO_EXPORT has 7 bytes"),
        (HELLO + ANSWER.pack(1, OPTION_GO, ANSWER_ACK, 0), "malformed"),
        (HELLO + ANSWER.pack(ANSWER_MAGIC, OPTION_GO, ANSWER_INFO, 1 << 31), "malformed"),
    ],
)
def test_handshake_tells_in_words_what_is_wrong(stream: bytes, said: str) -> None:
    with pytest.raises(NbdError, match=said):
        Handshake().feed(stream)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_handshake_answers_anything_with_silence_or_an_error(noise: bytes, greeted: bool) -> None:
    handshake = Handshake()
    try:
        handshake.feed(HELLO if greeted else b"")
        handshake.feed(noise)
    except NbdError:
        return
    assert handshake.export is None


def test_client_understands_the_pair_s_own_server() -> None:
    handshake, session = Handshake(), Session(ServedExport(1 << 20, vendor=True))
    for _ in range(4):
        assert session.next() is None
        session.receive(handshake.feed(session.outgoing()))
    assert handshake.export is not None and handshake.export.size == 1 << 20
    assert all(handshake.export.can(flag) for flag in ExportFlag if flag is not ExportFlag.READ_ONLY)
    session.receive(Request(VENDOR, offset=3).encode(8) + Request(Command.WRITE, 4096, data=bytes(512)).encode(9))
    for cookie, kind, offset in ((8, VENDOR, 3), (9, Command.WRITE, 4096)):
        request = session.next()
        assert isinstance(request, ClientRequest)
        assert (request.cookie, request.kind, request.offset) == (cookie, kind, offset)


def test_replies_are_cut_out_wherever_the_stream_is_split() -> None:
    lengths = {1: 5, 2: 0, 3: 4}
    stream = reply(2) + reply(1, data=b"hello") + reply(3, error=5)
    for split in range(len(stream) + 1):
        parser = ReplyParser(lengths.get)
        replies = parser.feed(stream[:split]) + parser.feed(stream[split:])
        assert replies == [Reply(2, 0, b""), Reply(1, 0, b"hello"), Reply(3, 5, b"")]


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (REPLY.pack(0x668E33EF, 0, 1), "begins with 0x668e33ef"),
        (reply(9), "request 9, which is not open"),
        (reply(2) + reply(2), "request 2, which is not open"),
    ],
)
def test_reply_that_answers_nothing_is_refused(stream: bytes, said: str) -> None:
    with pytest.raises(NbdError, match=said):
        ReplyParser({1: 0, 2: 0}.get).feed(stream)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_noise_is_never_taken_for_a_reply(chunks: list[bytes]) -> None:
    parser = ReplyParser({}.get)
    with contextlib.suppress(NbdError):
        assert not any(parser.feed(chunk) for chunk in chunks)


def test_request_carries_the_length_of_its_data() -> None:
    encoded = Request(Command.WRITE, offset=4096, data=b"abc", flags=1).encode(7)
    assert encoded.hex() == "25609513000100010000000000000007000000000000100000000003" + b"abc".hex()
    assert Request(Command.READ, 0, 512).encode(1)[-4:] == (512).to_bytes(4, "big")
