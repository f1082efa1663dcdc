# SPDX-License-Identifier: GPL-2.0-or-later
"""The two sides of a pair as processes, without a launcher: a backup comes and goes as a measurement wants it.

    side a   primary from the start, on core 0, alone until a backup joins: the same process alone and protected
    side b   a joiner on core 1; killed when its time is over, whereupon side a goes on alone in the next term

Progress is what the live side writes into its status file: its clock and when it was read. `fail_over` kills that one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftvm.config import load
from ftvm.pair.cold_start import first_primary
from ftvm.pair.prepare import prepare
from ftvm.pair.services import open_services
from ftvm.state_dir import read_json

POLL_S = 0.01
PATIENCE_S = 30.0
CORES = sorted(os.sched_getaffinity(0))


class SideFailed(Exception):
    """A side did not do what was waited for; the message ends with its latest lines."""


class Sides:
    """A pair under the benchmark's own control; a context manager that leaves no process behind."""

    def __init__(
        self,
        directory: Path,
        text: str,
        record: Path | None = None,
        pinned: bool = False,
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix`: of the sides' commands, to start them elsewhere."""
        machine = directory / "machine.toml"
        machine.write_text(text)
        self.state, config = prepare(load(machine), directory / "state")
        assert first_primary(config, self.state) == "a", "a new pair starts with side a"
        self._services: list[socket.socket] = open_services(config, self.state)
        self.live = "a"
        self._record = record
        self._prefix = prefix
        self._pinned = pinned and len(CORES) > 1
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = directory / "sides.log"

    @property
    def socket(self) -> Path:
        """The block service's socket."""
        return self.state.resolve("nbd.sock")

    def pid(self, side: str) -> int:
        """The process of a side."""
        return self._processes[side].pid

    @property
    def _other(self) -> str:
        return "b" if self.live == "a" else "a"

    def status(self, side: str = "") -> dict[str, Any]:
        """What a side, else the live one, says of itself."""
        side = side or self.live
        fields = read_json(self.state.status(side))
        process = self._processes.get(side)
        same = process is not None and fields.get("process", {}).get("pid") == process.pid
        return fields if same else {}

    def start_primary(self) -> None:
        """Side a is live when this returns."""
        self._spawn("a", [*(["--record", str(self._record)] if self._record is not None else []), "--unprotected"])
        self.until(lambda: self.status().get("role") == "primary" and bool(self.status().get("channel")), "a primary")

    def start_backup(self) -> float:
        """Side b is in sync when this returns; returns seconds from its start."""
        begin = time.monotonic()
        self._spawn(self._other, ["--join", str(self.status()["channel"])])
        self.until(lambda: bool(self.status().get("protected")), "protection")
        return time.monotonic() - begin

    def kill_backup(self) -> None:
        """Side a is alone again when this returns."""
        process = self._processes.pop(self._other)
        process.kill()
        process.wait()
        self.until(lambda: not self.status().get("protected"), "the primary to go on alone")

    def fail_over(self) -> None:
        """SIGKILL of the live side; the other one is live when this returns."""
        process = self._processes.pop(self.live)
        process.kill()
        self.live = self._other
        self.until(lambda: self.status().get("role") == "primary", "a failover")
        process.wait()

    def rate(self, seconds: float) -> float:
        """Progress of the live side in clock units per second."""
        first = self._fresh(0.0)
        time.sleep(seconds)
        last = self._fresh(time.monotonic())
        return float((last["clock"] - first["clock"]) / (last["updated"] - first["updated"]))

    def fresh_status(self) -> dict[str, Any]:
        """The live side's status as of now or later."""
        return self._fresh(time.monotonic())

    def close(self) -> None:
        """Kill both sides."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()
        for sock in self._services:
            sock.close()

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fresh(self, after: float) -> dict[str, Any]:
        self.until(lambda: float(self.status().get("updated", 0.0)) > after, "a status")
        return self.status()

    def _spawn(self, side: str, options: list[str]) -> None:
        descriptors = [sock.fileno() for sock in self._services]
        command = [*self._prefix, sys.executable, "-P", "-m", "ftvm.pair.main"]
        command += ["--state-dir", str(self.state.path), "--member", side]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--services", ",".join(map(str, descriptors)), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                start_new_session=True,
            )
        self._processes[side] = process
        if self._pinned:
            os.sched_setaffinity(process.pid, {CORES[0 if side == "a" else 1]})

    def until(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
        """Wait for something; SideFailed in words when a side ends before, or it does not come about."""
        end = time.monotonic() + seconds
        while not condition():
            died = [side for side, process in self._processes.items() if process.poll() is not None]
            if died or time.monotonic() > end:
                why = f"side {died[0]} has ended" if died else f"waited {seconds:g} s"
                raise SideFailed(f"{why}, no {what}:\n{self._log.read_text()[-2000:]}")
            time.sleep(POLL_S)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def stopped(pid: int, hold: bool) -> None:
    """Hold a process, or let it go on."""
    os.kill(pid, signal.SIGSTOP if hold else signal.SIGCONT)


def beyond_ram_mib(pid: int) -> float:
    """Resident memory of a process in MiB, without the guest's RAM."""
    total, ram, in_ram = 0, 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split(maxsplit=5)
        if "-" in head[0] and not head[0].endswith(":"):
            in_ram = len(head) == 6 and head[5].startswith("/dev/zero")
        elif line.startswith("Pss:"):
            total += int(head[1])
            ram += int(head[1]) if in_ram else 0
    return (total - ram) / 1024
