# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pair says of itself: each side writes its own file, and a reader puts them together without asking anybody.

A side's word about its role is only a claim. A process that was stopped in mid-air still claims what it was; the file
of a killed one stays. So a reader checks every claim against the process table and against the arbiter, and shows

    primary   the living winner of the latest term; never two
    backup    a living side in sync in the latest term, which may go live
    joining   a living side that is not in sync yet
    fenced    a living side that the arbiter has passed over, or that gave up; it will not come back by itself
    stopped   no living process

Reading takes files and /proc only, and bounds the time that the arbiter's storage may take: it answers within a second
whatever state the sides are in.
"""

from __future__ import annotations

import json
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftvm.alarms import Alarms
from ftvm.arbiter.arbiter import ArbiterError, Grant
from ftvm.arbiter.file import FileArbiter
from ftvm.process import Process
from ftvm.state_dir import SIDES, StateDir, read_json, write_atomically

PERIOD_S = 0.2
RATE_WINDOW_S = 1.0
SILENT_S = 2.0  # a side that has not written for so long does not respond
ARBITER_WAIT_S = 0.4
ROLES = ("primary", "backup", "joining", "fenced", "stopped")
FIGURES = ("sequence", "acked", "executed", "durable", "lag_ms", "clock", "log_bytes_per_s")

_URGENT = ("role", "term", "protected", "alarms", "services", "channel")


class StatusWriter:
    """Writes one side's status file, at most every 200 ms, and at once when its role, term or alarms change.

    `now` is `time.monotonic()`, which all processes of a host share. Fields are the names in FIGURES and `role`,
    `term`, `protected`, `alarms`, `services`, or anything else that JSON can hold. `log_bytes`, a running total,
    becomes `log_bytes_per_s`.
    """

    def __init__(self, state: StateDir, side: str, name: str, background: bool = False) -> None:
        """With `background`, what is not urgent is written by a thread: a rename may take milliseconds."""
        self._path = state.status(side)
        self._thread = _LatestWriter(self._write) if background else None
        self._fields: dict[str, Any] = {"name": name, "side": side, "process": Process.current().save()}
        self._due = float("-inf")
        self._rate_since = float("-inf")
        self._rate_bytes = 0

    def due(self, now: float) -> bool:
        """True when an update would be written: what is costly to collect need not be collected before."""
        return now >= self._due

    def update(self, now: float, **fields: Any) -> None:
        """Take what has changed; unnamed fields keep their values. Never fails: a full disk must not stop a side."""
        urgent = any(name in fields and fields[name] != self._fields.get(name) for name in _URGENT)
        self._fields.update(fields)
        if not urgent and now < self._due:
            return
        self._due = now + PERIOD_S
        self._measure(now)
        self._fields["updated"] = now
        content = json.dumps(self._fields, separators=(",", ":")).encode()
        if self._thread is None:
            self._write(content)
        else:
            self._thread.put(content, wait=urgent)

    def _write(self, content: bytes) -> None:
        try:
            write_atomically(self._path, content)
        except OSError:
            self._due += 10 * PERIOD_S

    def _measure(self, now: float) -> None:
        total = self._fields.get("log_bytes")
        if total is None or now - self._rate_since < RATE_WINDOW_S:
            return
        elapsed = now - self._rate_since
        self._fields["log_bytes_per_s"] = round((total - self._rate_bytes) / elapsed) if elapsed < 1e9 else 0
        self._rate_since, self._rate_bytes = now, total


class _LatestWriter:
    """A thread that writes the latest content that it was given; older ones that it did not come to are skipped."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._given = self._written = 0
        self._content = b""
        threading.Thread(target=self._run, name="status", daemon=True).start()

    def put(self, content: bytes, wait: bool) -> None:
        """Write this, and return when it is written if `wait`."""
        with self._changed:
            self._given += 1
            mine, self._content = self._given, content
            self._changed.notify_all()
            while wait and self._written < mine:
                self._changed.wait()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._written == self._given:
                    self._changed.wait()
                number, content = self._given, self._content
            self._write(content)
            with self._changed:
                self._written = number
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Claim:
    """What one side says, and whether there is a process that could have said it."""

    side: str
    fields: dict[str, Any]
    process: Process | None  # None when it is dead or never was

    @property
    def role(self) -> str:
        said = self.fields.get("role")
        return said if self.process is not None and said in ROLES else "stopped"

    @property
    def term(self) -> int:
        said = self.fields.get("term", 0)
        return said if isinstance(said, int) else 0


def shown_roles(claims: list[Claim], grant: Grant | None) -> dict[str, str]:
    """The role of each side, by its claim and the arbiter's latest grant; at most one is `primary`.

    Without a grant to go by (arbiter out of reach) the claim of the highest term counts.
    """
    if grant is None:
        terms = [claim.term for claim in claims if claim.role == "primary"]
        first = next((claim.side for claim in claims if claim.role == "primary" and claim.term == max(terms)), None)
        return {
            claim.side: "fenced" if claim.role == "primary" and claim.side != first else claim.role for claim in claims
        }
    return {claim.side: _role_under(claim, grant) for claim in claims}


