# SPDX-License-Identifier: GPL-2.0-or-later
"""The server side of NBD without I/O: what it answers, whatever the pieces in which it is asked."""

from __future__ import annotations

import struct

import pytest
from nbd_bytes import (
    ABORT,
    CLIENT_FLAGS,
    EXPORT_NAME,
    GO,
    INFO,
    LIST,
    STARTTLS,
    STRUCTURED_REPLY,
    info_data,
    option,
    split_option_replies,
)

from ftvm.service.export import FLAGS, Export
from ftvm.service.nbd import DISC, FLUSH, LENGTH_MAX, PART_MAX, READ, TRIM, WRITE, ClientError, Errno, request_frame
from ftvm.service.session import DISCONNECT, ClientRequest, Disconnect, Session

SIZE = 8 << 20
GREETING = b"NBDMAGICIHAVEOPT\x00\x03"
ACK, SERVER, INFO_REPLY = 1, 2, 3
UNSUP, INVALID, UNKNOWN, TOO_BIG = ((1 << 31) + error for error in (1, 3, 6, 9))


def started(export: Export | None = None) -> Session:
    """A session whose greeting has been sent."""
    session = Session(export or Export(SIZE, "disk", "a disk"))
    assert session.outgoing() == GREETING
    return session


def feed(session: Session, data: bytes, step: int) -> list[ClientRequest | Disconnect]:
    """Everything the session says when `data` comes in pieces of `step` bytes."""
    items = []
    for start in range(0, len(data), step):
        session.receive(data[start : start + step])
        while (item := session.next()) is not None:
            items.append(item)
            if item is DISCONNECT:
                return items
    return items


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
def test_go_opens_the_default_export(step: int) -> None:
    """GO with an empty name tells size, flags and block sizes, and requests may follow at once."""
    session = started()
    request = request_frame(READ, 0, 7, 4096, 512)
    assert feed(session, CLIENT_FLAGS + option(GO, info_data()) + request, step) == [
        ClientRequest(7, READ, 0, 4096, 512, b"", 4096, 512)
    ]
    assert split_option_replies(session.outgoing()) == [
        (GO, INFO_REPLY, struct.pack(">HQH", 0, SIZE, FLAGS)),
        (GO, INFO_REPLY, struct.pack(">HIII", 3, 512, 4096, PART_MAX)),
        (GO, ACK, b""),
    ]
    assert session.phase == "transmission"


@pytest.mark.parametrize("step", [1, 10_000])
def test_info_tells_the_same_and_goes_on_with_options(step: int) -> None:
    """INFO answers name and description when asked, and leaves the connection in the handshake."""
    session = started()
    assert feed(session, CLIENT_FLAGS + option(INFO, info_data(b"disk", (1, 2))), step) == []
    replies = split_option_replies(session.outgoing())
    assert (INFO, INFO_REPLY, b"\0\1disk") in replies and (INFO, INFO_REPLY, b"\0\2a disk") in replies
    assert replies[-1] == (INFO, ACK, b"") and session.phase == "handshake"


@pytest.mark.parametrize("name", [b"", b"disk"])
@pytest.mark.parametrize("zeroes", [True, False])
def test_export_name_opens_an_export_the_old_way(name: bytes, zeroes: bool) -> None:
    """EXPORT_NAME is answered by size and flags, and by 124 zeroes unless the client waived them."""
    session = started()
    feed(session, struct.pack(">I", 1 if zeroes else 3) + option(EXPORT_NAME, name), 1)
    assert session.outgoing() == struct.pack(">QH", SIZE, FLAGS) + (bytes(124) if zeroes else b"")
    assert session.phase == "transmission"


def test_unknown_names_are_refused() -> None:
    """GO answers an error and goes on; EXPORT_NAME has no error, so the connection ends."""
    session = started()
    feed(session, CLIENT_FLAGS + option(GO, info_data(b"other")), 100)
    assert split_option_replies(session.outgoing()) == [(GO, UNKNOWN, b"")]
    with pytest.raises(ClientError, match="other"):
        feed(session, option(EXPORT_NAME, b"other"), 100)


