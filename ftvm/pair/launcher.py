# SPDX-License-Identifier: GPL-2.0-or-later
"""The host process of `ftvm pair`: starts two sides, fences the one that a term has passed, replaces what died.

    every turn   a new grant of the arbiter  ->  SIGKILL to the side that it passes: to a primary at once, so that its
                                                 connections reset, to a backup that runs after a grace period, since
                                                 it has none, and may have a state to keep (divergence)
                 a side has ended in order   ->  wait for the other, done
                 a side has died             ->  start a joiner in its place, as soon as there is a primary to join
                 only a joiner is left       ->  nobody will ever answer it: ended
                 both have died              ->  told, exit 1

The pair does not depend on it: detection, arbitration and going live happen between the sides. A launcher that is
killed leaves them running; the next one on the same directory adopts them. Sides are sessions of their own, write
their lines to a file each, and this process prints them as they come.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftvm.arbiter.arbiter import ArbiterError, Grant
from ftvm.checkpointing import SIZE_MAX
from ftvm.config import MachineConfig
from ftvm.pair import side_log
from ftvm.pair.cold_start import arbiter_of, first_primary
from ftvm.pair.side import ExitCode
from ftvm.pair.side_log import Tail
from ftvm.pair.spare import COMMAND, Spare
from ftvm.process import Process
from ftvm.say import Say
from ftvm.state_dir import SIDES, StateDir, read_json
from ftvm.world.network.check import check_networks
from ftvm.world.network.passt import PasstKeeper

TURN_S = 0.01
SPARE_AFTER_S = 1.0  # a process that is being loaded takes processor time from one that joins
GRACE_S = 5.0
RESPAWN_MIN_S = 0.2
RESPAWN_MAX_S = 10.0
SHORT_LIFE_S = 5.0
BACKUP_GRACE_S = 2.0
ORPHAN_S = 2.0  # surely longer than a status file is behind its side


@dataclass(slots=True)
class SideProcess:
    """A side's process as the launcher sees it."""

    member: str
    process: Process
    term: int  # the latest grant when it was started or adopted
    child: subprocess.Popen[bytes] | None  # None when adopted
    started: float
    fence_at: float | None = None  # when its grace ends, after a term has passed it

    def exit_code(self) -> int | None:
        """None while it lives; for an adopted process that is gone, nobody knows: -1."""
        if self.child is not None:
            return self.child.poll()
        return None if self.process.alive else -1


