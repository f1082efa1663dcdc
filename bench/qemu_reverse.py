# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own reverse debugging: a run recorded with `rr=record` and a snapshot at its beginning, then stepped back in.

It has one snapshot, as `rrsnapshot` makes it: more are made by hand. GDB drives it as it drives ours.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.effort import Bench
from bench.gdb import timed
from bench.qemu import PATIENCE_S, QEMU, cpu_seconds

STEPS = 3


def reverse_stepi(bench: Bench, name: str, guest: Sequence[str], image: Path, icount: int) -> list[float]:
    """Seconds of some `reverse-stepi` behind so many instructions of this guest; RuntimeError."""
    run = _Reversible(bench, name, guest)
    run.record()
    port = run.replay_to(icount)
    try:
        return timed(port, image, [("back", "reverse-stepi", STEPS)], "kill", bench.path(f"{name}.qemu.gdb"))["back"]
    finally:
        run.close()


class _Reversible:
    def __init__(self, bench: Bench, name: str, guest: Sequence[str]) -> None:
        self._disk = bench.path(f"{name}.qcow2")
        self._log = bench.path(f"{name}.rr")
        self._socket = bench.path(f"{name}.qmp")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(self._disk), "4G"], check=True)
        self._command = [QEMU, "-M", "virt", "-bios", "default", "-net", "none", "-display", "none", "-monitor", "none"]
        self._command += ["-serial", "null", *guest, "-drive", f"file={self._disk},if=none,id=rr"]
        self._process: subprocess.Popen[bytes] | None = None

    def record(self) -> None:
        """To the guest's end."""
        cpu_seconds([*self._command, *self._mode("record")])

    def _mode(self, mode: str) -> list[str]:
        return ["-icount", f"shift=1,rr={mode},rrfile={self._log},rrsnapshot=init"]

    def replay_to(self, icount: int) -> int:
        """Stands behind so many instructions; the port where GDB is served."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        extra = ["-qmp", f"unix:{self._socket},server=on,wait=off", "-S", "-gdb", f"tcp:127.0.0.1:{port}"]
        self._process = subprocess.Popen(
            [*self._command, *extra, *self._mode("replay")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        with _Monitor(self._socket) as monitor:
            monitor.ask("qmp_capabilities")
            monitor.ask("replay-break", icount=icount)
            monitor.ask("cont")
            monitor.until("STOP")
        return port

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class _Monitor:
    """QEMU's machine protocol: a JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        end = time.monotonic() + 30
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > end:
                    raise RuntimeError(f"{QEMU} does not open its monitor") from None
                time.sleep(0.05)
        self._file = self._socket.makefile("rw")

    def ask(self, command: str, **arguments: int) -> Any:
        """One command and its answer."""
        self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._file.flush()
        while True:
            answer = json.loads(self._file.readline())
            if "error" in answer:
                raise RuntimeError(f"{QEMU}: {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def until(self, event: str) -> None:
        """Wait for an event."""
        while json.loads(self._file.readline()).get("event") != event:
            pass

    def __enter__(self) -> _Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()
