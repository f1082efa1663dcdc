# SPDX-License-Identifier: GPL-2.0-or-later
"""The typed bodies of frames: what the two sides say to each other.

    body          form      fields
    Hello         msgpack   protocol, configuration, images, engine, pair name, member, term, executed, received, ...
    Welcome       msgpack   session, term, next sequence, whether the state is sent first
    Refuse        msgpack   reason in words, whether it is of no use to ask again
    entry         struct    released u64, then the opaque entry           (`entry_body`, `split_entry_body`)
    Ack           struct    received u64, executed u64, digest u64, durable u64, flags u32
    Heartbeat     struct    sequence u64, clock u64, recorded u64, released u64, flags u32
    StateBegin    msgpack   total bytes (for a progress display), manifest (opaque, the caller's)
    StateChunk    msgpack   index, name, offset, data (opaque, the caller may compress it)
    StateEnd      msgpack   chunks, digest over all of them
    StateCredit   msgpack   bytes
    Goodbye       msgpack   code, text

Every message has `encode() -> bytes` and `decode(body) -> message`. Msgpack bodies are arrays in the order of their
dataclass's fields; each field's type and range come from its annotation and the table `_CHECKS`, so hostile bytes end
in a ChannelError that names the field. Nothing is ever unpickled, no extension type is accepted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Self

import msgpack

from logging_channel.errors import ChannelError

PROTOCOL = 2
TEXT_MAX = 4096
U32_MAX = (1 << 32) - 1
U64_MAX = (1 << 64) - 1


def _text(value: Any) -> bool:
    return type(value) is str and len(value) <= TEXT_MAX


def _u64(value: Any) -> bool:
    return type(value) is int and 0 <= value <= U64_MAX


def _names(value: Any) -> bool:
    return type(value) is dict and len(value) <= 256 and all(_text(k) and _text(v) for k, v in value.items())


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (_u64, "a number of 64 bits"),
    "bool": (lambda value: type(value) is bool, "true or false"),
    "str": (_text, f"a text of at most {TEXT_MAX} characters"),
    "bytes": (lambda value: type(value) is bytes, "bytes"),
    "dict[str, str]": (_names, "a map from text to text"),
}


class _Packed:
    """A dataclass that travels as a msgpack array of its fields."""

    __slots__ = ()

    def encode(self) -> bytes:
        """Return the body's bytes."""
        values = [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]
        return bytes(msgpack.packb(values))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return the message in `body`, or raise ChannelError naming the field that is wrong."""
        what = cls.__name__
        try:
            values = msgpack.unpackb(body, strict_map_key=True, ext_hook=_no_extension)
        except Exception as error:  # msgpack raises many kinds on hostile bytes; all mean the same
            raise ChannelError(f"a {what} of {len(body)} bytes is not valid msgpack: {error}") from None
        expected = fields(cls)  # type: ignore[arg-type]
        if type(values) is not list or len(values) != len(expected):
            raise ChannelError(f"a {what} must be an array of {len(expected)} fields: is the peer of another release?")
        for field, value in zip(expected, values, strict=True):
            check, wanted = _CHECKS[str(field.type)]
            if not check(value):
                raise ChannelError(f"field {field.name!r} of a {what} must be {wanted}, not {str(value)[:80]!r}")
        return cls(*values)


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} with {len(data)} bytes")


@dataclass(frozen=True, slots=True)
class Hello(_Packed):
    """What a joiner says first, on every connection. Its frame's session is one the joiner has never used before."""

    protocol: int
    configuration: bytes  # digest of the machine configuration
    images: dict[str, str]  # name of a guest image -> its digest in hexadecimal
    engine: str  # exact identity of the CPU engine
    pair_name: str
    member: str  # "a", "b", ...
    term: int  # of the reign in which the joiner was last in sync, 0 if never
    executed: int  # last sequence executed
    received: int  # last sequence held; entries are wanted from the next one
    wants_state: bool  # the joiner has nothing to continue from

    def mismatch(self, peer: Hello) -> str | None:
        """Say why `peer` (as seen by this side) cannot work with us, None when it can."""
        for ours, theirs, what in (
            (self.protocol, peer.protocol, "speaks protocol {1}, this side speaks {0}: run the same release"),
            (self.pair_name, peer.pair_name, "belongs to pair {1!r}, this side to {0!r}: check the address"),
            (self.engine, peer.engine, "runs engine {1!r}, this side {0!r}: install the same version on both"),
            (self.configuration.hex(), peer.configuration.hex(), "has machine configuration {1}, this side {0}: "
             "use the same machine file on both"),
        ):  # fmt: skip
            if ours != theirs:
                return f"member {peer.member!r} " + what.format(ours, theirs)
        for name in sorted(self.images.keys() | peer.images.keys()):
            ours_, theirs_ = self.images.get(name, "missing"), peer.images.get(name, "missing")
            if ours_ != theirs_:
                return f"member {peer.member!r} has image {name!r} as {theirs_}, this side as {ours_}: copy it over"
        if self.member == peer.member:
            return f"member {peer.member!r} has the name of this side: each side of a pair needs its own"
        return None


