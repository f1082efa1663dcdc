# SPDX-License-Identifier: GPL-2.0-or-later
"""`tap:NAME`: a TAP device of this host; put it on a bridge and the guest has its place in a real network.

An existing device is used as it is (`ip tuntap add dev NAME mode tap user USER` makes one that USER may use without
being root). One that is missing is made, persistent, so that it keeps its place on a bridge while a failover changes
who holds it: the device has a carrier only while the live side is attached, and its queue begins empty then.

Packets pass with their `virtio_net_hdr` (IFF_VNET_HDR): the kernel computes the checksums and cuts the segments that
the guest left to it, or leaves them to the guest where both ends are on this host.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from devices.virtio.offload import DATA_VALID, FRAME_MAX, FRAME_MIN, HEAD, NEEDS_CSUM
from ftvm.world.network.network import TAKE_BYTES_MAX, Retry, words
from ftvm.world.poller import Poller

DEVICE: Final = "/dev/net/tun"
# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
TUNSETOFFLOAD: Final = 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x01, 0x02, 0x04
# linux/sockios.h, linux/if.h
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 1

_REQUEST: Final = struct.Struct("16sH22x")  # struct ifreq with its flags
_KNOWN: Final = NEEDS_CSUM | DATA_VALID


class TapNetwork:
    """One TAP device; implements `Network`."""

    def __init__(self, name: str, poller: Poller) -> None:
        self.name = name
        self.problem = ""
        self._poller = poller
        self._fd = -1
        self._retry = Retry()
        self._wanted = False
        self._watched = False
        self._ready = False  # there may be packets: nobody has to be woken for that again

    @property
    def attached(self) -> bool:
        """See `Network`."""
        return self._fd >= 0

    def attach(self, now: float) -> None:
        """See `Network`."""
        if self._fd >= 0 or not self._retry.due(now):
            return
        try:
            self._fd = open_tap(self.name)
        except OSError as error:
            self.problem = why_not(self.name, error)
            self._retry.failed(now)
            return
        self.problem = ""
        self._retry.worked()
        self._ready = True

    def take(self, count: int) -> list[bytes]:
        """See `Network`."""
        packets: list[bytes] = []
        size = 0
        while self._ready and len(packets) < count and size < TAKE_BYTES_MAX:
            try:
                packet = os.read(self._fd, HEAD + FRAME_MAX + 1)
            except BlockingIOError:
                self._ready = False
                self._watch()
            except OSError as error:  # the device was deleted
                self._lost(error)
            else:
                if HEAD + FRAME_MIN <= len(packet) <= HEAD + FRAME_MAX:
                    packets.append(packet if packet[0] & ~_KNOWN == 0 else bytes([packet[0] & _KNOWN]) + packet[1:])
                    size += len(packet)
        return packets

    def watch(self, wanted: bool) -> None:
        """See `Network`."""
        self._wanted = wanted
        self._watch()

    def send(self, packet: bytes) -> bool:
        """See `Network`."""
        if self._fd < 0:
            return False
        try:
            os.write(self._fd, packet)
        except OSError as error:
            if error.errno == errno.EBADFD:
                self._lost(error)
            return False  # the device is down (EIO), or cannot do what the header asks for (EINVAL)
        return True

    def close(self) -> None:
        """See `Network`."""
        self.watch(False)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._ready = False

    def _watch(self) -> None:
        watched = self._wanted and not self._ready and self._fd >= 0
        if watched and not self._watched:
            self._poller.watch(self._fd, True, False, self._readable)
        elif self._watched and not watched:
            self._poller.unwatch(self._fd)
        self._watched = watched

    def _readable(self, readable: bool, writable: bool) -> None:
        """Packets may have to wait until an entry can take them, for a backup that lags: not a reason to spin."""
        self._ready = True
        self._watch()

    def _lost(self, error: OSError) -> None:
        self.close()
        self.problem = f"the TAP device {self.name} is gone ({words(error)})"


def open_tap(name: str) -> int:
    """A descriptor that holds TAP device `name`, which is made when it is missing, and is up if we may do that."""
    missing = not exists(name)
    fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, _REQUEST.pack(name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
        if missing:
            fcntl.ioctl(fd, TUNSETPERSIST, 1)
        _set_up(name)
    except OSError:
        os.close(fd)
        raise
    return fd


def exists(name: str) -> bool:
    """Whether this host (this network namespace) has a device of that name."""
    return name in (interface for _, interface in socket.if_nameindex())


def why_not(name: str, error: OSError) -> str:
    """Why the TAP device cannot be had, and what to do."""
    if not Path(DEVICE).exists():
        return f"there is no {DEVICE}: load the kernel's module tun"
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"no right to use the TAP device {name}: "
            f"ip tuntap add dev {name} mode tap user $USER; ip link set {name} up (as root)"
        )
    if error.errno == errno.EINVAL:
        return f"{name} is not a TAP device with one queue (ip tuntap add dev {name} mode tap)"
    return f"the TAP device {name}: {words(error)}"


def _set_up(name: str) -> None:
    """ifconfig NAME up; without the right to do it, the device stays as its owner wants it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        flags = _REQUEST.unpack(fcntl.ioctl(handle, SIOCGIFFLAGS, _REQUEST.pack(name.encode(), 0)))[1]
        if not flags & IFF_UP:
            try:
                fcntl.ioctl(handle, SIOCSIFFLAGS, _REQUEST.pack(name.encode(), flags | IFF_UP))
            except PermissionError:
                return
