# SPDX-License-Identifier: GPL-2.0-or-later
"""`Frame`: an Ethernet frame taken apart as far as it is understood, with one line of words for each layer.

    Frame -> Arp
          -> Ip (4 or 6) -> Tcp | Udp | Icmp

A guest may send anything: whatever does not fit its own lengths ends the taking apart there, `problem` says where, and
nothing raises. Checksums are not looked at: the sender may have left them to the card.

RFC 826 (ARP), 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP), 792 and 4443 (ICMP), 4861 (neighbour discovery).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop
from struct import Struct
from typing import Final

ETHERNET: Final = 14
VLANS: Final = frozenset({0x8100, 0x88A8})
VLANS_MAX: Final = 2
ETHERTYPES: Final = {0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6", 0x88CC: "LLDP", 0x8863: "PPPoE", 0x8864: "PPPoE"}
ICMP, TCP, UDP, ICMP6, FRAGMENT, NO_NEXT = 1, 6, 17, 58, 44, 59
PROTOCOLS: Final = {2: "IGMP", 47: "GRE", 50: "ESP", 89: "OSPF", 132: "SCTP"}
EXTENSIONS: Final = frozenset({0, 43, 60, 135})  # hop by hop, routing, destination options, mobility
EXTENSIONS_MAX: Final = 8
TCP_FLAGS: Final = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
ICMP4_TYPES: Final = {
    0: "echo reply", 3: "destination unreachable", 4: "source quench", 5: "redirect", 8: "echo request",
    9: "router advertisement", 10: "router solicitation", 11: "time exceeded", 12: "parameter problem",
}  # fmt: skip
ICMP6_TYPES: Final = {
    1: "destination unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request",
    129: "echo reply", 133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation",
    136: "neighbour advertisement", 143: "multicast listener report",
}  # fmt: skip
UNREACHABLE4: Final = {0: "network", 1: "host", 2: "protocol", 3: "port", 4: "fragmentation needed", 13: "prohibited"}
ECHOES: Final = {4: frozenset({0, 8}), 6: frozenset({128, 129})}
NEIGHBOURS: Final = frozenset({135, 136})

_ARP: Final = Struct(">HHBBH6s4s6s4s")
_IP4: Final = Struct(">BBHHHBBH4s4s")
_IP6: Final = Struct(">IHBB16s16s")
_TCP: Final = Struct(">HHIIBBHHH")
_UDP: Final = Struct(">HHHH")


@dataclass(frozen=True, slots=True)
class Arp:
    """A question or an answer about whose MAC address belongs to an IPv4 address."""

    operation: int  # 1: request, 2: reply
    sender_mac: str
    sender: str
    target_mac: str
    target: str

    def __str__(self) -> str:
        if self.operation == 1:
            if self.sender == self.target:
                return f"ARP announcement: {self.sender} is at {self.sender_mac}"
            return f"ARP who has {self.target}? tell {self.sender}"
        if self.operation == 2:
            return f"ARP reply: {self.sender} is at {self.sender_mac}"
        return f"ARP operation {self.operation}: {self.sender} to {self.target}"


@dataclass(frozen=True, slots=True)
class Tcp:
    """A segment. `flags` is of SYN, ACK, FIN, RST, PSH, URG, ECE, CWR; `window` as sent, not scaled."""

    source: int
    destination: int
    sequence: int
    acknowledgement: int
    flags: tuple[str, ...]
    window: int
    payload: bytes

    def __str__(self) -> str:
        ack = f" ack {self.acknowledgement}" if "ACK" in self.flags else ""
        flags = " ".join(self.flags) or "no flags"
        return f"TCP {flags} seq {self.sequence}{ack} win {self.window}, {len(self.payload)} bytes"


@dataclass(frozen=True, slots=True)
class Udp:
    """A datagram."""

    source: int
    destination: int
    payload: bytes

    def __str__(self) -> str:
        return f"UDP, {len(self.payload)} bytes"


@dataclass(frozen=True, slots=True)
class Icmp:
    """A control message. `identifier` and `number` are those of an echo; `about` is a neighbour's address."""

    version: int  # of IP
    type: int
    code: int
    payload: bytes
    identifier: int | None = None
    number: int | None = None
    about: str = ""

    def __str__(self) -> str:
        names = ICMP4_TYPES if self.version == 4 else ICMP6_TYPES
        words = f"{'ICMP' if self.version == 4 else 'ICMPv6'} {names.get(self.type, f'type {self.type}')}"
        if self.number is not None:
            return f"{words} id {self.identifier} seq {self.number}, {len(self.payload)} bytes"
        if self.version == 4 and self.type == 3:
            return f"{words}: {UNREACHABLE4.get(self.code, f'code {self.code}')}"
        if self.about:
            return f"{words} for {self.about}"
        return words + (f" code {self.code}" if self.code else "")


