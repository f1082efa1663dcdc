# SPDX-License-Identifier: GPL-2.0-or-later
"""A spare process: Python and all libraries loaded, waiting to become a side. Most of a joiner's start is that loading.

    launcher                                spare (`python -m ftvm.pair.main --spare FD --state-dir STATE`)
    start, some time after it is needed  -> loads, says READY
    {arguments} and descriptors          -> becomes that side: its stdout and stderr, then `main(arguments)`
    closed, killed                       -> sees the end of the connection and exits

Until it has its arguments it knows no side, holds no lock and no socket of a service, and writes nothing; so it is
never taken for a side, and ends with its launcher. It has nothing that a fresh process would not have: whatever goes
wrong with it, the launcher starts a fresh one.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

READY: Final = b"\n"
ARGUMENTS_MAX: Final = 1 << 16
DESCRIPTORS_MAX: Final = 64
COMMAND: Final = (sys.executable, "-P", "-m", "ftvm.pair.main")


class Log(Protocol):
    """An open file."""

    def fileno(self) -> int: ...


class Spare:
    """The launcher's half; at most one process."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._child: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._ready = False

    def start(self) -> None:
        """Start one unless there is one."""
        if self._child is not None:
            if self._child.poll() is None:
                return
            self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._child = subprocess.Popen(
                [*COMMAND, "--spare", str(theirs.fileno()), "--state-dir", str(self._state)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd=os.path.sep,
            )
        ours.setblocking(False)
        self._end = ours

    def take(self, arguments: Sequence[str], services: Sequence[int], log: Log) -> subprocess.Popen[bytes] | None:
        """Let it become a side, in the place of a new process; None when there is none that is ready."""
        child, end = self._child, self._end
        if child is None or end is None or not self._is_ready(end):
            return None
        text = json.dumps(list(arguments)).encode()
        assert len(text) < ARGUMENTS_MAX and len(services) + 1 <= DESCRIPTORS_MAX
        try:
            sent = socket.send_fds(end, [text], [log.fileno(), *services])
        except OSError:
            sent = 0
        self._child = self._end = None
        self._ready = False
        end.close()
        if sent == len(text):
            return child
        child.kill()  # dead already, or it has heard half of what it was told
        child.wait()
        return None

    def close(self) -> None:
        """End it."""
        if self._end is not None:
            self._end.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._child = self._end = None
        self._ready = False

    def _is_ready(self, end: socket.socket) -> bool:
        if not self._ready:
            try:
                self._ready = end.recv(1) == READY
            except OSError:
                return False
        return self._ready


def wait(descriptor: int, run: Callable[[list[str], Sequence[int]], int]) -> int:
    """The spare's half: become what the launcher says, with the service's descriptors; 0 when it says nothing."""
    with socket.socket(fileno=descriptor) as end:
        try:
            end.sendall(READY)
            text, descriptors, _, _ = socket.recv_fds(end, ARGUMENTS_MAX, DESCRIPTORS_MAX)
        except OSError:
            return 0
    if not text or not descriptors:
        return 0
    log, *services = descriptors
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    return run(json.loads(text), services)
