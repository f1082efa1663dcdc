# SPDX-License-Identifier: GPL-2.0-or-later
"""Telling the network where the guest is now: frames in its name that move its MAC address to another port of a switch.

With IPv4 addresses of the guest's known, gratuitous ARP requests (RFC 5227, section 3) for each, as the guest would
send them after a move; without, the RARP request that QEMU's announce-self broadcasts: any broadcast from the guest's
address does for the switches. The addresses are those that the guest has claimed in ARP of its own, nothing else: the
IP packets of a guest that routes carry addresses of others.

Both sides of a pair look at what their guest sends, so the one that goes live knows them without being told.
"""

from __future__ import annotations

from typing import Final

from devices.virtio.offload import HEAD

REPEAT_S: Final = (0.0, 0.05, 0.15, 0.35, 0.75)  # after attaching: a bridge may take a moment to open the port
ADDRESSES_MAX: Final = 16

_BROADCAST: Final = b"\xff" * 6
_ARP, _RARP = b"\x08\x06", b"\x80\x35"
_ETHERNET_IPV4: Final = b"\0\x01\x08\0\x06\x04"
_FRAME_MIN: Final = 60  # on a wire, without its checksum
_KIND, _SENDER, _SENDER_IP, _END = HEAD + 12, HEAD + 22, HEAD + 28, HEAD + 42


class Addresses:
    """IPv4 addresses that a guest has claimed."""

    def __init__(self, mac: bytes) -> None:
        self._mac = mac
        self.known: list[bytes] = []

    def observe(self, packet: bytes) -> None:
        """The guest has sent this."""
        if packet[_KIND : _KIND + 8] != _ARP + _ETHERNET_IPV4 or len(packet) < _END:
            return
        address = packet[_SENDER_IP : _SENDER_IP + 4]
        if packet[_SENDER:_SENDER_IP] != self._mac or not any(address):
            return
        if address in self.known:
            self.known.remove(address)
        self.known.append(address)
        del self.known[:-ADDRESSES_MAX]


def announcements(mac: bytes, addresses: list[bytes]) -> list[bytes]:
    """Frames that say where `mac` is."""
    if not addresses:
        return [_frame(mac, _RARP, 3, bytes(4), mac, bytes(4))]
    return [_frame(mac, _ARP, 1, address, bytes(6), address) for address in addresses]


def _frame(mac: bytes, kind: bytes, operation: int, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    payload = _ETHERNET_IPV4 + operation.to_bytes(2) + mac + sender + target_mac + target
    return (_BROADCAST + mac + kind + payload).ljust(_FRAME_MIN, b"\0")
