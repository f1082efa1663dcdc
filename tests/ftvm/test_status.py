# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pair shows: claims checked against processes and the arbiter, in bounded time."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftvm.arbiter.arbiter import Grant
from ftvm.arbiter.file import FileArbiter
from ftvm.commands.status import describe
from ftvm.process import Process
from ftvm.state_dir import StateDir, read_json
from ftvm.status import FIGURES, ROLES, Claim, StatusWriter, read_status, shown_roles

ME = Process.current()

WRITER = """
import sys, time
from ftvm.state_dir import StateDir
from ftvm.status import StatusWriter
writer = StatusWriter(StateDir(sys.argv[1]), sys.argv[2], "disk0")
writer.update(time.monotonic(), role=sys.argv[3], term=int(sys.argv[4]), protected=sys.argv[3] == "primary", clock=5)
print("written", flush=True)
while True:
    time.sleep(0.05)
    writer.update(time.monotonic())
"""

Start = Callable[[str, str, int], subprocess.Popen[str]]


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """The directory of a pair that has not run yet."""
    made = StateDir(tmp_path)
    made.create()
    made.keep_machine('name = "disk0"\n[pair]\narbiter = "file:arbiter"\n')
    FileArbiter(tmp_path / "arbiter", "disk0").prepare()
    return made


@pytest.fixture
def start(state: StateDir) -> Iterator[Start]:
    """Starts processes that claim to be a side in a role and term."""
    started: list[subprocess.Popen[str]] = []

    def begin(side: str, role: str, term: int) -> subprocess.Popen[str]:
        arguments = [str(state.path), side, role, str(term)]
        process = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def grant(state: StateDir, *winners: str) -> None:
    """The arbiter has granted the terms from 1 to these winners."""
    arbiter = FileArbiter(state.path / "arbiter", "disk0")
    for term, winner in enumerate(winners, 1):
        arbiter.acquire(term, winner, (winner,))


def roles(status: dict[str, Any]) -> tuple[str, str]:
    """The roles of both sides."""
    return status["sides"]["a"]["role"], status["sides"]["b"]["role"]


def claim(side: str, role: str, term: int, process: Process | None = ME) -> Claim:
    """A side's word."""
    return Claim(side, {"role": role, "term": term}, process)


# -- roles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "granted", "shown"),
    [
        (("primary", 1), ("backup", 1), (1, "a"), ("primary", "backup")),
        (("primary", 1), ("joining", 0), (1, "a"), ("primary", "joining")),
        (("primary", 1), ("primary", 2), (2, "b"), ("fenced", "primary")),
        (("primary", 1), ("backup", 1), (2, "b"), ("fenced", "primary")),
        (("primary", 1), ("backup", 1), (2, "a"), ("primary", "fenced")),
        (("primary", 2), ("backup", 1), (2, "a"), ("primary", "fenced")),
        (("fenced", 1), ("primary", 2), (2, "b"), ("fenced", "primary")),
        (("joining", 0), ("primary", 2), (2, "b"), ("joining", "primary")),
        (("stopped", 1), ("stopped", 1), (1, "a"), ("stopped", "stopped")),
        (("nonsense", 1), ("backup", 1), (1, "a"), ("stopped", "backup")),
        (("primary", 1), ("primary", 1), (1, "a"), ("primary", "fenced")),
        (("primary", 3), ("primary", 2), (2, "b"), ("fenced", "primary")),
        (("primary", 1), ("primary", 2), None, ("fenced", "primary")),
        (("primary", 2), ("primary", 2), None, ("primary", "fenced")),
        (("primary", 0), ("stopped", 0), None, ("primary", "stopped")),
    ],
)
def test_a_role_is_shown_only_as_far_as_the_arbiter_bears_it_out(
    a: tuple[str, int], b: tuple[str, int], granted: tuple[int, str] | None, shown: tuple[str, str]
) -> None:
    latest = None if granted is None else Grant(granted[0], granted[1], ("a", "b"))
    found = shown_roles([claim("a", *a), claim("b", *b)], latest)
    assert (found["a"], found["b"]) == shown


def test_never_two_primaries_whatever_is_claimed() -> None:
    claims = list(itertools.product(ROLES, (0, 1, 2, 3), (ME, None)))
    grants = [None, *(Grant(term, winner, ("a", "b")) for term in (1, 2, 3) for winner in ("a", "b", "c"))]
    for one, two, latest in itertools.product(claims, claims, grants):
        found = shown_roles([claim("a", *one), claim("b", *two)], latest)
        assert list(found.values()).count("primary") <= 1
        for side, (_, _, process) in zip("ab", (one, two), strict=True):
            assert process is not None or found[side] == "stopped"


