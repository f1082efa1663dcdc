# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts and a client on one switch, as network namespaces on this machine.

    host a                    switch                    host b
    br0 10.0.2.101            br0                       br0 10.0.2.102
     |-- vm0 (TAP)             |                         |-- vm0 (TAP)
     `-- uplink -------- to-a -+- to-b ------------------`-- uplink
                               `- to-client ---- net0 10.0.2.2 (client)

Guests on vm0 have addresses in 10.0.2.0/24. Nothing is routed, and the machine's own network is not touched.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import socket
import struct
import threading
import time
from pathlib import Path

from tests.commands.namespaces import Hosts, _ip, _refuse
from tests.machine.frames import checksum

GUEST = "10.0.2.15"
ADDRESS = {"a": "10.0.2.101", "b": "10.0.2.102", "client": "10.0.2.2"}
ETH_P_ARP, ETH_P_RARP = 0x0806, 0x8035


class Lab(Hosts):
    """The namespaces; see the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.names["switch"] = f"ftvm{os.getpid()}s"

    def build(self) -> None:
        """Make them; pytest.skip, in words, where that is not allowed."""
        if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
            _refuse("it needs root and /dev/net/tun")
        for name in self.names.values():
            _ip("netns", "add", name)
            self._made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        self._bridge("switch")
        for host in "ab":
            self._bridge(host)
            self._cable(host, "uplink")
            _ip("-n", self.names[host], "link", "set", "uplink", "master", "br0")
            _ip("-n", self.names[host], "address", "add", f"{ADDRESS[host]}/24", "dev", "br0")
            self.tap(host, "vm0")
        self._cable("client", "net0")
        _ip("-n", self.names["client"], "address", "add", f"{ADDRESS['client']}/24", "dev", "net0")

    def tap(self, host: str, name: str) -> None:
        """A TAP device on a host's bridge."""
        _ip("-n", self.names[host], "tuntap", "add", "dev", name, "mode", "tap")
        _ip("-n", self.names[host], "link", "set", name, "master", "br0", "up")

    def forget_neighbours(self) -> None:
        """The client asks for addresses anew."""
        _ip("-n", self.names["client"], "neighbour", "flush", "dev", "net0")

    def until_carrier(self, wanted: bool, host: str = "a", name: str = "vm0") -> bool:
        """Whether a TAP device comes to be held, or not; the kernel may take a second to say so."""
        end = time.monotonic() + 5
        while self.carrier(host, name) is not wanted and time.monotonic() < end:
            time.sleep(0.02)
        return self.carrier(host, name) is wanted

    def carrier(self, host: str, name: str = "vm0") -> bool:
        """Whether somebody holds a TAP device."""

        def read() -> bool:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
                request = struct.pack("16sH22x", name.encode(), 0)
                flags = struct.unpack("16sH22x", fcntl.ioctl(handle, 0x8913, request))[1]
                return bool(flags & 0x40)  # IFF_RUNNING

        return self.within(host, read)

    def _bridge(self, host: str) -> None:
        _ip("-n", self.names[host], "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self.names[host], "link", "set", "br0", "up")

    def _cable(self, host: str, device: str) -> None:
        """From a host to the switch."""
        peer = ["peer", "name", device, "netns", self.names[host]]
        _ip("-n", self.names["switch"], "link", "add", f"to-{host}", "type", "veth", *peer)
        _ip("-n", self.names["switch"], "link", "set", f"to-{host}", "master", "br0", "up")
        _ip("-n", self.names[host], "link", "set", device, "up")


class Ping:
    """`ping -i 0.1` from the client; `with` it runs in the background."""

    def __init__(self, lab: Lab, address: str = GUEST, interval_s: float = 0.1) -> None:
        self.sent: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        self._address, self._interval = address, interval_s
        self._socket = lab.within("client", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        self._mark = os.getpid() & 0xFFFF
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def lost(self) -> list[int]:
        """Numbers of those that were not answered, although others behind them were, or half a second has passed."""
        now = time.monotonic()
        last = max(self.answered, default=0)
        return [n for n, at in list(self.sent.items()) if n not in self.answered and (n < last or now - at > 0.5)]

    @property
    def silence_s(self) -> float:
        """The longest time between two answers."""
        times = sorted(self.answered.values())
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    def _run(self) -> None:
        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= due:
                number, due = number + 1, max(due + self._interval, now)
                self.sent[number] = now
                self._send(number)
            if select.select([self._socket], [], [], max(0.0, due - now))[0]:
                self._receive()

    def _send(self, number: int) -> None:
        head = struct.pack(">BBHHH", 8, 0, 0, self._mark, number)
        payload = bytes(56)
        data = head[:2] + checksum(head + payload).to_bytes(2) + head[4:] + payload
        try:
            self._socket.sendto(data, (self._address, 0))
        except OSError:  # nobody answers ARP
            return

    def _receive(self) -> None:
        packet = self._socket.recv(2048)
        kind, _, _, mark, number = struct.unpack(">BBHHH", packet[20:28])
        if kind == 0 and mark == self._mark and number in self.sent:
            self.answered.setdefault(number, time.monotonic())

    def __enter__(self) -> Ping:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()


class Ear:
    """Hears frames of one kind that arrive at the client."""

    def __init__(self, lab: Lab, kind: int) -> None:
        def listen() -> socket.socket:
            ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
            ear.bind(("net0", kind))
            return ear

        self._socket = lab.within("client", listen)
        self._socket.setblocking(False)

    def heard(self) -> list[bytes]:
        """Frames since the last call."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(2048))
            except BlockingIOError:
                return found

    def close(self) -> None:
        """No longer."""
        self._socket.close()


def udp_echo(lab: Lab, payload: bytes, address: str = GUEST, port: int = 7, tries: int = 20) -> bytes:
    """What comes back from a guest's echo port; asked again while nothing does."""
    with lab.within("client", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(0.25)
        for _ in range(tries):
            client.sendto(payload, (address, port))
            try:
                return client.recv(65536)
            except TimeoutError:
                continue
    return b""
