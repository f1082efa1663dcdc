# SPDX-License-Identifier: GPL-2.0-or-later
"""State directories: where they are, who holds them; and processes that are told apart for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftvm import state_dir
from ftvm.process import Process, boot_id
from ftvm.state_dir import StateDir, StateDirError, find, read_json, write_atomically

HOLDER = """
import subprocess, sys, time
from ftvm.state_dir import StateDir
lock = StateDir(sys.argv[1]).lock()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without any pairs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "ftvm"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, killed afterwards."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def pair(name: str) -> StateDir:
    """A pair's directory at the default place, with a machine file kept in it."""
    state = StateDir(state_dir.default_path(name))
    state.create()
    state.keep_machine(f'name = "{name}"\n')
    return state


# -- finding ------------------------------------------------------------------------------------------------------


def test_a_pairs_directory_follows_from_its_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_dir.default_path("disk0") == home / "disk0"
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        monkeypatch.setenv("HOME", "/somewhere/u")
        assert state_dir.default_path("disk0") == Path("/somewhere/u/.local/state/ftvm/disk0")


def test_a_pair_is_found_by_name_by_path_or_because_it_is_the_only_one(home: Path) -> None:
    state = pair("disk0")
    assert find("disk0", None).path == find(None, None).path == find(None, state.path).path == home / "disk0"
    assert find("anything", state.path).path == state.path
    pair("disk1")
    with pytest.raises(StateDirError, match=r"say which pair, by NAME or --state-dir \(there are: disk0, disk1\)"):
        find(None, None)


def test_what_is_not_there_is_told_with_what_is(home: Path) -> None:
    with pytest.raises(StateDirError, match=r'there is no pair "x" \(there are none in '):
        find("x", None)
    pair("disk0")
    with pytest.raises(StateDirError, match=r'there is no pair "x" \(there are: disk0\)'):
        find("x", None)
    with pytest.raises(StateDirError, match="is not the name of a pair; for a directory use --state-dir"):
        find("../disk0", None)
    with pytest.raises(StateDirError, match="there is no such state directory"):
        find(None, home / "none")


def test_only_the_owner_can_look_in(home: Path) -> None:
    state = pair("disk0")
    assert state.path.stat().st_mode & 0o777 == 0o700
    assert state.side("a").is_dir() and state.side("b").is_dir()
    state.create()


def test_an_unusable_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError, match="cannot be used as a state directory: Not a directory"):
        StateDir(tmp_path / "file" / "x").create()


def test_paths_of_the_machine_file_are_relative_to_it(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert state.resolve("nbd.sock") == tmp_path / "nbd.sock"
    assert state.resolve("/run/x") == Path("/run/x")
    assert state.image("b", 1) == tmp_path / "b" / "disk1.img"


# -- locks --------------------------------------------------------------------------------------------------------


def test_a_second_launcher_is_refused_with_the_first_ones_pid(home: Path) -> None:
    state = pair("disk0")
    lock = state.lock()
    with pytest.raises(StateDirError, match=f"is in use by process {os.getpid()}; stop it"):
        state.lock()
    assert state.launcher_process() == Process.current()
    lock.release()
    assert state.launcher_process() is None
    state.lock().release()


def test_sides_have_locks_of_their_own(home: Path) -> None:
    state = pair("disk0")
    locks = [state.lock(), state.lock_side("a"), state.lock_side("b")]
    with pytest.raises(StateDirError):
        state.lock_side("a")
    for lock in locks:
        lock.release()


def test_a_killed_launchers_lock_is_free_although_its_children_live(home: Path) -> None:
    state = pair("disk0")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(state.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = Process.find(int(holder.stdout.readline()))
    assert child is not None
    with pytest.raises(StateDirError, match=f"process {holder.pid}"):
        state.lock()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert child.alive and state.launcher_process() is None
    state.lock().release()
    assert child.signal(signal.SIGKILL)


# -- processes ----------------------------------------------------------------------------------------------------


def test_a_process_is_alive_until_it_is_dead_a_zombie_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.find(sleeper.pid)
    assert process is not None and process.alive and not process.stopped
    assert Process.load(json.loads(json.dumps(process.save()))) == process
    sleeper.kill()
    deadline = time.monotonic() + 5
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not process.alive, "its parent has not waited for it yet"
    sleeper.wait()
    assert not process.alive and not process.signal(signal.SIGKILL)


def test_a_stopped_process_is_alive(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.find(sleeper.pid)
    assert process is not None and process.signal(signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while not process.stopped and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.stopped and process.alive


def test_another_process_with_the_same_pid_is_never_taken_for_it(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.find(sleeper.pid)
    assert process is not None
    for stranger in (replace(process, start=process.start - 1), replace(process, boot="another boot")):
        assert not stranger.alive and not stranger.signal(signal.SIGKILL)
    assert sleeper.poll() is None and process.alive


def test_this_process_knows_itself() -> None:
    assert Process.current() == Process.find(os.getpid())
    assert Process.current().alive and boot_id()
    assert Process.find(1 << 30) is None


@pytest.mark.parametrize("saved", [None, 0, -1, 1 << 31, 1 << 80, 1.5, "x", [], [1], {}, {"pid": 1}])
def test_any_saved_value_is_a_process_or_none(saved: object) -> None:
    assert Process.load(saved) is None
    assert Process.load({"pid": saved, "start": saved, "boot": "x"}) is None


# -- files --------------------------------------------------------------------------------------------------------


def test_an_atomic_write_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"1", b"22"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_an_object_reads_as_empty(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    assert read_json(tmp_path / "x") == {}
