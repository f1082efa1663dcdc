# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets as a capture file that tcpdump and Wireshark read: pcapng, an interface for each network device of the guest.

    section header | interface description, one for each device | packet, packet, ... each block     u32 type | u32
    length of all | body | options | u32 the length again        (little endian, padded to 4)

Time stamps are guest time in ticks of 100 ns, from the guest's start at 0: a resolution of 10^-7 s says so in each
interface. A packet's flags say whether it came in or went out, its comment where in the recording that was. Checksums
that the sender left to the card are filled in, as the wire would have shown them; a long TCP segment stays one.

IETF draft-ietf-opsawg-pcapng; sections 4.1 to 4.3.
"""

from __future__ import annotations

from struct import Struct
from typing import BinaryIO, Final

from devices.virtio.offload import HEAD, PacketError, without
from ftvm.records.happening import Happening, Moved

SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
BYTE_ORDER: Final = 0x1A2B3C4D
ETHERNET: Final = 1  # LINKTYPE_ETHERNET
RESOLUTION: Final = 7  # 10^-7 s: a tick
OPT_COMMENT, OPT_APPLICATION, OPT_NAME, OPT_RESOLUTION, OPT_FLAGS = 1, 4, 2, 9, 2
INBOUND, OUTBOUND = 1, 2
UNITS_MAX: Final = 256  # a machine has fewer devices

_U32: Final = Struct("<I")
_BLOCK: Final = Struct("<II")
_OPTION: Final = Struct("<HH")
_SECTION: Final = Struct("<IHHq")
_INTERFACE: Final = Struct("<HHI")
_PACKET: Final = Struct("<IIIII")


class CaptureWriter:
    """Writes packets in the order they are given; `packets` says how many those were."""

    def __init__(self, file: BinaryIO, application: str) -> None:
        self._file = file
        self._interfaces: dict[int, int] = {}  # unit -> number in the file
        self.packets = 0
        self._write(SECTION, _SECTION.pack(BYTE_ORDER, 1, 0, -1), [(OPT_APPLICATION, application.encode())])
        self._interface(0)  # readers refuse a file without any

    def add(self, happening: Happening) -> bool:
        """Write it, if it is a packet; whether it was one."""
        if not isinstance(happening, Moved) or not happening.is_packet:
            return False
        direction = INBOUND if happening.direction == "in" else OUTBOUND
        frame = on_the_wire(happening.data)
        if happening.unit >= UNITS_MAX or not frame:
            return False
        head = _PACKET.pack(
            self._interface(happening.unit), happening.time >> 32, happening.time & 0xFFFF_FFFF, len(frame), len(frame)
        )
        options = [(OPT_COMMENT, f"position {happening.position}".encode()), (OPT_FLAGS, _U32.pack(direction))]
        self._write(PACKET, head + _padded(frame), options)
        self.packets += 1
        return True

    def _interface(self, unit: int) -> int:
        """The number of a device's interface; described before its first packet."""
        if unit not in self._interfaces:
            self._interfaces[unit] = len(self._interfaces)
            options = [(OPT_NAME, f"network{unit}".encode()), (OPT_RESOLUTION, bytes([RESOLUTION]))]
            self._write(INTERFACE, _INTERFACE.pack(ETHERNET, 0, 0), options)
        return self._interfaces[unit]

    def _write(self, kind: int, body: bytes, options: list[tuple[int, bytes]]) -> None:
        content = body + b"".join(_OPTION.pack(code, len(value)) + _padded(value) for code, value in options) + bytes(4)
        length = _BLOCK.size + len(content) + _U32.size
        self._file.write(_BLOCK.pack(kind, length) + content + _U32.pack(length))


def on_the_wire(packet: bytes) -> bytes:
    """A packet's frame with its checksums filled in; one whose header does not fit it, as it is."""
    try:
        return without(packet, segmentation=False)[0][HEAD:]
    except PacketError:
        return packet[HEAD:]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