Transport = Tcp | Udp | Icmp


@dataclass(frozen=True, slots=True)
class Ip:
    """A packet of IPv4 or IPv6; `transport` is None in all fragments but the first, and where it is not understood."""

    version: int
    source: str
    destination: str
    protocol: int  # of what is in it, behind IPv6's extension headers
    hops: int  # that are left: TTL, or hop limit
    transport: Transport | None
    fragment: int = 0  # offset in bytes
    more_fragments: bool = False
    problem: str = ""

    def __str__(self) -> str:
        cut = f" (fragment at {self.fragment})" if self.fragment or self.more_fragments else ""
        if self.problem:
            return f"{self.source} > {self.destination} IPv{self.version}{cut}, {self.problem}"
        inner = self.transport
        if isinstance(inner, Tcp | Udp):
            brackets = ("[", "]") if self.version == 6 else ("", "")
            source, destination = (address.join(brackets) for address in (self.source, self.destination))
            return f"{source}:{inner.source} > {destination}:{inner.destination} {inner}{cut}"
        words = str(inner) if inner is not None else PROTOCOLS.get(self.protocol, f"protocol {self.protocol}")
        return f"{self.source} > {self.destination} {words}{cut}"


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame of `length` bytes; `vlans` from the outermost on."""

    destination: str
    source: str
    ethertype: int
    length: int
    vlans: tuple[int, ...]
    network: Arp | Ip | None
    problem: str = ""

    def __str__(self) -> str:
        tags = "".join(f"vlan {vlan} " for vlan in self.vlans)
        if self.network is not None:
            return tags + str(self.network)
        name = ETHERTYPES.get(self.ethertype, f"ethertype {self.ethertype:#06x}")
        if self.ethertype < 0x600:
            name = "IEEE 802.3"
        return f"{tags}{self.source} > {self.destination} {self.problem or name}"


class _Short(Exception):
    """A layer ends before its header does, or says impossible lengths; the words say which."""


def decode_frame(data: bytes) -> Frame:
    """What is in a frame (from its destination address on, without check sequence); never raises."""
    if len(data) < ETHERNET:
        return Frame("?", "?", 0, len(data), (), None, f"frame of {len(data)} bytes, too short")
    at = 12
    vlans: list[int] = []
    kind = int.from_bytes(data[at : at + 2])
    while kind in VLANS and len(vlans) < VLANS_MAX and at + 6 <= len(data):
        vlans.append(int.from_bytes(data[at + 2 : at + 4]) & 0xFFF)
        at += 4
        kind = int.from_bytes(data[at : at + 2])
    network, problem = None, ""
    try:
        network = _network(kind, data[at + 2 :])
    except _Short as short:
        problem = str(short)
    return Frame(_mac(data[:6]), _mac(data[6:12]), kind, len(data), tuple(vlans), network, problem)


def _network(kind: int, data: bytes) -> Arp | Ip | None:
    if kind == 0x0806:
        return _arp(data)
    if kind == 0x0800:
        return _ip4(data)
    return _ip6(data) if kind == 0x86DD else None


def _mac(address: bytes) -> str:
    return address.hex(":")


def _arp(data: bytes) -> Arp:
    if len(data) < _ARP.size:
        raise _Short("ARP, cut off")
    hardware, protocol, sizes, lengths, operation, mac, sender, target_mac, target = _ARP.unpack_from(data)
    if (hardware, protocol, sizes, lengths) != (1, 0x0800, 6, 4):
        raise _Short("ARP for other than Ethernet and IPv4")
    return Arp(operation, _mac(mac), inet_ntop(AF_INET, sender), _mac(target_mac), inet_ntop(AF_INET, target))


def _ip4(data: bytes) -> Ip:
    if len(data) < _IP4.size:
        raise _Short("IPv4, cut off")
    first, _, total, _, fragment, hops, protocol, _, source, destination = _IP4.unpack_from(data)
    head = (first & 15) * 4
    at = (fragment & 0x1FFF) * 8
    if first >> 4 != 4 or head < _IP4.size or 0 < total < head:
        raise _Short("IPv4 with an impossible header")
    body = data[head:total] if total else data[head:]
    transport, problem = _inner(4, protocol, body) if not at else (None, "")
    if total > len(data) and not problem:
        problem = f"cut off: {len(data)} of {total} bytes"
    addresses = inet_ntop(AF_INET, source), inet_ntop(AF_INET, destination)
    return Ip(4, *addresses, protocol, hops, transport, at, bool(fragment & 0x2000), problem)


def _ip6(data: bytes) -> Ip:
    if len(data) < _IP6.size:
        raise _Short("IPv6, cut off")
    first, length, protocol, hops, source, destination = _IP6.unpack_from(data)
    if first >> 28 != 6:
        raise _Short("IPv6 with an impossible header")
    body = data[_IP6.size :][: length or None]
    fragment, more, problem = 0, False, ""
    for _ in range(EXTENSIONS_MAX):
        if protocol not in EXTENSIONS and protocol != FRAGMENT:
            break
        if len(body) < 8:
            problem = "cut off in its extension headers"
            break
        size = 8 if protocol == FRAGMENT else 8 * (body[1] + 1)
        if protocol == FRAGMENT:
            word = int.from_bytes(body[2:4])
            fragment, more = word & 0xFFF8, bool(word & 1)
        protocol, body = body[0], body[size:]
    transport: Transport | None = None
    if not problem and not fragment:
        transport, problem = _inner(6, protocol, body)
    if length > len(data) - _IP6.size and not problem:
        problem = f"cut off: {len(data) - _IP6.size} of {length} bytes"
    addresses = inet_ntop(AF_INET6, source), inet_ntop(AF_INET6, destination)
    return Ip(6, *addresses, protocol, hops, transport, fragment, more, problem)


def _inner(version: int, protocol: int, body: bytes) -> tuple[Transport | None, str]:
    """What is in an IP packet, and what is wrong with it."""
    try:
        if protocol == TCP:
            return _tcp(body), ""
        if protocol == UDP:
            return _udp(body), ""
        if protocol == (ICMP if version == 4 else ICMP6):
            return _icmp(version, body), ""
    except _Short as short:
        return None, str(short)
    return None, ""


def _tcp(data: bytes) -> Tcp:
    if len(data) < _TCP.size:
        raise _Short("TCP, cut off")
    source, destination, sequence, ack, offset, flags, window, _, _ = _TCP.unpack_from(data)
    head = (offset >> 4) * 4
    if not _TCP.size <= head <= len(data):
        raise _Short("TCP with an impossible header")
    return Tcp(source, destination, sequence, ack, tuple(_flags(flags)), window, data[head:])


def _flags(bits: int) -> Iterator[str]:
    return (name for bit, name in enumerate(TCP_FLAGS) if bits >> bit & 1)


def _udp(data: bytes) -> Udp:
    if len(data) < _UDP.size:
        raise _Short("UDP, cut off")
    source, destination, length, _ = _UDP.unpack_from(data)
    if length and length < _UDP.size:
        raise _Short("UDP with an impossible length")
    return Udp(source, destination, data[_UDP.size : length or None])


def _icmp(version: int, data: bytes) -> Icmp:
    if len(data) < 4:
        raise _Short("ICMP, cut off")
    kind, code = data[0], data[1]
    if kind in ECHOES[version] and len(data) >= 8:
        return Icmp(version, kind, code, data[8:], int.from_bytes(data[4:6]), int.from_bytes(data[6:8]))
    if version == 6 and kind in NEIGHBOURS and len(data) >= 24:
        return Icmp(version, kind, code, data[8:], about=inet_ntop(AF_INET6, data[8:24]))
    return Icmp(version, kind, code, data[4:])
