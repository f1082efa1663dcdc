# SPDX-License-Identifier: GPL-2.0-or-later
"""What a peer may send: frames with their messages, entries, block requests, checkpoints."""

from __future__ import annotations

import struct
from collections.abc import Callable

import lz4.block
import msgpack

from devices.event import Event
from ftvm.pair.transfer import StateSink, StateSource
from ftvm.scratch_disk import ScratchDisk
from ftvm.service.request import Request, decode_close, decode_request, encode_close, encode_request
from logging_channel import messages
from logging_channel.errors import ChannelError
from logging_channel.frame import HEADER_SIZE, Frame, FrameKind, checksum, decode, encode
from replay.entry import Entry, decode_entry, encode_entry
from replay.errors import LogError
from tests.fuzz.engine import Target
from tests.pair.toy_ram import FakeMachine

# -- frames and messages ------------------------------------------------------------------------------------------

HELLO = messages.Hello(1, b"\1" * 32, {"kernel": "ab" * 32}, "unicorn 2.1.4", "disk0", "a", 3, 1000, 1001, False)
BODIES: dict[FrameKind, Callable[[bytes], object]] = {
    FrameKind.HELLO: messages.Hello.decode,
    FrameKind.WELCOME: messages.Welcome.decode,
    FrameKind.REFUSE: messages.Refuse.decode,
    FrameKind.ENTRY: messages.split_entry_body,
    FrameKind.ACK: messages.Ack.decode,
    FrameKind.HEARTBEAT: messages.Heartbeat.decode,
    FrameKind.STATE_BEGIN: messages.StateBegin.decode,
    FrameKind.STATE_CHUNK: messages.StateChunk.decode,
    FrameKind.STATE_END: messages.StateEnd.decode,
    FrameKind.STATE_CREDIT: messages.StateCredit.decode,
    FrameKind.GOODBYE: messages.Goodbye.decode,
}


def frame_samples() -> list[bytes]:
    bodies = [
        (FrameKind.HELLO, HELLO.encode()),
        (FrameKind.WELCOME, messages.Welcome(77, 3, 1002, True).encode()),
        (FrameKind.REFUSE, messages.Refuse("no").encode()),
        (FrameKind.ENTRY, messages.entry_body(900, encode_entry(ENTRIES[1]))),
        (FrameKind.ACK, messages.Ack(10, 9, 1 << 63, 8).encode()),
        (FrameKind.HEARTBEAT, messages.Heartbeat(10, 1 << 40, 9, 8, True).encode()),
        (FrameKind.STATE_BEGIN, messages.StateBegin(1 << 20, msgpack.packb([1 << 20])).encode()),
        (FrameKind.STATE_CHUNK, messages.StateChunk(0, "section/ram", 0, b"x" * 40).encode()),
        (FrameKind.STATE_END, messages.StateEnd(1, 5).encode()),
        (FrameKind.STATE_CREDIT, messages.StateCredit(1 << 20).encode()),
        (FrameKind.GOODBYE, messages.Goodbye(messages.GoodbyeCode.LEAVING, "bye").encode()),
    ]
    return [encode(kind, 7, 3, 99, 1000 + n, body, n) for n, (kind, body) in enumerate(bodies)]


def mended(data: bytes) -> bytes:
    """The case with length and checksum made right, so that what is behind them is reached."""
    if len(data) < HEADER_SIZE:
        return data
    head = data[:8] + struct.pack("<I", len(data) - HEADER_SIZE) + data[12:40]
    return head + struct.pack("<I", checksum(head, data[HEADER_SIZE:])) + data[HEADER_SIZE:]


def check_frame(data: bytes) -> None:
    """A frame is its bytes, and a message says the same after a round trip."""
    for candidate in (data, mended(data)):
        try:
            frame: Frame = decode(candidate)
            assert encode(frame.kind, *frame[1:4], frame.sequence, frame.body, frame.flags) == candidate
            message = BODIES[frame.kind](frame.body)
        except ChannelError as error:
            assert str(error)
            continue
        if isinstance(message, tuple):
            assert messages.entry_body(*message) == frame.body
        else:
            assert BODIES[frame.kind](message.encode()) == message  # type: ignore[attr-defined]
            if isinstance(message, messages.Hello):
                HELLO.mismatch(message)