# -- whole pairs --------------------------------------------------------------------------------------------------


def test_a_pair_that_never_ran_is_stopped(state: StateDir) -> None:
    status = read_status(state)
    assert roles(status) == ("stopped", "stopped")
    assert (status["name"], status["term"], status["protected"], status["primary"]) == ("disk0", 0, False, None)
    assert status["alarms"] == [] and status["services"] == []


def test_a_running_pair_shows_everything_that_a_script_needs(state: StateDir, start: Start) -> None:
    grant(state, "a")
    backup = start("b", "backup", 1)
    writer = StatusWriter(state, "a", "disk0")
    figures = dict.fromkeys(FIGURES, 7)
    writer.update(time.monotonic(), role="primary", term=1, protected=True, services=["x:1"], alarms=["old"], **figures)
    status = json.loads(json.dumps(read_status(state)))
    assert roles(status) == ("primary", "backup")
    assert (status["name"], status["term"], status["protected"], status["primary"]) == ("disk0", 1, True, "a")
    assert status["services"] == ["x:1"] and status["alarms"] == ["old"]
    side = status["sides"]["a"]
    assert all(side[figure] == 7 for figure in FIGURES) and side["pid"] == os.getpid() and side["responding"]
    assert status["sides"]["b"]["pid"] == backup.pid and status["sides"]["b"]["clock"] == 5


def test_a_killed_primary_is_stopped_and_its_successor_primary(state: StateDir, start: Start) -> None:
    grant(state, "a")
    primary, _ = start("a", "primary", 1), start("b", "backup", 1)
    assert read_status(state)["protected"]
    primary.kill()
    primary.wait()
    between = read_status(state)
    assert roles(between) == ("stopped", "backup") and not between["protected"] and between["primary"] is None
    grant(state, "a", "b")
    after = read_status(state)
    assert roles(after) == ("stopped", "primary") and after["term"] == 2
    assert after["sides"]["a"]["pid"] is None


def test_a_primary_without_its_backup_is_not_protected(state: StateDir, start: Start) -> None:
    grant(state, "a")
    start("a", "primary", 1)
    backup = start("b", "backup", 1)
    backup.kill()
    backup.wait()
    status = read_status(state)
    assert roles(status) == ("primary", "stopped") and not status["protected"]


def test_a_primary_that_was_held_in_mid_air_is_fenced_once_it_is_passed_over(state: StateDir, start: Start) -> None:
    grant(state, "a")
    primary, _ = start("a", "primary", 1), start("b", "primary", 2)
    primary.send_signal(19)
    held = Process.find(primary.pid)
    assert held is not None
    while not held.stopped:
        time.sleep(0.001)
    before = read_status(state)
    assert before["sides"]["a"]["role"] == "primary" and not before["sides"]["a"]["responding"]
    assert any("is held by SIGSTOP" in alarm for alarm in before["alarms"])
    grant(state, "a", "b")
    assert roles(read_status(state)) == ("fenced", "primary")
    primary.send_signal(18)
    while held.stopped:
        time.sleep(0.001)
    after = read_status(state)
    assert roles(after) == ("fenced", "primary")
    assert any("still claims to be primary of term 1; term 2 was granted to b" in alarm for alarm in after["alarms"])


def test_a_side_that_says_nothing_is_told(state: StateDir) -> None:
    grant(state, "a")
    StatusWriter(state, "a", "disk0").update(time.monotonic() - 10, role="primary", term=1)
    status = read_status(state)
    assert roles(status)[0] == "primary" and not status["sides"]["a"]["responding"]
    assert status["sides"]["a"]["age_ms"] >= 10_000
    assert any("has said nothing for 2 s" in alarm for alarm in status["alarms"])


def test_an_unreachable_arbiter_is_an_alarm_and_the_claims_stand(state: StateDir) -> None:
    (state.path / "arbiter").rmdir()
    StatusWriter(state, "a", "disk0").update(time.monotonic(), role="primary", term=4)
    status = read_status(state)
    assert roles(status)[0] == "primary" and status["term"] == 4
    assert any("is not there: is it mounted?" in alarm for alarm in status["alarms"])


def test_a_machine_that_runs_alone_needs_no_arbiter(state: StateDir) -> None:
    (state.path / "arbiter").rmdir()
    StatusWriter(state, "a", "disk0").update(time.monotonic(), role="primary", term=0)
    status = read_status(state)
    assert roles(status)[0] == "primary" and status["alarms"] == []


def test_an_arbiter_that_hangs_does_not_hold_up_the_answer(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(self: FileArbiter) -> None:
        time.sleep(3)

    monkeypatch.setattr(FileArbiter, "latest", hang)
    StatusWriter(state, "a", "disk0").update(time.monotonic(), role="primary", term=1)
    begin = time.monotonic()
    status = read_status(state)
    assert time.monotonic() - begin < 0.9
    assert any("the arbiter has not answered" in alarm for alarm in status["alarms"])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"role": 3, "term": "x", "process": 1}', b"\xff" * 100])
