# SPDX-License-Identifier: GPL-2.0-or-later
"""`passt` processes: who starts them, what they are told, and how they end.

passt(1) connects a guest to the host's own connections, without privileges. It listens on a Unix socket in the state
directory for the side that is live. A connection of the guest's lives in passt, so passt must outlive a side that is
killed: the launcher of a pair owns it, and a launcher that adopts a pair finds it by the note in passtN.json. A side in
the foreground (`ftvm run`) has a passt of its own that ends with the connection.

The guest's address is that of QEMU's user networking, 10.0.2.15/24 behind 10.0.2.2, and it stays so whatever the host's
is, since the pair's other side may be on another host.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ftvm.config import MachineConfig
from ftvm.config_error import ConfigError
from ftvm.process import Process
from ftvm.state_dir import read_json, write_atomically

ADDRESS, MASK, GATEWAY = "10.0.2.15", "24", "10.0.2.2"
START_S: Final = 5.0
AGAIN_S: Final = 1.0


def socket_path(state: Path, unit: int) -> Path:
    """Where the passt of card `unit` listens."""
    return state / f"passt{unit}.sock"


class PasstKeeper:
    """The passt processes of one machine's networks."""

    def __init__(self, config: MachineConfig, state: Path, say: Callable[[str], None], one_off: bool = False) -> None:
        """`one_off`: each ends when the side that is connected to it does."""
        self._state = state
        self._say = say
        self._one_off = one_off
        self._forward = {
            unit: network.forward
            for unit, network in enumerate(config.network)
            if network.backend.kind == "passt" and not network.backend.argument
        }
        self._processes: dict[int, Process] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        self._again_at = 0.0

    def start(self) -> None:
        """Take over those that run, start the others; ConfigError in words."""
        for unit in self._forward:
            process = Process.load(read_json(self._note(unit)))
            if process is not None and process.alive:
                self._processes[unit] = process
            else:
                self._spawn(unit)

    def tick(self) -> None:
        """Start again what has died."""
        for child in self._children:
            child.poll()  # so that it is no zombie
        now = time.monotonic()
        for unit, process in self._processes.items():
            if not process.alive and now >= self._again_at:
                self._again_at = now + AGAIN_S
                self._say(f"network {unit}: passt has died; starting another, connections through it are lost")
                with suppress(ConfigError):
                    self._spawn(unit)

    def stop(self) -> None:
        """End them, whoever started them."""
        for unit in self._forward:
            process = Process.load(read_json(self._note(unit)))
            if process is not None:
                process.signal(signal.SIGTERM)
            self._note(unit).unlink(missing_ok=True)
            socket_path(self._state, unit).unlink(missing_ok=True)
        for child in self._children:
            child.wait()
        self._processes.clear()

    def _spawn(self, unit: int) -> None:
        program = shutil.which("passt")
        if program is None:
            raise ConfigError(f'network[{unit}].backend: "passt" needs the program passt (apt install passt)')
        path = socket_path(self._state, unit)
        path.unlink(missing_ok=True)
        log = self._state / f"passt{unit}.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [program, *self._options(unit)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._state,
                start_new_session=True,
            )
        self._children.append(child)
        process = Process.find(child.pid)
        assert process is not None, "a child that was not waited for has a pid"
        end = time.monotonic() + START_S
        while not path.exists():
            if child.poll() is not None or time.monotonic() > end:
                child.kill()
                said = [line for line in log.read_text(errors="replace").splitlines() if "syslog" not in line]
                raise ConfigError(f"network[{unit}]: passt did not start: {(said or ['it said nothing'])[-1]}")
            time.sleep(0.002)
        write_atomically(self._note(unit), json.dumps(process.save()).encode())
        self._processes[unit] = process

    def _options(self, unit: int) -> list[str]:
        options = ["--foreground", "--stderr", "--socket", socket_path(self._state, unit).name, "--ipv4-only"]
        options += ["--address", ADDRESS, "--netmask", MASK, "--gateway", GATEWAY]
        options += ["--runas", str(os.getuid())] if os.getuid() == 0 else []
        options += ["--one-off"] if self._one_off else []
        for forward in self._forward[unit]:
            option = "--tcp-ports" if forward.protocol == "tcp" else "--udp-ports"
            options += [option, f"{forward.address}/{forward.port}:{forward.guest_port}"]
        return options

    def _note(self, unit: int) -> Path:
        return self._state / f"passt{unit}.json"