def _role_under(claim: Claim, grant: Grant) -> str:
    won = claim.side == grant.winner
    if claim.role == "primary":
        # The winner of the next term shows it before its file says so: it is the same process, only later.
        return "primary" if won and claim.term <= grant.term else "fenced"
    if claim.role == "backup":
        if won:
            return "primary" if claim.term < grant.term else "backup"
        return "backup" if claim.term >= grant.term else "fenced"
    return claim.role


def read_status(state: StateDir) -> dict[str, Any]:
    """The pair's status, as `ftvm status --json` prints it. Never blocks for a second."""
    machine = _machine(state.machine)
    claims = [_claim(state, side) for side in SIDES]
    name = str(machine.get("name") or next((c.fields["name"] for c in claims if "name" in c.fields), state.path.name))
    # After the claims, so that no claim is of a later term than the grant it is checked against.
    grant, trouble = _latest_grant(state, machine, name)
    roles = shown_roles(claims, grant)
    primary = next((claim for claim in claims if roles[claim.side] == "primary"), None)
    alarms = [str(alarm) for alarm in Alarms(state.path).standing()]
    alarms += [alarm for claim in claims for alarm in _texts(claim.fields.get("alarms"))]
    if trouble and any(claim.term > 0 and claim.process is not None for claim in claims):
        alarms.append(trouble)
    alarms += [alarm for claim in claims if (alarm := _seen_alarm(claim, roles[claim.side], grant))]
    launcher = state.launcher_process()
    return {
        "name": name,
        "state_dir": str(state.path),
        "term": grant.term if grant is not None else max(claim.term for claim in claims),
        "protected": primary is not None and _protected(primary, claims, roles),
        "primary": primary.side if primary is not None else None,
        "services": _texts(primary.fields.get("services")) if primary is not None else [],
        "driver_restarts": primary.fields.get("driver_restarts") if primary is not None else None,
        "log_bytes": primary.fields.get("log_bytes") if primary is not None else None,
        "alarms": list(dict.fromkeys(alarms)),
        "launcher": launcher.pid if launcher is not None else None,
        "sides": {claim.side: _side(claim, roles[claim.side]) for claim in claims},
    }


def _claim(state: StateDir, side: str) -> Claim:
    fields = read_json(state.status(side))
    process = Process.load(fields.get("process"))
    return Claim(side, fields, process if process is not None and process.alive else None)


def _side(claim: Claim, role: str) -> dict[str, Any]:
    known = {"name", "side", "process", "updated", "role", "alarms", "log_bytes", *FIGURES}
    process, age = claim.process, _age_s(claim)
    return {
        "role": role,
        "pid": process.pid if process is not None else None,
        "responding": _responds(claim),
        "age_ms": None if age is None else round(age * 1000),
        **{figure: claim.fields.get(figure) for figure in FIGURES},
        **{name: value for name, value in claim.fields.items() if name not in known},
    }


def _responds(claim: Claim) -> bool:
    age = _age_s(claim)
    return claim.process is not None and not claim.process.stopped and age is not None and age < SILENT_S


def _age_s(claim: Claim) -> float | None:
    updated = claim.fields.get("updated")
    if claim.process is None or not isinstance(updated, int | float):
        return None
    return max(0.0, time.monotonic() - updated)


def _protected(primary: Claim, claims: list[Claim], roles: dict[str, str]) -> bool:
    """As the primary says, unless its backup is on this host and is seen not to be one, or not yet."""
    peers = [claim for claim in claims if claim.side != primary.side]
    here = [peer for peer in peers if peer.process is not None or peer.term >= primary.term]
    return bool(primary.fields.get("protected")) and all(roles[peer.side] == "backup" for peer in here)


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _seen_alarm(claim: Claim, role: str, grant: Grant | None) -> str | None:
    if claim.process is None or role == "stopped":
        return None
    who = f"side {claim.side} (process {claim.process.pid})"
    if claim.process.stopped:
        return f"{who} is held by SIGSTOP or a debugger"
    if role == "fenced" and claim.role == "primary" and grant is not None:
        return f"{who} still claims to be primary of term {claim.term}; term {grant.term} was granted to {grant.winner}"
    if not _responds(claim):
        return f"{who} is alive, but has said nothing for {SILENT_S:.0f} s"
    return None


# -- the arbiter, in bounded time ---------------------------------------------------------------------------------


def _machine(path: Path) -> dict[str, Any]:
    """The settled machine file, without the cost of checking it again."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}


def _latest_grant(state: StateDir, machine: dict[str, Any], name: str) -> tuple[Grant | None, str]:
    """The latest grant, and what is wrong when it cannot be known."""
    pair = machine.get("pair")
    written = pair.get("arbiter", "file:arbiter") if isinstance(pair, dict) else "file:arbiter"
    kind, _, path = str(written).partition(":")
    if kind != "file":
        return None, f'the arbiter "{written}" cannot be asked from here'
    return _in_time(FileArbiter(state.resolve(path), name).latest, ARBITER_WAIT_S)


def _in_time(latest: Callable[[], Grant | None], seconds: float) -> tuple[Grant | None, str]:
    answer: list[tuple[Grant | None, str]] = []

    def ask() -> None:
        try:
            answer.append((latest(), ""))
        except ArbiterError as error:
            answer.append((None, str(error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else (None, f"the arbiter has not answered within {seconds} s")
