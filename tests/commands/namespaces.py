# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts and a client, as network namespaces on this one.

    host a  192.0.2.1  ----- channel -----  192.0.2.2  host b
            192.0.2.5                       192.0.2.9
                \\                            /
                192.0.2.6  (client)  192.0.2.10

Every link is a pair of virtual Ethernet devices; nothing is routed, and the machine's own network is not touched. The
namespaces go away with the test, and their devices with them. Needs root (CAP_SYS_ADMIN) and iproute2.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

CHANNEL = {"a": "192.0.2.1:7700", "b": "192.0.2.2:7700"}
SERVICE = {"a": "192.0.2.5:10809", "b": "192.0.2.9:10809"}
_CLONE_NEWNET = 0x4000_0000
T = TypeVar("T")


class Hosts:
    """The namespaces; `a`, `b` and `client` are their names for `ip netns`."""

    def __init__(self) -> None:
        mark = f"ftvm{os.getpid()}"
        self.names = {host: f"{mark}{host}" for host in ("a", "b", "client")}
        self._made: list[str] = []

    def build(self) -> None:
        """Make them; pytest.skip, in words, where that is not allowed."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            _refuse("it needs root and the command ip (iproute2)")
        for name in self.names.values():
            _ip("netns", "add", name)
            self._made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        self._link(("a", "channel", "192.0.2.1"), ("b", "channel", "192.0.2.2"))
        self._link(("a", "front", "192.0.2.5"), ("client", "toa", "192.0.2.6"))
        self._link(("b", "front", "192.0.2.9"), ("client", "tob", "192.0.2.10"))

    def destroy(self) -> None:
        """Take them away."""
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def on(self, host: str) -> list[str]:
        """What to put before a command that is to run on `host`."""
        return ["ip", "netns", "exec", self.names[host]]

    def cut(self, apart: bool) -> None:
        """Take the channel's link down, or up again: both hosts live, and neither can reach the other."""
        _ip("-n", self.names["a"], "link", "set", "channel", "down" if apart else "up")

    def within(self, host: str, work: Callable[[], T]) -> T:
        """Call `work` in a thread that is on `host`: sockets that it makes belong there, whoever uses them."""
        found: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                _enter(Path("/run/netns") / self.names[host])
                found.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    def connect(self, address: str, seconds: float = 1.0) -> socket.socket:
        """A TCP connection of the client's."""
        host, _, port = address.rpartition(":")
        return self.within("client", lambda: socket.create_connection((host, int(port)), seconds))

    def _link(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        (host, device, _), (peer_host, peer, _) = one, other
        peers = ["peer", "name", peer, "netns", self.names[peer_host]]
        _ip("-n", self.names[host], "link", "add", device, "type", "veth", *peers)
        for name, interface, address in (one, other):
            _ip("-n", self.names[name], "address", "add", f"{address}/30", "dev", interface)
            _ip("-n", self.names[name], "link", "set", interface, "up")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        _refuse(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")


def _refuse(why: str) -> None:
    """Skip, and so that it is seen."""
    text = f"NOT TESTED, for want of network namespaces: {why}"
    warnings.warn(text, stacklevel=2)
    pytest.skip(text)


def _enter(namespace: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if library.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)
