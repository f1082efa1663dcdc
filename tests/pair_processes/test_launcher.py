# SPDX-License-Identifier: GPL-2.0-or-later
"""The launcher is a convenience: it may be killed, replaced, and there is never more than one. It fences by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from ftvm.pair_process import PairProcess
from ftvm.process import Process
from ftvm.testing import MakePair
from tests.pair_processes.load import Load
from tests.pair_processes.watch import StatusWatch

LONGER_THAN_TIMEOUT_S = 1.5


def until(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    """Wait for something, at most so long."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.005)


def process(pid: int) -> Process:
    """The living process with this pid."""
    found = Process.find(pid)
    assert found is not None
    return found


def test_a_killed_launcher_leaves_a_pair_that_fails_over_and_is_adopted(pair: PairProcess) -> None:
    """Clients go on through the launcher's death, a failover without one, and the adoption by the next one."""
    with StatusWatch(pair) as watch, Load(pair.addresses) as load:
        primary = process(pair.primary_pid())
        pair.kill_launcher()
        load.answered(100)
        assert pair.status()["protected"] and pair.status()["launcher"] is None
        successor = pair.backup_pid()
        pair.kill_primary()
        load.answered(100)
        assert pair.primary_pid() == successor
        assert not primary.alive or primary.state == "Z"
        pair.launch()
        until(lambda: pair.status()["launcher"] is not None, "the new launcher")
        pair.wait_protected()
        assert pair.primary_pid() == successor, "the new launcher has not kept the living primary"
        killed_again = pair.kill_primary()
        load.answered(100)
        pair.wait_protected()
        assert killed_again != pair.primary_pid()
        load.finish()
    assert len(watch.primaries) == 3


