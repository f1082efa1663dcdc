# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm run`: one machine alone, in a real process: its console, its recording, its disks, how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from ftvm.replaying import run_replay
from ftvm.state_dir import StateDir

from .workshop import Workshop, reported, role, serves

TIMER = 'name = "timer"\n[machine]\nkernel = "timer"\nmemory = "16 MiB"\n'
CONSOLE = 'name = "console"\n[machine]\nkernel = "console"\nmemory = "16 MiB"\n[console]\nbackend = "%s"\n'
DISK = 'name = "disk"\n[machine]\nmemory = "32 MiB"\n[[disk]]\nimage = "disk0.img"\nsize = "16 MiB"\n[service.block]\n'


def running(state: StateDir) -> bool:
    """Whether the machine is live, and has run something."""
    return role(state, "a") == "primary" and state.status("a").exists()


def size(path: Path) -> int:
    """Bytes in a file that may not be there yet."""
    return path.stat().st_size if path.exists() else 0


def test_a_killed_run_leaves_no_child_and_its_recording_replays_to_the_last_whole_record(work: Workshop) -> None:
    """SIGKILL in the middle of a thousand ticks a second; then half of a record is cut off as well."""
    state, log = work.state("state"), work.directory / "timer.log"
    run = work.start("run", work.machine(TIMER), "--state-dir", state.path, "--record", log)
    work.until(lambda: size(log) > 6000, "a second of recording")
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text()
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    assert children == ""

    whole = reported(work.call("log", "verify", "--json", log))
    replayed = work.call("replay", "--json", log)
    assert replayed.returncode == 0, replayed.stderr
    report = reported(replayed)
    assert report["entries"] == whole["entries"] > 300
    assert report["last_sequence"] == whole["last_sequence"]
    assert not report["closed"] and report["verified"] and report["guest_seconds"] > 0.3

    log.write_bytes(log.read_bytes()[:-5])
    torn = reported(work.call("replay", "--json", log))
    assert 0 < torn["entries"] < report["entries"]
    assert "the file ends inside record" in torn["cut"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_order(work: Workshop, number: signal.Signals) -> None:
    """The recording has its end, and the last line says how far the machine came."""
    state, log = work.state("state"), work.directory / "timer.log"
    run = work.start("run", work.machine(TIMER), "--state-dir", state.path, "--record", log)
    work.until(lambda: running(state), "the machine to run")
    run.process.send_signal(number)
    assert run.wait() == 0, run.stderr
    last = run.stderr.splitlines()[-1]
    assert "entries" in last and "s of guest time" in last and "clock" in last
    report = reported(work.call("replay", "--json", log))
    assert report["closed"] and report["end"] == "stopped"


def test_a_guest_that_powers_off_ends_the_run_with_0_and_its_output_is_the_commands(work: Workshop) -> None:
    """The console on standard output, everything else on standard error."""
    text = 'name = "c"\n[machine]\nkernel = "compute"\ncmdline = "insns=1000000"\n[console]\nbackend = "stdio"\n'
    done = work.call("run", work.machine(text), "--state-dir", work.state("state").path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "compute: ready" and lines[1].startswith("compute: 10000"), done.stdout
    assert "poweroff" in done.stderr and "poweroff" not in done.stdout


@pytest.mark.parametrize(("line", "code", "words"), [("quit", 0, "poweroff"), ("panic", 1, "the guest has failed")])
def test_typed_input_reaches_the_guest_which_ends_as_it_is_told(
    work: Workshop, line: str, code: int, words: str
) -> None:
    """Standard input is the guest's keyboard; a guest that panics is exit code 1."""
    run = work.start(
        "run",
        work.machine(CONSOLE % "stdio"),
        "--state-dir",
        work.state("state").path,
        stdin=subprocess.PIPE,
    )
    assert run.process.stdin is not None
    with run.process.stdin as keyboard:
        keyboard.write(b"hello\n")
        keyboard.flush()
        work.until(lambda: "hello" in run.stdout, "the guest's echo")
        keyboard.write(line.encode() + b"\n")
    assert run.wait() == code, run.stderr
    assert words in run.stderr


def test_a_console_on_a_unix_socket_serves_clients_that_come_and_go(work: Workshop) -> None:
    """The second client gets what the first one has seen."""
    state = work.state("state")
    run = work.start("run", work.machine(CONSOLE % "unix:console.sock"), "--state-dir", state.path)
    work.until((state.path / "console.sock").exists, "the console's socket")
    with attached(state) as first:
        first.sendall(b"one\n")
        assert b"one" in read_until(first, b"one")
    with attached(state) as second:
        read_until(second, b"one")
        second.sendall(b"quit\n")
        assert run.wait() == 0, run.stderr


def attached(state: StateDir) -> socket.socket:
    """A client of the console."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(str(state.path / "console.sock"))
    return client


def read_until(client: socket.socket, text: bytes) -> bytes:
    """What comes, up to and including `text`."""
    found = b""
    while text not in found:
        data = client.recv(4096)
        assert data, f"the console closed after {found!r}"
        found += data
    return found


def test_a_run_and_a_pair_go_on_from_each_others_disks(work: Workshop) -> None:
    """Written alone, read by a pair; written there, read alone; the recording holds the disk that it began with."""
    state, machine = work.state("state"), work.machine(DISK)
    alone = work.start("run", machine, "--state-dir", state.path)
    work.until(lambda: serves(state), "the machine to serve")
    qemu_io(state, "write -P 1 0 64k", "flush")
    assert work.call("stop", "--state-dir", state.path).returncode == 0
    assert alone.wait() == 0, alone.stderr

    pair = work.start("pair", machine, "--state-dir", state.path, "--unprotected")
    work.until(lambda: serves(state), "the pair to serve")
    qemu_io(state, "read -P 1 0 64k", "write -P 2 64k 64k")
    assert work.call("stop", "--state-dir", state.path).returncode == 0
    assert pair.wait() == 0, pair.stderr

    log = work.directory / "alone.log"
    again = work.start("run", machine, "--state-dir", state.path, "--record", log)
    work.until(lambda: serves(state), "the machine to serve again")
    qemu_io(state, "read -P 1 0 64k", "read -P 2 64k 64k")
    again.process.terminate()
    assert again.wait() == 0, again.stderr
    report = reported(work.call("replay", "--json", log))
    assert report["closed"] and report["entries"] > 1, report


def qemu_io(state: StateDir, *commands: str) -> None:
    """A real client; AssertionError when a command fails."""
    arguments = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "raw", *arguments, f"nbd+unix:///?socket={state.path}/nbd.sock"],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode == 0 and "failed" not in done.stdout + done.stderr, done.stdout + done.stderr


def test_a_second_run_in_the_same_place_is_refused_in_words(work: Workshop) -> None:
    """One state directory holds one machine."""
    state, machine = work.state("state"), work.machine(TIMER)
    work.start("run", machine, "--state-dir", state.path)
    work.until(lambda: running(state), "the machine to run")
    second = work.call("run", machine, "--state-dir", state.path)
    assert second.returncode == 1 and "is in use by process" in second.stderr


def test_an_earlier_recording_is_kept_and_one_that_cannot_be_made_is_told(work: Workshop) -> None:
    """Nothing is written over; and a machine that is to be recorded does not run unrecorded."""
    state, machine = work.state("state"), work.machine(CONSOLE % "none" + "[driver]\nrestart = false\n")
    log = work.directory / "kept.log"
    log.write_bytes(b"precious")
    run = work.start("run", machine, "--state-dir", state.path, "--record", log)
    work.until(lambda: running(state), "the machine to run")
    run.process.terminate()
    assert run.wait() == 0 and "kept.log.1" in run.stderr
    assert (work.directory / "kept.log.1").read_bytes() == b"precious" and run_replay(log).closed
    refused = work.call("run", machine, "--state-dir", state.path, "--record", work.directory / "no" / "such.log")
    assert refused.returncode == 1 and "cannot make the log" in refused.stderr


def test_a_service_address_that_is_taken_is_told(work: Workshop) -> None:
    """And nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        machine = work.machine(DISK + f'listen = ["127.0.0.1:{port}"]\n')
        state = work.state("state")
        refused = work.call("run", machine, "--state-dir", state.path)
    assert refused.returncode == 1 and f"127.0.0.1:{port}: Address already in use" in refused.stderr
    assert role(state, "a") == "stopped"
