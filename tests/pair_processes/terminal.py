# SPDX-License-Identifier: GPL-2.0-or-later
"""`Terminal`: a person at a guest's console, by its Unix socket, who attaches again when the live side dies."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path


class Terminal:
    """Somebody at the console who attaches again when the connection ends."""

    def __init__(self, path: Path) -> None:
        """`path`: the socket of a console with the backend `unix`."""
        self._path = str(path)
        self.seen = b""
        self._attach()

    def _attach(self) -> None:
        end = time.monotonic() + 60
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(self._path)
                break
            except OSError:
                self._socket.close()
                assert time.monotonic() < end, f"nobody serves the console; seen was {self.seen[-500:]!r}"
                time.sleep(0.02)
        self._socket.settimeout(0.1)

    def type(self, text: bytes) -> None:
        """Input for the guest."""
        self._socket.sendall(text)

    def shows(self, text: bytes, timeout_s: float) -> bool:
        """Whether the guest prints this in time, or has; nothing is forgotten."""
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            if time.monotonic() > end:
                return False
            try:
                data = self._socket.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if data:
                self.seen += data
            else:
                self._socket.close()
                self._attach()
        return True

    def expect(self, text: bytes, timeout_s: float = 10.0) -> None:
        """Wait until the guest has printed this, and forget what came before."""
        assert self.shows(text, timeout_s), f"{text!r} did not come; seen was {self.seen[-500:]!r}"
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        """Detach."""
        with suppress(OSError):
            self._socket.close()
