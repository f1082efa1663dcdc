# SPDX-License-Identifier: GPL-2.0-or-later
"""`QemuGuest`: a bundled guest on QEMU's `virt` machine under OpenSBI, with its console as text."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from ftvm.guests import catalog

from .tools import need

TIMEOUT_S = 20.0
POLL_S = 0.01


class QemuGuest:
    """One running guest; a context manager that leaves no process behind."""

    def __init__(
        self, directory: Path, name: str, arguments: str = "", devices: Sequence[str] = (), memory: int = 16
    ) -> None:
        """`name` is a bundled guest's, or the path of an image."""
        guest = catalog.find(name)
        image = guest.path if guest else Path(name)
        self.console_path = directory / "console"
        self.command = [
            need("qemu-system-riscv64", "qemu-system-misc"),
            *("-M", "virt", "-m", str(memory), "-bios", "default", "-display", "none", "-monitor", "none"),
            *("-global", "virtio-mmio.force-legacy=false", "-kernel", str(image), "-append", arguments),
            *("-chardev", f"stdio,id=console,signal=off,logfile={self.console_path}", "-serial", "chardev:console"),
            *devices,
        ]
        self.errors_path = directory / "errors"
        with self.errors_path.open("wb") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
            )

    def __enter__(self) -> QemuGuest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def console(self) -> str:
        """What the guest has printed so far, OpenSBI's banner included."""
        return self.console_path.read_bytes().decode("latin-1") if self.console_path.exists() else ""

    def story(self) -> str:
        """For failures: how to run it again, and what was seen."""
        return f"{' '.join(self.command)}\nconsole: {self.console()[-800:]}\nerrors: {self.errors_path.read_text()}"

    def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait, or fail with the story."""
        end = time.monotonic() + TIMEOUT_S
        while not happened():
            assert time.monotonic() < end, f"{what} did not happen in {TIMEOUT_S} s\n{self.story()}"
            time.sleep(POLL_S)

    def wait_for(self, text: str) -> None:
        """Wait until the guest has printed `text`."""
        self.until(lambda: text in self.console(), f"{text!r} on the console")

    def type(self, text: str) -> None:
        """Type at the guest's UART."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for_end(self) -> None:
        """Wait until the guest has powered off."""
        self.until(lambda: self.process.poll() is not None, "power-off")

    def running(self) -> bool:
        """Is the machine still on?"""
        return self.process.poll() is None

    def cpu_seconds(self) -> float:
        """CPU time that QEMU has used, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
