# SPDX-License-Identifier: GPL-2.0-or-later
"""Before a side serves: can its networks be had on this host, and will anything reach the guest through them?

| backend             | refused (ConfigError)                  | warned of                               |
|---------------------|----------------------------------------|-----------------------------------------|
| tap:NAME            | no right, no TAP device, held          | neither on a bridge nor with an address |
| passt               | (`PasstKeeper` starts it, and refuses) |                                         |
| passt:PATH, stream: | PATH is no socket, or may not be used  | nobody listens there yet                |

What is refused cannot get better by itself; what is warned of can, and attaching is tried again all the time. A side
that joins may find its TAP device held: by the primary, where both are on one host.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ftvm.config import MachineConfig
from ftvm.config_error import ConfigError
from ftvm.config_values import Backend, UnixAddress, parse_address
from ftvm.world.network.tap import open_tap, why_not

SIOCGIFADDR: Final = 0x8915  # linux/sockios.h
_DEVICES: Final = Path("/sys/class/net")


def check_networks(config: MachineConfig, state: Path, warn: Callable[[str], None], joins: bool = False) -> None:
    """ConfigError in words when a network cannot be had here. `joins`: this side is to follow a primary at first."""
    for unit, network in enumerate(config.network):
        backend, place = network.backend, f"{config.name}: network[{unit}].backend: "
        try:
            tap = backend.kind == "tap"
            warning = _check_tap(backend.argument, joins) if tap else _check_socket(backend, state)
        except ConfigError as error:
            raise ConfigError(f"{place}{error}") from None
        if warning:
            warn(f"{place}{warning}")


def _check_tap(name: str, joins: bool) -> str:
    try:
        os.close(open_tap(name))
    except OSError as error:
        if not (joins and error.errno == errno.EBUSY):
            raise ConfigError(why_not(name, error)) from None
        return f"{why_not(name, error)}; it has to be free when this side goes live"
    if connected(name):
        return ""
    return (
        f"the TAP device {name} is on no bridge and has no address, so nothing reaches the guest: "
        f"ip link set {name} master BRIDGE, or ip address add ADDRESS/BITS dev {name}"
    )


def connected(name: str) -> bool:
    """Whether a network device leads anywhere: it is on a bridge, or has an IPv4 address, or nobody can tell."""
    device = _DEVICES / name
    if not device.exists() or (device / "master").exists():
        return True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle, SIOCGIFADDR, struct.pack("16s24x", name.encode()))
        except OSError:
            return False
    return True


def _check_socket(backend: Backend, state: Path) -> str:
    """What is in the way of connecting to a Unix socket, once somebody listens there."""
    if backend.kind == "passt" and backend.argument:
        path = backend.argument
    elif backend.kind == "stream" and isinstance(address := parse_address(backend.argument), UnixAddress):
        path = address.path
    else:
        return ""
    full = state / Path(path).expanduser()
    try:
        mode = full.stat().st_mode
    except FileNotFoundError:
        return f"nobody listens at {full} yet"
    except OSError as error:
        raise ConfigError(f"{full}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{full} is not a socket")
    if not os.access(full, os.W_OK):
        raise ConfigError(f"no right to connect to {full}: it takes write permission")
    return ""
