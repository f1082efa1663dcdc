# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole pair as one object: `ftvm pair` in a process of its own, watched through its status files.

For the demo and for users' own kill-and-failover tests (`ftvm.testing`): start it, kill parts of it, wait until it is
protected again, stop it. Everything goes through what an operator has: the command, signals, and the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ftvm.demo.kills import EIO
from ftvm.demo.nbd_client import Address, NbdClient, Outcome
from ftvm.demo.nbd_wire import Request, error_text
from ftvm.process import Process, children
from ftvm.service.nbd import VENDOR
from ftvm.state_dir import SIDES, StateDir
from ftvm.status import read_status

POLL_S = 0.01
LOG_SHOWN = 60  # lines


class PairFailed(Exception):
    """The pair did not do what was waited for; the message ends with its latest log lines."""


class PairProcess:
    """A running pair."""

    def __init__(self, machine: Path, state_dir: Path, options: Sequence[str] = ()) -> None:
        """`machine` is a machine file; `options` are further options of `ftvm pair`."""
        self.machine = machine
        self.state = StateDir(state_dir)
        self._options = list(options)
        self._log = state_dir.with_name(state_dir.name + ".log")
        self._launcher: subprocess.Popen[bytes] | None = None
        self._killed: list[Process] = []  # by this object, perhaps not dead yet

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, timeout_s: float = 20.0) -> None:
        """Start the launcher and wait until the pair is protected."""
        self.launch()
        self.wait_protected(timeout_s)

    def launch(self) -> None:
        """Start the launcher, without waiting for anything."""
        # -P: a source tree in the current directory must not stand in for the ftvm that is installed.
        command = [sys.executable, "-P", "-m", "ftvm.cli", "pair", str(self.machine)]
        command += ["--state-dir", str(self.state.path)]
        with self._log.open("ab") as log:
            self._launcher = subprocess.Popen(
                [*command, *self._options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self, timeout_s: float = 20.0) -> int:
        """End the pair in order; returns the launcher's exit code."""
        assert self._launcher is not None, "the pair was not started"
        self._launcher.send_signal(signal.SIGTERM)
        try:
            return self._launcher.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self._failed(f"the pair did not stop within {timeout_s:g} s") from None

    def close(self) -> None:
        """Leave no process behind, whatever state the pair is in."""
        started: list[Process] = []
        if self._launcher is not None and self._launcher.poll() is None:
            self._launcher.send_signal(signal.SIGSTOP)  # so that it starts nobody while its children are listed
            started = children(self._launcher.pid)
            self._launcher.kill()
            self._launcher.wait()
        while processes := [*self._processes(), *(process for process in started if process.alive)]:
            for process in processes:
                process.signal(signal.SIGKILL)
            time.sleep(POLL_S)

    def kill_launcher(self) -> None:
        """SIGKILL the launcher; the pair goes on."""
        assert self._launcher is not None
        self._launcher.kill()
        self._launcher.wait()

    @property
    def exit_code(self) -> int | None:
        """The launcher's exit code, None while it runs."""
        return None if self._launcher is None else self._launcher.poll()

    # -- what it is ---------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `ftvm status --json` shows."""
        return read_status(self.state)

    @property
    def addresses(self) -> list[str]:
        """Where clients find the block service."""
        return [str(address) for address in self.status()["services"]]

    def wait_protected(self, timeout_s: float = 20.0) -> None:
        """Return once a backup is in sync, and whatever was killed before is dead. TimeoutError in words."""
        try:
            self._until(self._protected, timeout_s, "the pair to be protected")
        except PairFailed as failed:
            raise TimeoutError(str(failed)) from None

    def primary_pid(self) -> int:
        """The process that is primary now; ProcessLookupError when there is none."""
        return self._pid("primary")

    def backup_pid(self) -> int:
        """The process that is backup now; ProcessLookupError when there is none."""
        return self._pid("backup")

    # -- what is done to it -------------------------------------------------------------------------------------

    def kill_primary(self) -> int:
        """SIGKILL the primary's process at once; returns its pid."""
        return self.signal("primary", signal.SIGKILL)

    def kill_backup(self) -> int:
        """SIGKILL the backup's process at once; returns its pid."""
        return self.signal("backup", signal.SIGKILL)

    def crash_driver(self, mode: int = 1) -> None:
        """Make the driver VM die (see `ftvm.demo.kills.WAYS_TO_DIE`); returns when the killing request was answered.

        The machine file must say `vendor = true` and have `crash=on` in the guest's command line.
        """
        asyncio.run(_crash(self.addresses[0], mode))

    def signal(self, role: str, number: signal.Signals) -> int:
        """Send a signal to the side in that role; returns its pid. ProcessLookupError when there is none."""
        process = Process.find(self._pid(role))
        if process is None or not process.signal(number):
            raise ProcessLookupError(f"the side that was {role} is gone")
        if number == signal.SIGKILL:
            self._killed.append(process)
        return process.pid

    def log(self) -> str:
        """The latest lines of the launcher and both sides; what the sides said without a launcher stands at the end."""
        shown = _last_lines(self._log, LOG_SHOWN)
        if self._launcher is not None and self._launcher.poll() is None:
            return "\n".join(shown)
        for side in SIDES:
            unseen = [line for line in _last_lines(self.state.side(side) / "side.log", LOG_SHOWN) if line not in shown]
            shown += [f"-- side {side}, after the launcher had ended:", *unseen] if unseen else []
        return "\n".join(shown)

    # -- inside -------------------------------------------------------------------------------------------------

    def _pid(self, role: str) -> int:
        for side in self.status()["sides"].values():
            if side["role"] == role and side["pid"] is not None:
                return int(side["pid"])
        raise ProcessLookupError(f"no side is {role} now")

    def _protected(self) -> bool:
        # A process may live on for a moment after its SIGKILL, and its word must not count.
        self._killed = [process for process in self._killed if process.alive]
        return not self._killed and bool(self.status()["protected"])

    def _processes(self) -> list[Process]:
        """Both sides' processes, also one that has only just been started: no file knows it yet."""
        wanted = (b"ftvm.pair.main", os.fsencode(self.state.path))
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                process = Process.find(int(path.parent.name)) if all(word in words for word in wanted) else None
                found += [process] if process is not None and process.alive else []
        return found

    def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            if self._launcher is not None and self._launcher.poll() is not None:
                raise self._failed(f"waiting for {what}: the launcher has ended with code {self._launcher.poll()}")
            if time.monotonic() > end:
                raise self._failed(f"waited {timeout_s:g} s for {what}")
            time.sleep(POLL_S)

    def _failed(self, text: str) -> PairFailed:
        return PairFailed(f"{text}\n{self.log()}")

    def __enter__(self) -> PairProcess:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(PairFailed):
            self.close()


def _last_lines(path: Path, count: int) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-count:] if path.exists() else []


async def _crash(address: str, mode: int) -> None:
    client = NbdClient(Address.parse(address))
    answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    await client.open()
    try:
        client.submit(Request(VENDOR, offset=mode), answered.set_result)
        client.flush()
        outcome = await answered
    finally:
        await client.close()
    if outcome.error != EIO:
        raise PairFailed(f"the killing request was answered with {error_text(outcome.error)} instead of EIO")
