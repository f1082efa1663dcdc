# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair of stock Linux on two hosts of the lab, whose live side is killed again and again.

    live on a, backup on b --kill()--> live on b, alone --rejoin()--> live on b, backup on a --kill()--> ...

What a connection of the client's notices is counted by the client's kernel (`timeouts`: its retransmission timers that
went off) and by whoever reads from it (`Gaps`).
"""

from __future__ import annotations

import itertools
import subprocess
import time
from dataclasses import dataclass, field

from ftvm.config_keys import write_keys
from ftvm.state_dir import StateDir, read_json
from tests.commands.workshop import Running, Workshop, role

from .lab import ADDRESS, Lab
from .linux_guest import READY, machine

BOOT_S = 300
PAIR = """\
[pair]
listen = "{address}:7700"
arbiter = "file:{directory}/arbiter"
keys = "{directory}/pair.keys"
"""


class TwoHosts:
    """The pair."""

    def __init__(self, lab: Lab, work: Workshop) -> None:
        self.lab, self.work = lab, work
        self.live = "a"
        self.live_after_s = 0.0  # from the latest kill until the status file of the other side said so
        self.states: dict[str, StateDir] = {}
        self._machines = {}
        self._running: dict[str, Running] = {}
        self._starts = 0
        write_keys(work.directory / "pair.keys")
        common = machine(work.directory, "tap:vm0")
        for host in "ab":
            text = common + PAIR.format(address=ADDRESS[host], directory=work.directory)
            self._machines[host] = work.machine(text, f"host-{host}")
            self.states[host] = work.state(f"state-{host}")

    def start(self) -> None:
        """Boot on host a; protected by host b when this returns."""
        self._start("a", "primary", "--unprotected")
        console = self.states["a"].path / "console.log"
        self.work.until(
            lambda: console.exists() and READY in console.read_text(errors="replace"), "Linux to serve", BOOT_S
        )
        self.rejoin()

    @property
    def other(self) -> str:
        """The host that is not live."""
        return "b" if self.live == "a" else "a"

    @property
    def protected(self) -> bool:
        """Whether the live side has a backup."""
        return self._says("protected") is True and self.other in self._running

    def kill(self) -> float:
        """SIGKILL of the live side; returns when, once the other one is live."""
        victim = self._running.pop(self.live)
        at = time.monotonic()
        victim.kill()
        self.live = self.other
        self.work.until(lambda: role(self.states[self.live], self.live) == "primary", f"host {self.live} to be live")
        self.live_after_s = time.monotonic() - at
        return at

    def rejoin(self) -> None:
        """A new backup on the other host; protected when this returns."""
        self._start(self.other, "backup", "--join", f"{ADDRESS[self.live]}:7700")
        self.work.until(lambda: self.protected, "the pair to be protected", 60)

    def network(self) -> dict[str, object]:
        """What the live side says of its network."""
        found: dict[str, object] = self._says("networks")[0]  # type: ignore[index]
        return found

    def timeouts(self) -> int:
        """Retransmission timeouts of the client's TCP, ever."""
        text = subprocess.run(
            [*self.lab.on("client"), "cat", "/proc/net/netstat"], capture_output=True, text=True, check=True
        ).stdout
        names, values = (line.split() for line in text.splitlines() if line.startswith("TcpExt:"))
        return int(values[names.index("TCPTimeouts")])

    def _says(self, field: str) -> object:
        return read_json(self.states[self.live].status(self.live)).get(field)

    def _start(self, host: str, command: str, *options: object) -> None:
        self._starts += 1
        self._running[host] = self.work.start(
            command, self._machines[host], *options, "--member", host, "--state-dir", self.states[host].path,
            name=f"host-{host}-{self._starts}", prefix=self.lab.on(host),
        )  # fmt: skip


@dataclass
class Gaps:
    """When something was heard, and how long nothing was."""

    heard: list[float] = field(default_factory=list)

    def hear(self) -> None:
        """Something has come just now."""
        self.heard.append(time.monotonic())

    def longest_ms(self, since: float = 0.0) -> float:
        """The longest silence that ended after `since`."""
        pairs = [(after - before) for before, after in itertools.pairwise(self.heard) if after > since]
        return max(pairs, default=0.0) * 1e3