def test_damaged_files_are_no_claims(content: bytes, state: StateDir) -> None:
    state.status("a").write_bytes(content)
    state.machine.write_bytes(content)
    assert roles(read_status(state)) == ("stopped", "stopped")


@pytest.mark.parametrize("role", [None, "primary", ["backup"]])
@pytest.mark.parametrize("value", [None, [], {}, [3], "x", -1, 1.5, True, 1 << 80])
def test_odd_values_from_a_living_process_do_no_harm(role: object, value: object, state: StateDir) -> None:
    odd = dict.fromkeys(("name", "term", "updated", "alarms", "services", "protected", *FIGURES), value)
    state.status("a").write_text(json.dumps({**odd, "process": ME.save(), "role": role}))
    status = read_status(state)
    assert roles(status) == ("primary" if role == "primary" else "stopped", "stopped")
    assert describe(status)


# -- writing ------------------------------------------------------------------------------------------------------


def test_a_writer_writes_every_200_ms_and_at_once_when_it_matters(state: StateDir) -> None:
    writer = StatusWriter(state, "a", "disk0")

    def written() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(state.status("a").read_text())
        return found

    writer.update(100.0, role="joining", clock=1)
    writer.update(100.1, clock=2)
    assert written()["clock"] == 1 and not writer.due(100.1)
    writer.update(100.15, role="backup")
    assert (written()["role"], written()["clock"], written()["updated"]) == ("backup", 2, 100.15)
    assert writer.due(100.4)
    writer.update(100.4, clock=3)
    assert written()["clock"] == 3
    for urgent in ({"term": 2}, {"protected": True}, {"alarms": ["x"]}, {"services": ["y"]}):
        writer.update(100.4, **urgent)
        assert urgent.items() <= written().items()


def test_log_bytes_become_a_rate_over_a_second(state: StateDir) -> None:
    writer = StatusWriter(state, "a", "disk0")
    for step in range(21):
        writer.update(50 + step / 10, role="primary", log_bytes=1000 * step)
    rate = json.loads(state.status("a").read_text())["log_bytes_per_s"]
    assert 9000 <= rate <= 11000


def test_a_writer_survives_a_directory_that_is_gone(state: StateDir) -> None:
    writer = StatusWriter(state, "a", "disk0")
    state.side("a").rmdir()
    writer.update(1.0, role="primary")
    assert not writer.due(2.0)
    state.create()
    writer.update(4.0, role="primary")
    assert state.status("a").exists()


def test_a_reader_never_sees_half_a_file(state: StateDir, start: Start) -> None:
    start("a", "primary", 1)
    grant(state, "a")
    for _ in range(100):
        assert roles(read_status(state))[0] == "primary"


def test_a_background_writer_writes_the_latest_and_waits_for_what_is_urgent(tmp_path: Path) -> None:
    """A change of role is in the file on return; of what came meanwhile only the latest has to be."""
    state = StateDir(tmp_path / "state")
    state.create()
    writer = StatusWriter(state, "a", "disk0", background=True)
    writer.update(1.0, role="primary", term=1)
    assert read_json(state.status("a"))["role"] == "primary"
    for number in range(50):
        writer.update(2.0 + number, sequence=number)
    writer.update(100.0, role="stopped", sequence=50)
    fields = read_json(state.status("a"))
    assert (fields["role"], fields["sequence"]) == ("stopped", 50)
    writer.update(101.0, sequence=51)
    end = time.monotonic() + 5
    while read_json(state.status("a"))["sequence"] != 51:
        assert time.monotonic() < end, "the last update was not written"
        time.sleep(0.01)


def test_the_networks_of_living_sides_are_shown(state: StateDir, start: Start) -> None:
    """Attached or not, why not, and what has passed; a dead side's are not."""
    grant(state, "a")
    start("a", "primary", 1)
    status = read_status(state)
    network = {"unit": 0, "backend": "tap:vm0", "attached": True, "problem": "", "sent": 5, "received": 6, "dropped": 1}
    status["sides"]["a"]["networks"] = [network, network | {"unit": 1, "attached": False, "problem": "it is held"}]
    status["sides"]["b"]["networks"] = [network]
    shown = describe(status).splitlines()[-2:]
    assert shown[0] == "  a network 0 tap:vm0: attached, 5 sent, 6 received, 1 dropped"
    assert shown[1] == "  a network 1 tap:vm0: detached (it is held), 5 sent, 6 received, 1 dropped"