# -- entries and requests -----------------------------------------------------------------------------------------

ENTRIES = [
    Entry(1, 0, 0, 100, 65536),
    Entry(1 << 40, 1 << 50, 5, 10**9, 1, (Event(1, 0, b"typed"), Event(4, 0, b"\1\0\0\1"), Event(2, 1, bytes(60)))),
    Entry(9, 9, 9, 9, 9, (), 3),
]


def check_entry(data: bytes) -> None:
    """An entry says the same after a round trip."""
    try:
        entry = decode_entry(data)
    except LogError as error:
        assert str(error)
        return
    assert decode_entry(encode_entry(entry)) == entry
    assert len(encode_entry(entry)) <= len(data) + 9


def request_samples() -> list[bytes]:
    requests = [
        (1, 0, 0, 4096, 512, b""), (1, 1, 1, 0, 0, b"x" * 1024), (1 << 40, 3, 0, 0, 0, b""),
        (300, 4, 0, 1 << 40, 1 << 20, b""), (5, 6, 3, 512, 512, b""), (5, 0x4654, 0, 3, 7, b""),
    ]  # fmt: skip
    return [encode_request(*request) for request in requests] + [encode_close(1), encode_close(1 << 40)]


def check_request(data: bytes) -> None:
    """A request or the end of a connection says the same after a round trip."""
    try:
        request: Request = decode_request(data)
    except LogError as error:
        assert str(error)
    else:
        assert decode_request(encode_request(*request)) == request
        assert request.length <= max(len(data), 1 << 32)
    try:
        connection = decode_close(data)
    except LogError as error:
        assert str(error)
    else:
        assert decode_close(encode_close(connection)) == connection


# -- checkpoints --------------------------------------------------------------------------------------------------


def transfer_samples() -> list[bytes]:
    """Cases are [total, manifest, [[name, offset, data], ...], whether the end is right]."""
    disk = ScratchDisk(1 << 18)
    disk.write(70_000, b"content" * 100)
    machine = FakeMachine(32)
    machine.ram.write(3, b"page")
    machine.sections = [("hart", b"h" * 200), ("machine", b"r" * 3000)]
    source = StateSource([disk], machine)
    begin = source.next()
    assert isinstance(begin, messages.StateBegin)
    pieces = []
    source.grant(messages.StateCredit(1 << 30))
    while not source.finished:
        item = source.next()
        if isinstance(item, messages.StateChunk):
            pieces.append([item.name, item.offset, item.data])
        elif item is None and source.ready_for_snapshot():
            source.snapshot()
    return [bytes(msgpack.packb([begin.total, begin.manifest, pieces, True]))]


def check_transfer(data: bytes) -> None:
    """A checkpoint is taken, or refused in words; a chunk of a disk cannot be larger than the disk's chunks are."""
    try:
        total, manifest, pieces, right = msgpack.unpackb(data)
        begin = messages.StateBegin.decode(messages.StateBegin(total, manifest).encode())
        chunks = [messages.StateChunk.decode(messages.StateChunk(n, *piece).encode()) for n, piece in enumerate(pieces)]
    except (ChannelError, ValueError, TypeError, KeyError):
        return
    try:
        sink = StateSink(begin, [ScratchDisk(1 << 18)], FakeMachine(32))
        sink.first_credit()
        for chunk in chunks:
            sink.chunk(chunk)
        sink.end(messages.StateEnd(len(chunks), 0 if right else 1))
    except ChannelError as error:
        assert str(error)


def bomb() -> bytes:
    """A chunk that says that it expands to 2 GiB."""
    packed = struct.pack("<I", 0x7FFF_0000) + lz4.block.compress(b"x" * 100, store_size=False)
    return bytes(msgpack.packb([1 << 18, msgpack.packb([1 << 18]), [["disk/0", 0, packed]], True]))


TARGETS = [
    Target("frame", frame_samples, check_frame, packed_at=HEADER_SIZE),
    Target("entry", lambda: [encode_entry(entry) for entry in ENTRIES], check_entry, packed_at=0),
    Target("request", request_samples, check_request),
    Target("transfer", lambda: [*transfer_samples(), bomb()], check_transfer, packed_at=0),
]
