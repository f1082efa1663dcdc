# SPDX-License-Identifier: GPL-2.0-or-later
"""Both ends of the block service: bytes from an NBD client, and bytes from the driver."""

from __future__ import annotations

import struct
from zlib import crc32

from devices.event import Output
from ftvm.service.export import Export
from ftvm.service.journal import Journal
from ftvm.service.nbd import ERRORS, PART_MAX, READ, VENDOR, WRITE, ClientError, reply_head, request_frame
from ftvm.service.request import encode_close, encode_request
from ftvm.service.session import DISCONNECT, ClientRequest, Session
from replay.errors import LogError
from tests.fuzz.engine import Target

# -- clients ------------------------------------------------------------------------------------------------------


def option(number: int, data: bytes = b"") -> bytes:
    return struct.pack(">8sII", b"IHAVEOPT", number, len(data)) + data


def info(name: bytes = b"", wanted: tuple[int, ...] = ()) -> bytes:
    return struct.pack(f">I{len(name)}sH{len(wanted)}H", len(name), name, len(wanted), *wanted)


def client_samples() -> list[bytes]:
    flags = struct.pack(">I", 3)
    requests = b"".join(
        request_frame(kind, n & 1, n, 4096 * n, 512, bytes(512) if kind == WRITE else b"")
        for n, kind in enumerate((READ, WRITE, 3, 4, 6, WRITE, READ, VENDOR))
    )
    return [
        flags + option(7, info()) + requests + request_frame(2, 0, 99, 0, 0),
        flags + option(3) + option(6, info(b"disk", (0, 1, 2, 3))) + option(8) + option(5) + option(7, info(b"disk")),
        struct.pack(">I", 1) + option(1, b"disk") + requests,
        flags + option(9, bytes(9000)) + option(2),
        struct.pack(">I", 0) + option(1) + request_frame(WRITE, 0, 1, 0, 2 * PART_MAX, bytes(4000)),
    ]


def consume(stream: bytes, sizes: list[int]) -> tuple[list[object], bytes, str]:
    """What a session makes of the stream cut into pieces: requests, answers, and how it ended."""
    session = Session(Export(1 << 20, "disk", vendor=True))
    items: list[object] = []
    sent, at = session.outgoing(), 0
    while at < len(stream):
        size = sizes[at % len(sizes)]
        session.receive(stream[at : at + size])
        at += size
        assert session.buffered <= len(stream)
        try:
            while (item := session.next()) is not None:
                if item is DISCONNECT:
                    return items, sent + session.outgoing(), "bye"
                assert isinstance(item, ClientRequest)
                assert item.start <= item.offset and item.offset + item.length <= item.start + item.total
                assert len(item.data) <= PART_MAX
                items.append(item)
        except ClientError as error:
            return items, sent + session.outgoing(), str(error)
        sent += session.outgoing()
    return items, sent, ""


def check_client(data: bytes) -> None:
    """However the stream is cut, the session makes the same of it, and answers options in well-formed replies."""
    check = crc32(data)
    whole = consume(data, [len(data) or 1])
    assert consume(data, [1 + (check >> shift) % 60 for shift in range(0, 24, 3)]) == whole
    sent = whole[1]
    assert sent.startswith(b"NBDMAGICIHAVEOPT\0\3")
    assert len(sent) <= 200 * (len(data) + 10), "a client must not get back much more than it sends"


# -- the driver ---------------------------------------------------------------------------------------------------

SAY, ASK, CLOSE, DIE = range(4)


def step(kind: int, data: bytes = b"") -> bytes:
    """One step of a case: what happens, and its bytes."""
    return struct.pack("<BH", kind, len(data)) + data


def driver_samples() -> list[bytes]:
    asks = [step(ASK, encode_request(1, kind, 0, 0, 512, bytes(512) if kind == WRITE else b"")) for kind in (0, 1, 3)]
    asks.append(step(ASK, encode_request(4, VENDOR, 0, 1, 2, b"")))
    talk = step(SAY, reply_head(1, 0) + bytes(512)) + step(SAY, reply_head(3, 5) + reply_head(2, 0))
    return [
        b"".join(asks) + talk + step(SAY, reply_head(4, 95)),
        b"".join(asks) + step(SAY, reply_head(1, 0)[:9]) + step(DIE) + talk + step(CLOSE, encode_close(1)) + talk,
        b"".join(asks[:2]) + step(DIE) + step(DIE) + talk + step(CLOSE, encode_close(4)) + step(DIE),
    ]


def check_driver(data: bytes) -> None:
    """Each request is answered at most once, with as much data as was asked for; nothing but a violation comes of the
    rest, and a restored journal is the same."""
    outputs: list[Output] = []
    violations: list[str] = []
    asked: list[tuple[int, int]] = []
    submitted: list[bytes] = []
    journal = Journal(submitted.append, outputs.append, violations.append, 1000)
    at = time = 0
    while at + 3 <= len(data):
        kind, size = struct.unpack_from("<BH", data, at)
        piece = data[at + 3 : at + 3 + size]
        at, time = at + 3 + size, time + 1
        before = journal.next_number
        try:
            if kind % 4 == SAY:
                journal.port_output(piece, time)
            elif kind % 4 == ASK:
                journal.request(piece, time)
            elif kind % 4 == CLOSE:
                journal.close(piece, time)
            else:
                journal.died()
                journal.restarted(time)
        except LogError as error:
            assert str(error) and journal.next_number == before
            return
        if journal.next_number > before:
            asked.append((before, _length(piece)))
    numbers = [output.offset for output in outputs]
    lengths = dict(asked)
    assert len(set(numbers)) == len(numbers) and set(numbers) <= lengths.keys()
    for output in outputs:
        assert int.from_bytes(output.data[:4], "big") in ERRORS
        assert len(output.data) - 4 in (0, lengths[output.offset])
    twin = Journal(submitted.append, outputs.append, violations.append, 1000)
    twin.restore(journal.save())
    assert twin.save() == journal.save() and twin.deadline() == journal.deadline()


def _length(event: bytes) -> int:
    from ftvm.service.request import decode_request

    return decode_request(event).length


TARGETS = [
    Target("nbd-client", client_samples, check_client),
    Target("driver", driver_samples, check_driver),
]