@dataclass(frozen=True, slots=True)
class Welcome(_Packed):
    """The primary's yes: the session confirmed, the term, the next sequence, and whether the state comes first."""

    session: int
    term: int
    next_sequence: int
    sends_state: bool


@dataclass(frozen=True, slots=True)
class Refuse(_Packed):
    """The primary's no, in words for the joiner's operator; `final` when it will be the same for ever."""

    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class StateBegin(_Packed):
    """A checkpoint follows; its frame's sequence is the last entry that the state includes."""

    total: int
    manifest: bytes


@dataclass(frozen=True, slots=True)
class StateChunk(_Packed):
    """A piece of the checkpoint: `data` belongs at `offset` of the part called `name`."""

    index: int
    name: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StateEnd(_Packed):
    """The checkpoint is complete: so many chunks, with this digest over all of them."""

    chunks: int
    digest: int


@dataclass(frozen=True, slots=True)
class StateCredit(_Packed):
    """The joiner can take so many more bytes of chunks."""

    bytes_more: int


class GoodbyeCode(IntEnum):
    """Why a side leaves on purpose."""

    POWER_OFF = 1  # the guest has powered off, executed by both
    STOPPED = 2  # the operator stopped the pair
    SWITCHOVER = 3  # the peer shall go live now
    LEAVING = 4  # this side leaves the pair (own disk failed, divergence, new hello wanted)
    GAP = 5  # an entry is missing: come back with a new hello
    OTHER = 6
    DIVERGED = 7  # the digests differ: the peer is to keep its state for post-mortem, and stop


@dataclass(frozen=True, slots=True)
class Goodbye(_Packed):
    """A planned end, so that it never looks like a failure."""

    code: int
    text: str


_ENTRY = struct.Struct("<Q")
_ACK = struct.Struct("<QQQQI")
_HEARTBEAT = struct.Struct("<QQQQI")


class AckFlag(IntEnum):
    """Bits of Ack.flags."""

    RESEND = 1  # an entry is missing: send again everything behind `received`


@dataclass(frozen=True, slots=True)
class Ack:
    """How far the backup is; all three sequences only ever grow within a session."""

    received: int  # holds every entry up to here
    executed: int  # has executed up to here
    digest: int  # its digest after `executed`
    durable: int  # its disk is synced up to here
    flags: int = 0

    def encode(self) -> bytes:
        """Return the body's bytes."""
        return _ACK.pack(self.received, self.executed, self.digest, self.durable, self.flags)

    @classmethod
    def decode(cls, body: bytes) -> Ack:
        """Return the ack in `body`, or raise ChannelError."""
        if len(body) != _ACK.size:
            raise ChannelError(f"an Ack has {_ACK.size} bytes, not {len(body)}")
        ack = cls(*_ACK.unpack(body))
        if ack.executed > ack.received or ack.durable > ack.executed:
            raise ChannelError(f"an Ack contradicts itself: durable {ack.durable} <= executed {ack.executed} <= "
                               f"received {ack.received} must hold")  # fmt: skip
        return ack


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life that carries progress: none of it with work pending is suspicion too."""

    sequence: int  # last entry executed
    clock: int  # guest clock reached
    recorded: int  # last entry in the log file
    released: int  # last entry all of whose outputs have left
    work_pending: bool

    def encode(self) -> bytes:
        """Return the body's bytes."""
        return _HEARTBEAT.pack(self.sequence, self.clock, self.recorded, self.released, self.work_pending)

    @classmethod
    def decode(cls, body: bytes) -> Heartbeat:
        """Return the heartbeat in `body`, or raise ChannelError."""
        if len(body) != _HEARTBEAT.size:
            raise ChannelError(f"a Heartbeat has {_HEARTBEAT.size} bytes, not {len(body)}")
        sequence, clock, recorded, released, flags = _HEARTBEAT.unpack(body)
        if flags > 1:
            raise ChannelError(f"a Heartbeat has unknown flags {flags:#x}: is the peer of another release?")
        return cls(sequence, clock, recorded, released, flags == 1)


def entry_body(released: int, entry: bytes) -> bytes:
    """Return the body of an ENTRY frame. `released`: last sequence all of whose outputs have left."""
    return _ENTRY.pack(released) + entry


def split_entry_body(body: bytes) -> tuple[int, bytes]:
    """Return (released, entry) of an ENTRY frame's body, or raise ChannelError."""
    if len(body) < _ENTRY.size:
        raise ChannelError(f"an entry's body has {len(body)} bytes, fewer than its {_ENTRY.size} of `released`")
    return _ENTRY.unpack_from(body)[0], body[_ENTRY.size :]
