# SPDX-License-Identifier: GPL-2.0-or-later
"""Any bytes from a client or from the driver: an answer or a clean end, never another exception, never a hang."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from nbd_bytes import CLIENT_FLAGS, GO, HELLO, INFO, LIST, info_data, option, split_option_replies

from ftvm.service.export import Export
from ftvm.service.journal import Journal
from ftvm.service.nbd import ERRORS, PART_MAX, READ, VENDOR, WRITE, ClientError, reply_head, request_frame
from ftvm.service.request import Request, decode_close, decode_request, encode_close, encode_request
from ftvm.service.session import DISCONNECT, ClientRequest, Session
from replay.errors import LogError

OPTIONS = st.builds(option, st.integers(0, 12), st.binary(max_size=40))
INFOS = st.builds(
    lambda number, name, wanted: option(number, info_data(name, tuple(wanted))),
    st.sampled_from([INFO, GO, LIST]),
    st.binary(max_size=8),
    st.lists(st.integers(0, 65535), max_size=4),
)
REQUESTS = st.builds(
    lambda kind, flags, cookie, offset, data: request_frame(kind, flags, cookie, offset, len(data), data),
    st.integers(0, 8),
    st.integers(0, 65535),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=40),
)
CLIENT = st.lists(
    st.one_of(st.binary(max_size=30), st.just(CLIENT_FLAGS), st.just(HELLO), OPTIONS, INFOS, REQUESTS), max_size=8
)


def consume(pieces: list[bytes]) -> tuple[list[object], bytes, bool]:
    """What a session makes of the pieces: items, bytes to send, and whether the client broke the protocol."""
    session = Session(Export(1 << 20, "d"))
    items: list[object] = []
    sent = session.outgoing()
    for piece in pieces:
        session.receive(piece)
        try:
            while (item := session.next()) is not None and item is not DISCONNECT:
                assert isinstance(item, ClientRequest)
                assert item.start <= item.offset and item.offset + item.length <= item.start + item.total
                items.append(item)
        except ClientError:
            return items, sent + session.outgoing(), True
        sent += session.outgoing()
    return items, sent, False


@settings(max_examples=150, deadline=None)
@given(CLIENT, st.integers(1, 50))
def test_any_client_gets_the_same_answers_in_any_pieces(pieces: list[bytes], step: int) -> None:
    """Cutting the stream elsewhere changes nothing, and what is sent is well-formed."""
    stream = b"".join(pieces)
    whole = consume([stream])
    assert consume([stream[at : at + step] for at in range(0, len(stream), step)]) == whole
    assert whole[1].startswith(b"NBDMAGICIHAVEOPT\0\3")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(OPTIONS, INFOS), max_size=8))
def test_every_option_is_answered(options: list[bytes]) -> None:
    """Until GO, EXPORT_NAME or ABORT, each option gets exactly one final reply."""
    session = Session(Export(1 << 20, "d"))
    session.outgoing()
    session.receive(CLIENT_FLAGS)
    for data in options:
        session.receive(data)
        number = struct.unpack_from(">I", data, 8)[0]
        try:
            session.next()
        except ClientError:
            assert number == 1
            return
        if number == 1:
            assert session.phase == "transmission"
            return
        replies = split_option_replies(session.outgoing())
        assert [kind == 1 or kind >> 31 for _, kind, _ in replies] == [False] * (len(replies) - 1) + [True]
        assert all(answered == number for answered, _, _ in replies)
        if session.phase != "handshake":
            return


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=40))
def test_any_event_decodes_or_is_a_damaged_log(data: bytes) -> None:
    """Requests and ends of connections."""
    for decode in (decode_request, decode_close):
        with contextlib.suppress(LogError):
            decode(data)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 2**32 - 1),
    st.sampled_from([0, 1, 3, 4, 6, VENDOR]),
    st.integers(0, 3),
    st.integers(0, 2**55 - 1),
    st.integers(0, 2048),
)
def test_requests_survive_the_log_in_few_bytes(
    connection: int, kind: int, flags: int, sector: int, sectors: int
) -> None:
    """Encoding and decoding agree; an event has at most 16 bytes beside the write data."""
    data = b"\xa5" * (sectors * 512 if kind == WRITE else 0)
    offset, length = (0, 0) if kind == 3 else (sector * 512, sectors * 512)
    event = encode_request(connection, kind, flags, offset, length, data)
    assert decode_request(event) == Request(connection, kind, flags, offset, length, data)
    assert kind == VENDOR or len(event) - len(data) <= 16
    assert decode_close(encode_close(connection)) == connection


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(reply_head, st.integers(0, 6), st.sampled_from([0, 0, 0, 5, 6, 28])),
            st.just(bytes(512)),
        ),
        max_size=8,
    )
)
def test_only_whole_replies_to_what_was_asked_leave_the_journal(says: list[bytes]) -> None:
    """Whatever the driver says: each request is answered at most once, with as much data as was asked for."""
    outputs, violations = [], []
    journal = Journal(lambda frame: None, outputs.append, violations.append, 1000)
    kinds = {1: READ, 2: WRITE, 3: 3, 4: 6}
    for number, kind in kinds.items():
        journal.request(encode_request(1, kind, 0, 0, 512, bytes(512) if kind == WRITE else b""), number)
    for data in says:
        journal.port_output(data, 10)
    numbers = [output.offset for output in outputs]
    assert len(set(numbers)) == len(numbers) and set(numbers) <= set(kinds)
    assert len(violations) <= 1 and journal.outstanding == 4 - len(outputs)
    for output in outputs:
        error = int.from_bytes(output.data[:4], "big")
        assert error in ERRORS
        assert len(output.data) == 4 + (512 if kinds[output.offset] == READ and not error else 0)
    assert PART_MAX >= 512
