# SPDX-License-Identifier: GPL-2.0-or-later
"""`Session`: a user on the console of a guest that runs Debian, on a test's bench or in a process of its own.

session.log_in()
session.run("uname -m")                 # what the command printed; AssertionError when it failed
session.run("exit 3", code=3)
"""

from __future__ import annotations

import fcntl
import re
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from ftvm.config import MachineConfig, parse
from ftvm.linux.debian import WantedRoot, make_root
from ftvm.linux.manifest import ROOT
from ftvm.say import Say
from tests.linux.guest import Linux
from tests.linux.stock import Stock, or_skip

WANTED: Final = WantedRoot(size=512 << 20)
LOGIN: Final = f"{WANTED.hostname} login: "
CMDLINE: Final = "console=ttyS0 panic=1 root=/dev/vda"
PATIENT: Final = "systemd.default_timeout_start_sec=1800 systemd.default_device_timeout_sec=1800"  # on a busy host
PATIENCE_S: Final = 900.0
EPOCHS_MAX: Final = 40_000
_ESCAPES: Final = re.compile(r"\x1b(\[[0-9;?!]*[a-zA-Z]|[78c])")
_EXTENT: Final = 1 << 20


class Session(ABC):
    """What a user does; how the console is reached is a subclass's."""

    def __init__(self) -> None:
        self._commands = 0

    @abstractmethod
    def until(self, text: str) -> None:
        """Wait until the guest has said something, since `type` at the latest."""

    @abstractmethod
    def type(self, text: str) -> None:
        """Keys; what was said before is forgotten."""

    @property
    @abstractmethod
    def said(self) -> str:
        """What was said since `type`."""

    def log_in(self) -> None:
        """As root, with the password; then a plain shell without prompts and echo."""
        self.until(LOGIN)
        self.type("root\n")
        self.until("Password: ")
        self.type(f"{WANTED.password}\n")
        self.until(":~# ")
        self.type("PS1= PS2= PAGER=cat exec sh\n")
        self.run("stty -echo")

    def begin(self, command: str) -> str:
        """Type a line and do not wait for its end; what will mark it."""
        self._commands += 1
        mark = f"<{self._commands}:"
        self.type(f"{command}\necho '<{self._commands}':$?'>'\n")
        return mark

    def end(self, mark: str, code: int = 0) -> str:
        """What a line printed, when it is done."""
        self.until(mark)
        self.until(f"{mark}{code}>")
        return self.said.partition(mark)[0].strip()

    def run(self, command: str, code: int = 0) -> str:
        """One line in the shell, and what it printed."""
        return self.end(self.begin(f"( {command}\n)"), code)


class BenchSession(Session):
    """On a bench: guest time is the test's, so nothing is ever too slow."""

    def __init__(self, linux: Linux) -> None:
        super().__init__()
        self.linux = linux

    def until(self, text: str) -> None:
        """See `Session`."""
        self.linux.go_on(lambda: text in self.said, epochs=EPOCHS_MAX)

    def type(self, text: str) -> None:
        """See `Session`."""
        self.linux.heard.clear()
        self.linux.type(text)

    @property
    def said(self) -> str:
        """See `Session`."""
        return _plain(self.linux.heard)


class SocketSession(Session):
    """Through a machine's console socket; when a side dies, it attaches to the next one."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._heard = bytearray()
        self._connection: socket.socket | None = None

    def until(self, text: str) -> None:
        """See `Session`."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.said:
            assert time.monotonic() < end, f"waited {PATIENCE_S:g} s for {text!r}\n{self.said[-3000:]}"
            self._listen()

    def type(self, text: str) -> None:
        """See `Session`."""
        while self._connection is None:
            self._listen()
        self._heard.clear()
        self._connection.sendall(text.encode())

    @property
    def said(self) -> str:
        """See `Session`."""
        return _plain(self._heard)

    def close(self) -> None:
        """Detach."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listen(self) -> None:
        if self._connection is None:
            self._attach()
            return
        try:
            data = self._connection.recv(1 << 16)
        except TimeoutError:
            return
        except ConnectionError:
            data = b""
        self._heard += data
        if not data:
            self.close()

    def _attach(self) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(0.2)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            time.sleep(0.05)
            return
        self._connection = connection


def debian_config(stock: Stock, image: Path) -> MachineConfig:
    """A machine that boots from the image."""
    machine = {"memory": "256 MiB", "kernel": str(stock.kernel), "initrd": str(stock.initramfs), "cmdline": CMDLINE}
    disk = [{"image": str(image), "size": f"{image.stat().st_size} B"}]
    return parse({"name": "debian", "machine": machine, "disk": disk, "driver": {"restart": False}}, "debian")


def bench_with(stock: Stock, image: Path) -> Linux:
    """The machine on a bench, its disk filled from the image."""
    linux = Linux(debian_config(stock, image))
    with image.open("rb") as file:
        at = 0
        while piece := file.read(_EXTENT):
            if piece.strip(b"\0"):
                linux.disks[0].write(at, piece)
            at += len(piece)
    return linux


def debian_or_skip(stock: Stock) -> Path:
    """The image, made now or earlier beside the stock guests."""

    def make() -> Path:
        with (stock.directory / "debian.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            make_root(stock.directory, WANTED, Say("root"))
        return stock.directory / ROOT.files[0]

    return or_skip(make)


def _plain(heard: bytes | bytearray) -> str:
    return _ESCAPES.sub("", heard.decode(errors="replace")).replace("\r", "")