class Launcher:
    """Keeps one pair going."""

    def __init__(
        self,
        state: StateDir,
        config: MachineConfig,
        say: Say,
        services: Callable[[], Sequence[socket.socket]],
        record: Path | None = None,
        unprotected: bool = False,
        log_json: bool = False,
        checkpoints: int = SIZE_MAX,
    ) -> None:
        """`services` opens the listening sockets, or gets them from a living side."""
        self._checkpoints = checkpoints
        self.state = state
        self.config = config
        self._say = say
        self._arbiter = arbiter_of(config, state)
        self._open = services
        self._services: Sequence[socket.socket] = ()
        self._record = record
        self._unprotected = unprotected
        self._log_json = log_json
        self._sides: dict[str, SideProcess] = {}
        self._delay = dict.fromkeys(SIDES, RESPAWN_MIN_S)
        self._spawn_at = dict.fromkeys(SIDES, 0.0)
        self._term = 0
        self._winner = ""  # of that term
        self._stop_at: float | None = None
        self._stopped_backup = False
        self._orphaned_since: float | None = None
        self._finished = False  # the guest has ended in order, or has failed: as a side saw it
        self._failure = ""
        self._tails = {side: Tail(self.state.side(side)) for side in SIDES}
        self._warned = ""
        self._passt = PasstKeeper(config, state.path, say.warning)
        self._spare = Spare(state.path)
        self._spare_at = 0.0

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until the guest has ended or both sides are gone; returns the command's exit code."""
        try:
            return self._run()
        finally:
            self._spare.close()

    def _run(self) -> int:
        self._adopt()
        self._services = self._open()
        if not self._sides:
            check_networks(self.config, self.state.path, self._say.warning)
        self._passt.start()
        if not self._sides:
            self._follow(self._first_look())
            self._spawn(first_primary(self.config, self.state), None)
        while True:
            self._print()
            self._fence()
            self._reap()
            if not self._sides:
                self._print()
                self._passt.stop()
                return self._last_word()
            if self._stop_at is not None:
                self._press()
            else:
                self._passt.tick()
                self._replace()
                self._keep_spare()
                self._end_orphans()
            time.sleep(TURN_S)

    def stop(self) -> None:
        """End the pair in order; safe to call from a signal handler."""
        if self._stop_at is None:
            self._stop_at = time.monotonic()

    def _adopt(self) -> None:
        self._follow(self._first_look())
        for side in SIDES:
            if self._adopt_side(side):
                self._tails[side].skip()
        if self._sides:
            self._adopt_recording([self._said(side).get("record") for side in self._sides.values()])

    def _adopt_side(self, side: str) -> bool:
        process = self.state.side_process(side)
        if process is None:
            return False
        self._say.info(f"adopting side {side}, process {process.pid}")
        self._sides[side] = SideProcess(side, process, self._term, None, time.monotonic())
        return True

    def _adopt_recording(self, records: list[object]) -> None:
        """What living sides record, later ones go on recording, whatever this launcher was told."""
        record = next((Path(record) for record in records if isinstance(record, str)), None)
        if self._record not in (None, record):
            does = f"records to {record}" if record is not None else "is running without a recording"
            self._say.warning(f"--record {self._record} has no effect: the pair {does}; stop it to change that")
        self._record = record

    def _fence(self) -> None:
        now, before, grant = time.monotonic(), self._winner, self._latest()
        if grant is not None and grant.term != self._term:
            self._follow(grant)
            for side in self._sides.values():
                if side.member != grant.winner and side.term < grant.term and not self._joining(side):
                    waits = side.member != before and not side.process.stopped
                    side.fence_at = now + BACKUP_GRACE_S if waits else now
                side.term = grant.term
        for side in self._sides.values():
            if side.fence_at is not None and now >= side.fence_at and side.exit_code() is None:
                side.fence_at = None
                assert side.member != self._winner, "a side that a term has passed wins no later one"
                self._say.info(f"fencing side {side.member}: term {self._term} was granted to side {self._winner}")
                side.process.signal(signal.SIGKILL)

    def _follow(self, grant: Grant | None) -> None:
        if grant is not None:
            self._term, self._winner = grant.term, grant.winner

    def _joining(self, side: SideProcess) -> bool:
        """A joiner was never in sync, so no term can pass it; nor one that has not said anything yet."""
        return self._said(side).get("role") in ("joining", None)

    def _said(self, side: SideProcess) -> dict[str, Any]:
        """The side's status file, empty when another process wrote it."""
        fields = read_json(self.state.status(side.member))
        return fields if Process.load(fields.get("process")) == side.process else {}

    def _reap(self) -> None:
        for member, side in list(self._sides.items()):
            code = side.exit_code()
            if code is None:
                continue
            del self._sides[member]
            if code == ExitCode.FAILED and self._adopt_side(member):
                continue  # one that an earlier launcher had just started, when it was killed, was first
            fields = self._said(side)
            self._schedule(side, useful=bool(fields.get("term")))
            if code in (ExitCode.DONE, ExitCode.GUEST_FAILED) or fields.get("finished"):
                self._failure = self._failure or str(fields.get("failure") or "")
                self._finished = True
                self._wait_for_the_other()
            elif self._stop_at is None:
                self._say.warning(f"side {member} (process {side.process.pid}) has {_end(code)}")

    def _schedule(self, side: SideProcess, useful: bool) -> None:
        """When to start the next one: at once, but ever later while joiners die before they are in sync."""
        now, member = time.monotonic(), side.member
        fruitless = not useful and now - side.started < SHORT_LIFE_S
        self._delay[member] = min(RESPAWN_MAX_S, self._delay[member] * 2) if fruitless else RESPAWN_MIN_S
        self._spawn_at[member] = now + (self._delay[member] if fruitless else 0.0)

    def _wait_for_the_other(self) -> None:
        """The guest has ended on one side: the other one has it in its log."""
        if self._stop_at is None:
            self._stop_at = time.monotonic()
            self._stopped_backup = True

    def _replace(self) -> None:
        """Start a joiner for a side that is gone, when there is a primary that it can join."""
        now = time.monotonic()
        for member in SIDES:
            if member in self._sides or now < self._spawn_at[member]:
                continue
            address = self._channel_of_primary()
            if address is not None:
                self._spawn(member, address)

    def _end_orphans(self) -> None:
        """A joiner that is left alone was started to join a primary that was just dying: it would dial for ever."""
        now, said = time.monotonic(), [self._said(side) for side in self._sides.values()]
        fresh = all(now - float(fields.get("updated") or 0.0) < ORPHAN_S / 2 for fields in said)
        if not (fresh and all(fields.get("role") == "joining" for fields in said)):
            self._orphaned_since = None
        elif self._orphaned_since is None:
            self._orphaned_since = now
        elif now - self._orphaned_since > ORPHAN_S:
            for side in self._sides.values():
                self._say.info(f"ending side {side.member}: nobody is left whom it could join")
                side.process.signal(signal.SIGTERM)
            self._orphaned_since = now

    def _channel_of_primary(self) -> str | None:
        for side in self._sides.values():
            fields = self._said(side)
            if fields.get("role") == "primary" and fields.get("term") == self._term:
                channel = fields.get("channel")
                return channel if isinstance(channel, str) else None
        return None

    def _press(self) -> None:
        """The pair is to end: ask the primary, then everybody, then insist."""
        assert self._stop_at is not None
        waited = time.monotonic() - self._stop_at
        if not self._stopped_backup:
            self._stopped_backup = True
            self._say.info("stopping")
            for side in self._sides.values():
                if self._said(side).get("role") in ("primary", "joining", None):
                    side.process.signal(signal.SIGTERM)
        if waited > GRACE_S:
            for side in self._sides.values():
                side.process.signal(signal.SIGTERM if waited < 2 * GRACE_S else signal.SIGKILL)
            time.sleep(0.1)

    def _last_word(self) -> int:
        if self._failure:
            self._say.error(f"the guest has failed: {self._failure}")
            return 1
        if self._stop_at is not None and self._finished:
            self._say.info("the pair has ended")
            return 0
        if self._stop_at is not None:
            self._say.warning("the pair was stopped, but not in order")
            return 1
        self._say.error("both sides are gone; start the pair again, it goes on from the newest images")
        return 1

    # -- processes ----------------------------------------------------------------------------------------------

    def _spawn(self, member: str, join: str | None) -> None:
        arguments = ["--state-dir", str(self.state.path), "--member", member]
        arguments += ["--join", join] if join is not None else []
        if self._record is not None:
            arguments += ["--record", str(self._record), "--checkpoints", str(self._checkpoints)]
        arguments += ["--unprotected"] if self._unprotected else []
        arguments += ["--log-json"] if self._log_json else []
        descriptors = [sock.fileno() for sock in self._services]
        with (self.state.side(member) / side_log.NAME).open("ab") as log:
            child = self._spare.take(arguments, descriptors, log)
            if child is None:
                child = subprocess.Popen(
                    [*COMMAND, *arguments, "--services", ",".join(map(str, descriptors))],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=descriptors,
                    start_new_session=True,
                    cwd=os.path.sep,
                )
        self._spare_at = time.monotonic() + SPARE_AFTER_S
        process = Process.find(child.pid)
        assert process is not None, "a child that was not waited for has a pid"
        self._sides[member] = SideProcess(member, process, self._term, child, time.monotonic())

    def _print(self) -> None:
        for tail in self._tails.values():
            if lines := tail.read():
                sys.stderr.buffer.write(lines)
                sys.stderr.flush()

    def _keep_spare(self) -> None:
        """Once the pair is whole, and nobody is in a hurry, load the process of the next joiner."""
        if time.monotonic() >= self._spare_at and len(self._sides) == len(SIDES):
            self._spare.start()
            self._spare_at = time.monotonic() + SPARE_AFTER_S

    # -- arbiter ------------------------------------------------------------------------------------------------

    def _latest(self) -> Grant | None:
        try:
            return self._arbiter.latest()
        except ArbiterError as error:
            if str(error) != self._warned:
                self._warned = str(error)
                self._say.warning(self._warned)
            return None

    def _first_look(self) -> Grant | None:
        return self._arbiter.latest() if self._arbiter.path.exists() else None


def _end(code: int) -> str:
    if code < -1:
        return f"been killed by {signal.Signals(-code).name}"
    if code == -1:
        return "died"
    names: dict[int, str] = {ExitCode.FAILED: "failed", ExitCode.FENCED: "been fenced", ExitCode.LEFT: "left the pair"}
    return names.get(code, f"ended with code {code}")
