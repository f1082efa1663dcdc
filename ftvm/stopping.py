# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends what runs in a state directory, by signals and by what it says of itself.

    a launcher lives (ftvm pair, ftvm run)   SIGTERM to it: it ends its sides
    sides alone, or the launcher is slow     SIGTERM to the primary: the guest's end reaches the backup through the log;
                                             then to whoever is left: a backup without a primary leaves
    a side held by SIGSTOP                   when it is fenced, SIGKILL: it can never do anything useful again;
                                             otherwise SIGCONT behind the SIGTERM, so that it hears of it

A stopped primary whose backup takes over meanwhile changes the roles: they are looked at again every turn. Nothing
that may be the newest holder of data is ever killed.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from ftvm.process import Process
from ftvm.say import Say
from ftvm.state_dir import SIDES, StateDir, read_json
from ftvm.status import read_status

TURN_S = 0.02
LAUNCHER_S = 1.0  # before its sides are asked directly
ORPHAN_S = 1.0  # for a backup without a primary to have heard of the end, or to take over
TELL_EVERY_S = 5.0


class Stopping:
    """One `ftvm stop`."""

    def __init__(self, state: StateDir, say: Say) -> None:
        self._state = state
        self._say = say
        self._asked: set[Process] = set()
        self._seen: dict[str, Process] = {}
        self._followers: set[str] = set()  # sides that were asked to leave a primary, not to end the guest
        self._orphaned = time.monotonic()  # since when there has been no primary

    def run(self, timeout_s: float) -> bool:
        """End it; False, told in words, when it did not end in order in time."""
        launcher, sides = self._state.launcher_process(), self._living()
        if launcher is None and not sides:
            self._say.info(f"{self._state.path} is not running")
            return True
        began = told = time.monotonic()
        while (now := time.monotonic()) < began + timeout_s:
            launcher, sides = self._state.launcher_process(), self._living()
            if launcher is None and not sides:
                return self._verdict()
            if launcher is not None:
                self._ask(launcher, "the launcher")
            if launcher is None or now - began > LAUNCHER_S:
                self._ask_sides(sides, now)
            if now - told > TELL_EVERY_S:
                told = now
                self._say.info(f"waiting for {self._list(launcher, sides)}")
            time.sleep(TURN_S)
        self._say.error(
            f"{self._list(self._state.launcher_process(), self._living())} did not end within {timeout_s:g} s: wait "
            "longer (--timeout), or end it with kill -KILL; then the next start goes on from the newest disk images"
        )
        return False

    def _living(self) -> dict[str, Process]:
        found = {}
        for side in SIDES:
            process = Process.load(read_json(self._state.status(side)).get("process"))
            if process is not None and process.alive:
                found[side] = self._seen[side] = process
        return found

    def _ask_sides(self, sides: dict[str, Process], now: float) -> None:
        if not sides:
            return
        shown: dict[str, Any] = read_status(self._state)["sides"]
        roles = {side: str(shown[side]["role"]) for side in sides}
        if "primary" in roles.values():
            self._orphaned = now
        for side, process in sides.items():
            role = roles[side]
            if role == "fenced" and process.stopped:
                self._say.info(f"killing side {side} (process {process.pid}): it is fenced, and held by SIGSTOP")
                process.signal(signal.SIGKILL)
            elif role in ("primary", "joining") or now > self._orphaned + ORPHAN_S:
                if process not in self._asked and role in ("joining", "backup"):
                    self._followers.add(side)
                self._ask(process, f"side {side}, {role}")

    def _ask(self, process: Process, what: str) -> None:
        if process not in self._asked:
            self._asked.add(process)
            self._say.info(f"stopping {what} (process {process.pid})")
            process.signal(signal.SIGTERM)
        if process.stopped:
            process.signal(signal.SIGCONT)

    def _list(self, launcher: Process | None, sides: dict[str, Process]) -> str:
        named = [f"side {side} (process {process.pid})" for side, process in sides.items()]
        if launcher is not None and launcher not in sides.values():
            named.insert(0, f"the launcher (process {launcher.pid})")
        return ", ".join(named) or "nothing"

    def _verdict(self) -> bool:
        """All processes are gone: in order, when the last live side has put the guest's end on record."""
        notes = {side: read_json(self._state.status(side)) for side in self._seen}
        last = max((note.get("term", 0) for note in notes.values()), default=0)
        if any(self._in_order(side, note) for side, note in notes.items() if note.get("term", 0) == last):
            self._say.info("it has ended")
            return True
        self._say.error("all processes are gone, but not in order: the last live side was killed, or has failed")
        return False

    def _in_order(self, side: str, note: dict[str, Any]) -> bool:
        """The guest ended and this side knows, or it followed and left."""
        return bool(note.get("finished")) or (side in self._followers and note.get("role") == "stopped")
