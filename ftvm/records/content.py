# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bytes of an event or an output mean, as one object for each kind; `str()` of it is a line for people.

    into the guest   ConsoleText, Packet, Entropy, BlockRequest, BlockClose, Control, Link
    out of it        ConsoleText, Packet, BlockReply, PortText, Notice
    neither          Unknown: bytes that no recorder of this version writes

A log may be damaged in ways that its checks do not see, or be made to harm: decoding never raises, and the line is
escaped (`ftvm.records.printable`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from devices.event import LINK_DOWN, LINK_MOVED, LINK_UP, EventKind, OutputKind
from devices.virtio.offload import GSO_NONE, HEAD, NEEDS_CSUM, PACKET_HEADER
from ftvm.records.frame import Frame, decode_frame
from ftvm.records.printable import MOST, printable
from ftvm.service.nbd import FLUSH, FUA, READ, TRIM, VENDOR, WRITE, WRITE_ZEROES, Errno
from ftvm.service.request import decode_close, decode_request
from replay.errors import LogError

COMMANDS: Final = {READ: "read", WRITE: "write", FLUSH: "flush", TRIM: "trim", WRITE_ZEROES: "write_zeroes",
                   VENDOR: "vendor"}  # fmt: skip
LINKS: Final = {LINK_DOWN: "down", LINK_UP: "up", LINK_MOVED: "moved"}


@dataclass(frozen=True, slots=True)
class ConsoleText:
    """Bytes typed at the console, or written to it; `offset` is that in the whole output since the guest's start."""

    data: bytes
    offset: int | None = None

    @property
    def text(self) -> str:
        """Decoded, not escaped."""
        return self.data.decode("utf-8", "replace")

    def __str__(self) -> str:
        return f'"{printable(self.data, MOST)}"'


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet at the edge of the machine: its frame, and what is left to be done to it (`devices.virtio.offload`)."""

    frame: Frame
    data: bytes  # the frame's bytes
    unit: int  # of the network device
    segment: int = 0  # payload of each piece, when the frame is one long TCP segment
    checksum_due: bool = False

    def __str__(self) -> str:
        long = f", in pieces of {self.segment}" if self.segment else ""
        return f"{self.frame} [{self.frame.length} bytes{long}]"


@dataclass(frozen=True, slots=True)
class Entropy:
    """Random bytes for the guest."""

    data: bytes

    def __str__(self) -> str:
        return f"{len(self.data)} random bytes"


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """A request of a client of the block service. `command`: read, write, flush, trim, write_zeroes or vendor.

    Offset and length in bytes; `data` only of a write. `connection` is named by the number of its first request.
    """

    connection: int
    command: str
    offset: int
    length: int
    force: bool  # FUA: to be on stable storage before the reply
    data: bytes = b""

    def __str__(self) -> str:
        words = f"{self.command} on connection {self.connection}"
        if self.command != "flush":
            words += f": {self.length} bytes at {self.offset:#x}"
        return words + (", FUA" if self.force else "")


@dataclass(frozen=True, slots=True)
class BlockClose:
    """A client's connection has ended."""

    connection: int

    def __str__(self) -> str:
        return f"connection {self.connection} ended"


@dataclass(frozen=True, slots=True)
class BlockReply:
    """The reply to the request with that number in the journal, which counts from 1; `error` as in NBD, 0: none."""

    connection: int
    number: int
    error: int
    data: bytes

    def __str__(self) -> str:
        failed = ""
        if self.error:
            failed = Errno(self.error).name if self.error in set(Errno) else f"error {self.error}"
        return f"reply to request {self.number}: {failed or 'done'}" + (f", {len(self.data)} bytes" * bool(self.data))


@dataclass(frozen=True, slots=True)
class Control:
    """A command of the operator: `stop` or `reset`."""

    command: str

    def __str__(self) -> str:
        return printable(self.command, MOST)


@dataclass(frozen=True, slots=True)
class Link:
    """A network device's link: `up`, `down`, or `moved` to another place of the network."""

    state: str
    unit: int

    def __str__(self) -> str:
        return f"link of network {self.unit}: {self.state}"


@dataclass(frozen=True, slots=True)
class PortText:
    """Bytes written to a virtio-console port."""

    data: bytes
    unit: int
    offset: int

    def __str__(self) -> str:
        return f'port {self.unit}: "{printable(self.data, MOST)}"'


@dataclass(frozen=True, slots=True)
class Notice:
    """What the machine tells its operator."""

    text: str

    def __str__(self) -> str:
        return printable(self.text, 4 * MOST)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Bytes that do not mean what their kind says."""

    data: bytes
    why: str

    def __str__(self) -> str:
        return f"{len(self.data)} bytes, {self.why}: {self.data[:16].hex()}{'...' * (len(self.data) > 16)}"


Content = (
    ConsoleText
    | Packet
    | Entropy
    | BlockRequest
    | BlockClose
    | BlockReply
    | Control
    | Link
    | PortText
    | Notice
    | Unknown
)


def event_content(kind: int, unit: int, data: bytes) -> Content:
    """The content of an event."""
    try:
        if kind == EventKind.BLOCK_REQUEST:
            return _request(data)
        if kind == EventKind.BLOCK_CLOSE:
            return BlockClose(decode_close(data))
    except (LogError, ValueError) as error:
        return Unknown(data, printable(str(error)))
    if kind == EventKind.CONSOLE_INPUT:
        return ConsoleText(data)
    if kind == EventKind.PACKET:
        return _packet(unit, data)
    if kind == EventKind.ENTROPY:
        return Entropy(data)
    if kind == EventKind.CONTROL:
        return Control(data.decode("utf-8", "backslashreplace"))
    if kind == EventKind.LINK and data in LINKS:
        return Link(LINKS[data], unit)
    return Unknown(data, "of unknown kind" if kind != EventKind.LINK else "no state of a link")


def output_content(kind: int, unit: int, data: bytes, offset: int) -> Content:
    """The content of an output."""
    if kind == OutputKind.CONSOLE:
        return ConsoleText(data, offset)
    if kind == OutputKind.PACKET:
        return _packet(unit, data)
    if kind == OutputKind.BLOCK_REPLY and len(data) >= 4:
        return BlockReply(unit, offset, int.from_bytes(data[:4]), data[4:])
    if kind == OutputKind.PORT:
        return PortText(data, unit, offset)
    if kind == OutputKind.NOTICE:
        return Notice(data.decode("utf-8", "backslashreplace"))
    return Unknown(data, "of unknown kind")


def _packet(unit: int, data: bytes) -> Packet | Unknown:
    if len(data) < HEAD:
        return Unknown(data, "too short for a packet")
    flags, gso, _, size, _, _ = PACKET_HEADER.unpack_from(data)
    frame = data[HEAD:]
    return Packet(decode_frame(frame), frame, unit, size if gso != GSO_NONE else 0, bool(flags & NEEDS_CSUM))


def _request(data: bytes) -> BlockRequest:
    request = decode_request(data)
    return BlockRequest(
        request.connection, COMMANDS[request.kind], request.offset, request.length, bool(request.flags & FUA),
        request.data,
    )  # fmt: skip
