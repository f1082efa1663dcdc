# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands as processes, in a directory of their own: started, watched, and gone when the test is over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ftvm.state_dir import SIDES, StateDir
from ftvm.status import read_status

POLL_S = 0.01
WAIT_S = 12.0
FTVM = (sys.executable, "-m", "ftvm.cli")


class Running:
    """One command in the background; what it prints goes to files."""

    def __init__(self, name: str, command: Sequence[str], directory: Path, stdin: int) -> None:
        self.name = name
        self._out, self._err = directory / f"{name}.out", directory / f"{name}.err"
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self.process = subprocess.Popen(command, stdin=stdin, stdout=out, stderr=err, cwd=directory)

    @property
    def stdout(self) -> str:
        """All that came on standard output so far."""
        return self._out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """All that came on standard error so far."""
        return self._err.read_text(errors="replace")

    def wait(self, seconds: float = WAIT_S) -> int:
        """The exit code; negative for a signal."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, and until it is gone."""
        self.process.kill()
        self.process.wait()


class Workshop:
    """Where a test's machine files, state directories and logs are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: list[Running] = []
        self.states: list[StateDir] = []

    def machine(self, text: str, name: str = "machine") -> Path:
        """A machine file."""
        path = self.directory / f"{name}.toml"
        path.write_text(text)
        return path

    def state(self, name: str) -> StateDir:
        """A state directory; whatever runs in it is ended with the test."""
        state = StateDir(self.directory / name)
        self.states.append(state)
        return state

    def start(
        self, *arguments: object, name: str = "", prefix: Sequence[str] = (), stdin: int = subprocess.DEVNULL
    ) -> Running:
        """`ftvm ARGUMENTS` in the background."""
        command = [*prefix, *FTVM, *map(str, arguments)]
        running = Running(name or f"{arguments[0]}{len(self.running)}", command, self.directory, stdin)
        self.running.append(running)
        return running

    def call(self, *arguments: object, seconds: float = WAIT_S) -> subprocess.CompletedProcess[str]:
        """`ftvm ARGUMENTS` to its end."""
        return subprocess.run(
            [*FTVM, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.directory,
            check=False,
        )

    def until(self, condition: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
        """Wait until something is so; AssertionError with everybody's last lines when it does not become so."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}\n{self.story()}"
            time.sleep(POLL_S)

    def story(self) -> str:
        """What all commands and sides have said."""
        parts = [f"-- {running.name}:\n{running.stderr}{running.stdout[-2000:]}" for running in self.running]
        for state in self.states:
            logs = [state.side(side) / "side.log" for side in SIDES]
            parts += [f"-- {log}:\n{log.read_text(errors='replace')}" for log in logs if log.exists()]
        return "\n".join(parts)

    def close(self) -> None:
        """Nothing that was started here lives any longer."""
        for running in self.running:
            if running.process.poll() is None:
                running.kill()
        for state in self.states:
            for side in read_status(state)["sides"].values():
                if side["pid"] is not None:
                    subprocess.run(["kill", "-KILL", str(side["pid"])], check=False)


def role(state: StateDir, side: str) -> str:
    """What `ftvm status` calls a side."""
    return str(read_status(state)["sides"][side]["role"])


def serves(state: StateDir) -> bool:
    """Whether a live side has opened its services."""
    return bool(read_status(state)["services"])


def reported(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a command with --json printed."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found
