# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm stop`: ends pairs and machines in order, whatever state their processes are in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from ftvm.arbiter.file import FileArbiter
from ftvm.disk.metadata import ImageState, read_metadata
from ftvm.process import Process
from ftvm.state_dir import StateDir
from ftvm.status import read_status

from .workshop import Running, Workshop, serves

PAIR = """\
name = "stopped"
[machine]
memory = "16 MiB"
[[disk]]
image = "disk0.img"
size = "1 MiB"
[service.block]
"""


@pytest.fixture
def state(work: Workshop) -> StateDir:
    """A pair's state directory."""
    return work.state("state")


@pytest.fixture
def pair(work: Workshop, state: StateDir) -> Running:
    """A protected pair."""
    running = work.start("pair", work.machine(PAIR), "--state-dir", state.path)
    work.until(lambda: read_status(state)["protected"], "the pair to be protected")
    return running


def pid_of(state: StateDir, role: str) -> int:
    """The process in a role."""
    return next(int(side["pid"]) for side in read_status(state)["sides"].values() if side["role"] == role)


def stop(work: Workshop, state: StateDir, *options: object) -> str:
    """`ftvm stop`, which succeeds; returns what it said."""
    done = work.call("stop", "--state-dir", state.path, *options, seconds=25)
    assert done.returncode == 0, f"{done.stderr}\n{work.story()}"
    return done.stderr


def nobody_lives(state: StateDir) -> bool:
    """Neither launcher nor sides."""
    status = read_status(state)
    return status["launcher"] is None and all(side["pid"] is None for side in status["sides"].values())


def ended_clean(state: StateDir) -> list[str]:
    """The sides whose images are noted to be complete."""
    notes = {side: read_metadata(state.side(side)) for side in ("a", "b")}
    return [side for side, note in notes.items() if note is not None and note.state is ImageState.CLEAN]


def test_a_pair_ends_in_order_on_both_sides(work: Workshop, state: StateDir, pair: Running) -> None:
    """No failover: the term is still the first, both images are complete. Stopping again changes nothing."""
    stop(work, state)
    assert pair.wait() == 0
    assert nobody_lives(state) and ended_clean(state) == ["a", "b"]
    assert read_status(state)["term"] == 1
    assert "is not running" in stop(work, state)


@pytest.mark.parametrize(
    ("role", "launcher"),
    [("primary", "living"), ("backup", "held"), ("primary", "killed"), ("backup", "killed")],
)
def test_a_pair_with_a_side_in_sigstop_ends_in_order(
    work: Workshop, state: StateDir, pair: Running, role: str, launcher: str
) -> None:
    """The other side is or goes live, and ends; the held one never comes back. A held launcher hears of it, too."""
    if launcher == "killed":
        pair.kill()
    elif launcher == "held":
        pair.process.send_signal(signal.SIGSTOP)
    held = Process.find(pid_of(state, role))
    assert held is not None
    os.kill(held.pid, signal.SIGSTOP)
    started = time.monotonic()
    stop(work, state)
    assert time.monotonic() - started < 10
    assert not held.alive and nobody_lives(state)
    assert ended_clean(state), "no side has seen the guest's end"


def test_a_side_that_was_fenced_while_it_was_held_is_killed(work: Workshop, state: StateDir, pair: Running) -> None:
    """Held until the other side is live: without a launcher it would stay for ever."""
    pair.kill()
    held = Process.find(pid_of(state, "primary"))
    assert held is not None
    os.kill(held.pid, signal.SIGSTOP)
    work.until(lambda: serves(state) and pid_of(state, "primary") != held.pid, "the backup to go live")
    said = stop(work, state)
    assert "it is fenced, and held by SIGSTOP" in said
    assert not held.alive and nobody_lives(state)


STUBBORN = """
import os, signal, sys, time
from ftvm.state_dir import StateDir
from ftvm.status import StatusWriter
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[2] == "ignores" else lambda *_: os._exit(9))
StatusWriter(StateDir(sys.argv[1]), "a", "stopped").update(time.monotonic(), role="primary", term=1)
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("what", "words"), [("ignores", "did not end within 1 s: wait longer"), ("dies", "gone, but not in order")]
)
def test_what_does_not_end_in_order_is_told(work: Workshop, state: StateDir, what: str, words: str) -> None:
    """A side that goes on is not killed: it may hold what nobody else has. One that just died had not ended."""
    state.create()
    arbiter = FileArbiter(state.path / "arbiter", "stopped")
    arbiter.prepare()
    arbiter.acquire(1, "a", ("a",))
    state.keep_machine(PAIR)
    with subprocess.Popen([sys.executable, "-c", STUBBORN, str(state.path), what]) as side:
        try:
            work.until(state.status("a").exists, "the side to say that it is primary")
            done = work.call("stop", "--state-dir", state.path, "--timeout", "1")
            assert done.returncode == 1 and words in done.stderr, done.stderr
            if what == "ignores":
                assert f"side a (process {side.pid})" in done.stderr and side.poll() is None
        finally:
            side.kill()