def test_list_names_the_export() -> None:
    """LIST answers one export; with data it is invalid."""
    session = started()
    feed(session, CLIENT_FLAGS + option(LIST) + option(LIST, b"x"), 3)
    assert split_option_replies(session.outgoing()) == [
        (LIST, SERVER, b"\0\0\0\4disk"),
        (LIST, ACK, b""),
        (LIST, INVALID, b""),
    ]


@pytest.mark.parametrize("number", [STARTTLS, STRUCTURED_REPLY, 4, 9, 10, 11, 0, 0xFFFFFFFF])
def test_options_not_offered_are_unsupported(number: int) -> None:
    """TLS, structured replies, meta contexts and numbers of the future get ERR_UNSUP, and the handshake goes on."""
    session = started()
    feed(session, CLIENT_FLAGS + option(number, b"abc") + option(GO, info_data()), 1)
    assert split_option_replies(session.outgoing())[0] == (number, UNSUP, b"")
    assert session.phase == "transmission"


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 5, struct.pack(">IH", 1, 0), struct.pack(">IH", 0, 1), info_data() + b"x", b"\xff" * 6],
)
def test_malformed_go_is_invalid(data: bytes) -> None:
    """Lengths inside GO that do not fit the option are answered by ERR_INVALID."""
    session = started()
    feed(session, CLIENT_FLAGS + option(GO, data), 100)
    assert split_option_replies(session.outgoing()) == [(GO, INVALID, b"")]


@pytest.mark.parametrize("step", [1000, 1_000_000])
def test_an_oversized_option_is_skipped_without_being_kept(step: int) -> None:
    """An option of 1 MB gets ERR_TOO_BIG; its data is thrown away as it comes."""
    session = started()
    assert feed(session, CLIENT_FLAGS + option(LIST, bytes(1_000_000)), step) == []
    assert session.buffered == 0
    feed(session, option(GO, info_data()), step)
    assert split_option_replies(session.outgoing())[0][:2] == (LIST, TOO_BIG)
    assert session.phase == "transmission"


def test_abort_is_acknowledged_and_ends() -> None:
    """ABORT is answered, then nothing more is read."""
    session = started()
    assert feed(session, CLIENT_FLAGS + option(ABORT) + b"garbage", 1) == [DISCONNECT]
    assert split_option_replies(session.outgoing()) == [(ABORT, ACK, b"")]
    session.receive(b"more")
    assert session.next() is DISCONNECT


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 4),
        CLIENT_FLAGS + b"IHAVEOPX" + bytes(8),
        struct.pack(">I", 0) + option(LIST),
        CLIENT_FLAGS + option(EXPORT_NAME, bytes(10_000)),
    ],
)
def test_nonsense_in_the_handshake_ends_the_connection(data: bytes) -> None:
    """Unknown flags, wrong magic, options from a client that is not fixed, endless names."""
    with pytest.raises(ClientError):
        feed(started(), data, 1000)


# -- transmission -----------------------------------------------------------------------------------------------------


def transmitting() -> Session:
    """A session in the transmission phase."""
    session = started()
    feed(session, CLIENT_FLAGS + option(GO, info_data()), 100)
    session.outgoing()
    return session


@pytest.mark.parametrize("step", [1, 27, 28, 29, 5000])
def test_requests_come_out_whole(step: int) -> None:
    """Reads, writes with payload, flushes and unknown types, in order, in any pieces."""
    payload = bytes(range(256)) * 4
    frames = [
        request_frame(WRITE, 1, 1, 512, len(payload), payload),
        request_frame(READ, 0, 2, 0, 4096),
        request_frame(FLUSH, 0, 3, 0, 0),
        request_frame(99, 16, 4, 1 << 63, 0xFFFFFFFF),
        request_frame(WRITE, 0, 5, 0, 0),
        request_frame(DISC, 0, 6, 0, 0),
    ]
    assert feed(transmitting(), b"".join(frames) + b"trailing", step) == [
        ClientRequest(1, WRITE, 1, 512, 1024, payload, 512, 1024),
        ClientRequest(2, READ, 0, 0, 4096, b"", 0, 4096),
        ClientRequest(3, FLUSH, 0, 0, 0, b"", 0, 0),
        ClientRequest(4, 99, 16, 1 << 63, 0xFFFFFFFF, b"", 1 << 63, 0xFFFFFFFF),
        ClientRequest(5, WRITE, 0, 0, 0, b"", 0, 0),
        DISCONNECT,
    ]


