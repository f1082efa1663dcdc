# SPDX-License-Identifier: GPL-2.0-or-later
"""The small languages inside a machine file: sizes, addresses, backends, MAC addresses.

Each is parsed once, into a value that prints back as it was written. A text that is not one raises `ValueError` with a
message that says what to write instead; `ftvm.config` puts the file's and the field's name in front of it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,16}) ?(B|KiB|MiB|GiB|TiB)")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_INTERFACE = re.compile(r"[^/:\s\0]{1,15}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})")
_UNIX_PATH_MAX = 4096


def parse_size(text: str) -> int:
    """`"64 MiB"` as bytes."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a size; write e.g. "64 MiB" (units: B, KiB, MiB, GiB, TiB)')
    return int(match[1]) * _UNITS[match[2]]


def format_size(size: int) -> str:
    """Bytes as the largest unit that divides them: `parse_size(format_size(n)) == n`."""
    for unit, factor in reversed(_UNITS.items()):
        if size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """`HOST:PORT` or `[IPV6]:PORT`; port 0 means any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True when the address cannot be reached from another host."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """`unix:PATH`; a relative path is relative to the state directory."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_tcp(text: str) -> TcpAddress:
    """`"127.0.0.1:7700"` or `"[::1]:7700"`."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f'"{text}" is not an address; write HOST:PORT, e.g. "127.0.0.1:7700"')
    if host.startswith("[") and host.endswith("]"):
        try:
            return TcpAddress(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError:
            raise ValueError(f'"{host}" is not an IPv6 address in brackets, e.g. "[::1]:7700"') from None
    if not _HOST.fullmatch(host):
        raise ValueError(f'"{text}" names no host; write HOST:PORT, e.g. "127.0.0.1:7700" or "[::1]:7700"')
    return TcpAddress(host, int(port))


def parse_address(text: str) -> Address:
    """A TCP address, or `"unix:PATH"`."""
    if text.startswith("unix:"):
        return UnixAddress(parse_path(text.removeprefix("unix:")))
    return parse_tcp(text)


def parse_path(text: str) -> str:
    """A path that the system can take: not empty, no NUL, not beyond PATH_MAX."""
    if not text or "\0" in text or len(text.encode(errors="surrogateescape")) >= _UNIX_PATH_MAX:
        raise ValueError(f'"{text[:60]}" is not a path')
    return text


@dataclass(frozen=True, slots=True)
class Backend:
    """`KIND` or `KIND:ARGUMENT`, e.g. `stdio` or `file:console.log`."""

    kind: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


def parse_backend(text: str, plain: tuple[str, ...], with_path: tuple[str, ...]) -> Backend:
    """One of the `plain` words, or one of `with_path` followed by a colon and a path."""
    kind, colon, argument = text.partition(":")
    if not colon and kind in plain:
        return Backend(kind)
    if colon and kind in with_path:
        return Backend(kind, parse_path(argument))
    choices = [f'"{word}"' for word in plain] + [f'"{word}:PATH"' for word in with_path]
    raise ValueError(f'"{text}" is not one of {", ".join(choices)}')


def parse_network(text: str) -> Backend:
    """`"none"`, `"tap:NAME"`, `"passt"`, `"passt:PATH"`, `"stream:HOST:PORT"` or `"stream:unix:PATH"`."""
    kind, colon, argument = text.partition(":")
    if kind in ("none", "passt") and not colon:
        return Backend(kind)
    if kind == "passt" and colon:
        return Backend(kind, parse_path(argument))
    if kind == "tap" and colon:
        if _INTERFACE.fullmatch(argument) is None:
            raise ValueError(f'"{argument}" is not the name of a network device; write e.g. "tap:tap0"')
        return Backend(kind, argument)
    if kind == "stream" and colon:
        return Backend(kind, str(_peer(argument)))
    raise ValueError(
        f'"{text}" is not one of "none", "tap:NAME", "passt", "passt:PATH", "stream:HOST:PORT", "stream:unix:PATH"'
    )


def _peer(text: str) -> Address:
    """Where to connect to without asking anybody: a live side must not wait for a name server."""
    address = parse_address(text)
    if isinstance(address, TcpAddress):
        if address.port == 0:
            raise ValueError(f'"{text}" names no port')
        host = "127.0.0.1" if address.host == "localhost" else address.host
        try:
            return TcpAddress(str(ipaddress.ip_address(host)), address.port)
        except ValueError:
            raise ValueError(f'"{host}" is not an IP address: host names are not looked up here') from None
    return address


@dataclass(frozen=True, slots=True)
class Forward:
    """`PROTOCOL:[ADDRESS:]PORT:GUESTPORT`: a port of this host (of loopback, unless it says more) to the guest."""

    protocol: str
    address: str
    port: int
    guest_port: int

    def __str__(self) -> str:
        return f"{self.protocol}:{self.address}:{self.port}:{self.guest_port}"


def parse_forward(text: str) -> Forward:
    """`"tcp:8080:80"`, `"udp:192.0.2.1:5353:53"`."""
    parts = text.split(":")
    if len(parts) == 3:
        parts.insert(1, "127.0.0.1")
    numbers = parts[2:]
    if len(parts) != 4 or parts[0] not in ("tcp", "udp") or not all(map(_is_port, numbers)):
        raise ValueError(f'"{text}" forwards nothing; write e.g. "tcp:8080:80" or "udp:192.0.2.1:5353:53"')
    try:
        address = str(ipaddress.IPv4Address(parts[1]))
    except ValueError:
        raise ValueError(f'"{parts[1]}" is not an IPv4 address of this host') from None
    return Forward(parts[0], address, int(numbers[0]), int(numbers[1]))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) <= 65535


def parse_mac(text: str) -> bytes:
    """A unicast MAC address as six bytes."""
    if _MAC.fullmatch(text) is None:
        raise ValueError(f'"{text}" is not a MAC address; write e.g. "52:54:00:12:34:56"')
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1:
        raise ValueError(f'"{text}" is a group address; the second hexadecimal digit must be even')
    return mac
