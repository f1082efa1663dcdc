# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process: a pid alone is reused, a pid with its start time and boot is one process for ever.

Files in a state directory name processes that may be long dead, on a machine that was restarted since. Signals go
through a pidfd, checked after it was opened, so that none ever reaches a stranger.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_STATE, _PARENT, _START = 0, 1, 19  # fields of /proc/PID/stat after the command's name; start time in clock ticks


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one boot of this host."""

    pid: int
    start: int
    boot: str

    @classmethod
    def current(cls) -> Process:
        """This process."""
        process = cls.find(os.getpid())
        assert process is not None
        return process

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """The process that has `pid` now, or None."""
        fields = _stat(pid)
        return None if fields is None else cls(pid, int(fields[_START]), boot_id())

    @classmethod
    def load(cls, saved: object) -> Process | None:
        """The process that `save` described, or None when that is no such description."""
        if not isinstance(saved, dict):
            return None
        pid, start, boot = saved.get("pid"), saved.get("start"), saved.get("boot")
        if not isinstance(pid, int) or not isinstance(start, int) or not isinstance(boot, str) or not 0 < pid < 1 << 31:
            return None
        return cls(pid, start, boot)

    def save(self) -> dict[str, int | str]:
        """For a file."""
        return {"pid": self.pid, "start": self.start, "boot": self.boot}

    @property
    def state(self) -> str:
        """The kernel's letter: R, S, D (in the kernel), T or t (stopped); empty when dead or only a zombie is left."""
        fields = _stat(self.pid) if self.boot == boot_id() else None
        if fields is None or int(fields[_START]) != self.start or fields[_STATE] in "ZX":
            return ""
        return fields[_STATE]

    @property
    def alive(self) -> bool:
        """True while it can still do anything, now or after a SIGCONT."""
        return self.state != ""

    @property
    def stopped(self) -> bool:
        """True while it is held by SIGSTOP or a debugger."""
        return self.state in ("T", "t")

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to exactly this process; False when it is dead already."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive:  # the descriptor may name a later process with the same pid
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


def children(pid: int) -> list[Process]:
    """The living children of a process."""
    found = []
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdigit() else None
        if fields is not None and int(fields[_PARENT]) == pid and (child := Process.find(int(name))) is not None:
            found.append(child)
    return found


@cache
def boot_id() -> str:
    """Changes with every boot of the host."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may hold anything, spaces and parentheses included.
    fields = text.rpartition(b")")[2].decode("ascii", "replace").split()
    return fields if len(fields) > _START else None