def test_a_long_write_comes_out_in_parts_and_is_never_kept_whole() -> None:
    """A write of 2.5 MiB gives parts of 1, 1 and 0.5 MiB; no more than a part is buffered."""
    session = transmitting()
    payload = bytes(range(256)) * 10240
    data = request_frame(WRITE, 0, 9, 4096, len(payload), payload)
    parts, most = [], 0
    for start in range(0, len(data), 100_000):
        session.receive(data[start : start + 100_000])
        while (item := session.next()) is not None:
            parts.append(item)
        most = max(most, session.buffered)
    assert all(isinstance(part, ClientRequest) and part.start == 4096 and part.total == len(payload) for part in parts)
    assert [part.offset for part in parts] == [4096, 4096 + PART_MAX, 4096 + 2 * PART_MAX]
    assert b"".join(part.data for part in parts) == payload
    assert most <= PART_MAX + 100_000


def test_a_write_beyond_the_limit_is_an_error_and_the_end() -> None:
    """Its payload is not waited for: one request to be refused, then the end."""
    session = transmitting()
    session.receive(request_frame(WRITE, 0, 1, 0, LENGTH_MAX + 1))
    item = session.next()
    assert isinstance(item, ClientRequest) and item.total == LENGTH_MAX + 1
    assert Export(1 << 30).check(item.kind, item.flags, item.start, item.total) == Errno.EINVAL
    assert session.next() is DISCONNECT


def test_a_wrong_request_magic_ends_the_connection() -> None:
    """The stream cannot be followed any more."""
    session = transmitting()
    session.receive(b"\0" * 28)
    with pytest.raises(ClientError, match="magic"):
        session.next()


def test_parsing_takes_time_in_proportion_to_the_input() -> None:
    """A megabyte of small requests in one piece costs no more buffer moves than in many: all come out."""
    session = transmitting()
    session.receive(request_frame(READ, 0, 1, 0, 512) * 40_000)
    count = 0
    while session.next() is not None:
        count += 1
    assert count == 40_000 and session.buffered == 0


@pytest.mark.parametrize(
    ("kind", "flags", "offset", "length", "error"),
    [
        (READ, 0, 0, SIZE, Errno.OK),
        (READ, 0, SIZE - 512, 1024, Errno.EINVAL),
        (WRITE, 0, SIZE - 512, 1024, Errno.ENOSPC),
        (TRIM, 0, SIZE, 512, Errno.EINVAL),
        (6, 0, SIZE, 512, Errno.ENOSPC),
        (6, 3, 0, 512, Errno.OK),
        (WRITE, 2, 0, 512, Errno.EINVAL),
        (READ, 4, 0, 512, Errno.EINVAL),
        (READ, 0x8000, 0, 512, Errno.EINVAL),
        (READ, 0, 1, 512, Errno.EINVAL),
        (WRITE, 0, 0, 100, Errno.EINVAL),
        (READ, 0, (1 << 64) - 512, 512, Errno.EINVAL),
        (FLUSH, 1, 12345, 678, Errno.OK),
        (5, 0, 0, 512, Errno.EINVAL),
        (7, 0, 0, 512, Errno.EINVAL),
        (0x4654, 0, 1, 2, Errno.EINVAL),
    ],
)
def test_requests_are_checked_before_the_driver_sees_them(
    kind: int, flags: int, offset: int, length: int, error: Errno
) -> None:
    """Range, alignment, flags and type."""
    assert Export(SIZE).check(kind, flags, offset, length) == error


def test_the_vendor_command_passes_only_where_it_is_allowed() -> None:
    """With vendor=True its numbers are the driver's business."""
    assert Export(SIZE, vendor=True).check(0x4654, 0, 1, 0xFFFFFFFF) == Errno.OK
    assert Export(SIZE, vendor=True).check(0x4655, 0, 0, 0) == Errno.EINVAL