def test_a_second_launcher_is_refused(pair: PairProcess) -> None:
    """Told which process has the directory; the first one and its pair are not disturbed."""
    command = [sys.executable, "-m", "ftvm.cli", "pair", str(pair.machine), "--state-dir", str(pair.state.path)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert second.returncode == 1
    assert f"is in use by process {pair.status()['launcher']}" in second.stderr
    assert pair.status()["protected"]


def test_a_stopped_primary_is_fenced(pair: PairProcess) -> None:
    """SIGSTOP for longer than the timeout, then SIGCONT: the backup is live, and the old primary is dead by then."""
    with StatusWatch(pair) as watch, Load(pair.addresses) as load:
        old = process(pair.primary_pid())
        pair.signal("primary", signal.SIGSTOP)
        load.answered(100)
        until(lambda: not old.alive, "the launcher to fence the stopped primary")
        assert not old.signal(signal.SIGCONT)
        pair.wait_protected()
        load.finish()
    assert watch.primaries[0] == old.pid and len(watch.primaries) == 2


def test_a_stopped_backup_is_fenced(pair: PairProcess) -> None:
    """The primary goes on alone after the timeout; the launcher replaces the stopped backup."""
    with StatusWatch(pair) as watch, Load(pair.addresses) as load:
        old = process(pair.backup_pid())
        pair.signal("backup", signal.SIGSTOP)
        load.answered(100)
        until(lambda: not old.alive, "the launcher to fence the stopped backup")
        pair.wait_protected()
        assert load.retried == 0
        load.finish()
    assert len(watch.primaries) == 1


def test_without_a_launcher_a_woken_primary_steps_back(pair: PairProcess) -> None:
    """Nobody fences it: it finds that the term was granted to the other side before it lets anything out."""
    with StatusWatch(pair) as watch, Load(pair.addresses) as load:
        old = process(pair.primary_pid())
        pair.kill_launcher()
        old.signal(signal.SIGSTOP)
        until(lambda: pair.status()["term"] > watch_term(pair, old.pid), "the backup to win the next term")
        time.sleep(LONGER_THAN_TIMEOUT_S)
        assert any("SIGSTOP" in alarm for alarm in pair.status()["alarms"])
        old.signal(signal.SIGCONT)
        until(lambda: not old.alive, "the woken primary to end")
        load.answered(100)
        pair.launch()
        until(lambda: pair.status()["launcher"] is not None, "the new launcher")
        pair.wait_protected()
        load.finish()
    assert len(watch.primaries) == 2, watch.primaries


def watch_term(pair: PairProcess, pid: int) -> int:
    """The term that the side with this pid says it is in."""
    return next(int(side["term"]) for side in pair.status()["sides"].values() if side["pid"] == pid)


def test_a_joiner_that_is_stopped_does_no_harm(pair: PairProcess) -> None:
    """Stopped before it is in sync: given up, and another one joins; the term does not move for it."""
    with Load(pair.addresses) as load:
        pair.kill_backup()

        def joiner() -> int | None:
            sides = pair.status()["sides"].values()
            return next((side["pid"] for side in sides if side["role"] == "joining"), None)

        until(lambda: joiner() is not None, "a joiner")
        stopped = joiner()
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        load.answered(200)
        assert not pair.status()["protected"]
        os.kill(stopped, signal.SIGCONT)
        pair.wait_protected()
        load.finish()


def test_both_stopped_and_woken(pair: PairProcess) -> None:
    """Status answers within a second and alarms; woken, the pair is one again, whoever of them wins the term."""
    with StatusWatch(pair), Load(pair.addresses) as load:
        sides = [process(pair.primary_pid()), process(pair.backup_pid())]
        for side in sides:
            side.signal(signal.SIGSTOP)
        time.sleep(LONGER_THAN_TIMEOUT_S)
        start = time.monotonic()
        status = pair.status()
        assert time.monotonic() - start < 1.0
        assert len([alarm for alarm in status["alarms"] if "SIGSTOP" in alarm]) == 2
        assert not any(side["responding"] for side in status["sides"].values())
        for side in sides:
            side.signal(signal.SIGCONT)
        load.answered(100)
        pair.wait_protected()
        load.answered(100)
        load.finish()


def test_the_command_answers_while_both_are_stopped(pair: PairProcess) -> None:
    """`ftvm status` as a process, start of Python included."""
    sides = [process(pair.primary_pid()), process(pair.backup_pid())]
    for side in sides:
        side.signal(signal.SIGSTOP)
    try:
        command = [sys.executable, "-m", "ftvm.cli", "status", "--state-dir", str(pair.state.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0
        assert done.stdout.count("is held by SIGSTOP") == 2
    finally:
        for side in sides:
            side.signal(signal.SIGCONT)
    pair.wait_protected()


def test_a_backup_that_dies_young_is_replaced_at_once(pair: PairProcess) -> None:
    """Only joiners that die before they are of any use are started ever later."""
    for _ in range(4):
        pair.kill_backup()
        start = time.monotonic()
        until(lambda: any(side["role"] == "joining" for side in pair.status()["sides"].values()), "a joiner")
        assert time.monotonic() - start < 5
        pair.wait_protected()


def test_a_side_that_was_just_being_started_is_adopted_too(pair: PairProcess) -> None:
    """The launcher is killed right after it has started a joiner, of which no file says anything yet."""
    with Load(pair.addresses) as load:
        before = pair.status()["term"]
        pair.kill_backup()
        until(lambda: pair.status()["term"] > before, "the loss to be seen")
        time.sleep(0.15)
        pair.kill_launcher()
        pair.launch()
        until(lambda: pair.status()["launcher"] is not None, "the new launcher")
        pair.wait_protected()
        time.sleep(1.0)  # a second process of the same side would have given up by now
        assert pair.status()["protected"]
        pair.kill_primary()
        load.answered(100)
        pair.wait_protected()
        load.finish()


def test_a_closed_pair_leaves_no_process(ftvm_pair: MakePair) -> None:
    """Not even the side that its launcher was just starting."""
    pair = ftvm_pair(wait=False)
    until(lambda: bool(pair.state.path.exists() and list(pair.state.path.glob("[ab]/side.log"))), "the first side")
    pair.close()
    time.sleep(1.0)
    assert not pair.state.side_process("a")
    assert pair.status()["sides"]["a"]["pid"] is None
