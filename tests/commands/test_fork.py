# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm replay LOG --at POSITION --live`: the past stays, what follows is new, and is a recording like any other."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from devices.event import EventKind
from ftvm.debugger import Debugger
from ftvm.fork import origin_at
from ftvm.image import load_image
from ftvm.machine import Machine
from replay.log_reader import LogReader
from replay.position import Position
from tests.machine.box import blockd_config
from tests.travel.recorded import WRITE, RecordedBox, record_driver, record_timer

from .workshop import Running, Workshop, reported, serves

CONSOLE = """\
name = "guest"
[machine]
kernel = "console"
memory = "16 MiB"
[console]
backend = "stdio"
"""
A, B, C = (bytes([letter]) * 4096 for letter in b"ABC")


def typed(work: Workshop, *arguments: object, lines: tuple[str, ...], name: str) -> Running:
    """A command whose guest has a console on its terminal, where these lines are typed; its end is awaited."""
    run = work.start(*arguments, stdin=subprocess.PIPE, name=name)
    assert run.process.stdin is not None
    for line in lines:
        run.process.stdin.write(line.encode() + b"\n")
        run.process.stdin.flush()
        work.until(lambda line=line: line in run.stdout, f"the echo of {line}")
    assert run.wait() == 0, run.stderr
    run.process.stdin.close()
    return run


def typed_into(log: Path) -> bytes:
    """All console input in a recording."""
    with LogReader(log) as reader:
        events = [event for entry, _ in reader for event in entry.events if event.kind == EventKind.CONSOLE_INPUT]
    return b"".join(event.data for event in events)


def before_line(log: Path, line: bytes) -> Position:
    """In front of the entry that brings a line's first byte."""
    with LogReader(log) as reader:
        for entry, _ in reader:
            if any(line.startswith(event.data[:1]) and event.kind == EventKind.CONSOLE_INPUT for event in entry.events):
                return Position(entry.sequence - 1, entry.clock)
    raise AssertionError(f"{line!r} was not typed")


def replayed(work: Workshop, log: Path) -> dict[str, object]:
    """What a verified replay says."""
    done = work.call("replay", "--json", log)
    assert done.returncode == 0, done.stderr
    return reported(done)


def test_another_line_is_typed_in_the_past(work: Workshop) -> None:
    """Under the recording's machine, on this terminal; the fork can be forked again."""
    log, fork, again = (work.directory / name for name in ("guest.log", "fork.log", "again.log"))
    state = work.state("s").path
    typed(work, "run", work.machine(CONSOLE), "--state-dir", state, "--record", log, lines=("one", "quit"), name="run")
    parent = log.read_bytes()
    at = before_line(log, b"quit")
    run = typed(
        work, "replay", log, "--live", "--console", "--at", at, "--record", fork, lines=("two", "quit"), name="fork"
    )
    assert f"live from {at}" in run.stderr and "one" not in run.stdout
    assert log.read_bytes() == parent and typed_into(fork) == b"two\nquit\n"
    notes = reported(work.call("log", "stat", "--json", fork))["notes"]
    assert notes == {"parent": str(log), "parent position": str(at)}

    middle = before_line(fork, b"quit")
    shutil.rmtree(work.directory / "fork.log.state")
    typed(work, "replay", fork, "--live", "--console", "--at", middle, "--record", again, lines=("quit",), name="again")
    assert typed_into(again) == b"quit\n"
    for each in (log, fork, again):
        report = replayed(work, each)
        assert report["verified"] and report["end"] == "poweroff" and report["divergence"] is None


def write_three(log: Path) -> list[Position]:
    """A recording that writes A, then B, to the same place; positions behind either, and inside the second's epoch."""
    box = RecordedBox(blockd_config(), log)
    box.until("blockd: ready")
    places = []
    for content in (A, B):
        box.run(box.request(1, WRITE, 8192, data=content))
        box.wait()
        places.append(Position(box.machine.sequence, box.machine.clock))
    box.close()
    return places


def shell(work: Workshop, state: Path, *commands: str) -> str:
    """qemu-io at the block service of a fork."""
    words = [part for command in commands for part in ("-c", command)]
    uri = f"nbd+unix:///?socket={state}/nbd.sock"
    done = subprocess.run(["qemu-io", "-f", "raw", *words, uri], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr + work.story()
    return done.stdout


@pytest.mark.parametrize("behind", [0, 1])
def test_a_driver_goes_live_with_the_disk_as_it_was(work: Workshop, behind: int) -> None:
    """Real clients read what was on the disk at that place, and write something else there."""
    log, fork = work.directory / "driver.log", work.directory / "fork.log"
    at = write_three(log)[behind]
    state = work.state("forked")
    run = work.start("replay", log, "--live", "--at", at, "--record", fork, "--state-dir", state.path)
    work.until(lambda: serves(state), "the driver to be served")
    shell(work, state.path, f"read -P {(A, B)[behind][0]} 8k 4k", f"write -P {C[0]} 8k 4k", "flush")
    shell(work, state.path, f"read -P {C[0]} 8k 4k", "read -P 0 0 8k")
    assert work.call("stop", "--state-dir", state.path).returncode == 0 == run.wait(), run.stderr
    report = replayed(work, fork)
    assert report["verified"] and report["end"] == "stopped"
    assert state.image("a", 0).read_bytes()[8192:12288] == C
    assert replayed(work, log)["divergence"] is None


def test_a_fork_is_the_machine_at_that_very_instruction(tmp_path: Path) -> None:
    """Registers and memory, also in the middle of a block; and it runs on from there like its twin."""
    log = record_driver(tmp_path / "driver.log", 6)
    chance = random.Random(9)
    for _ in range(12):
        with Debugger.open(log) as debugger:
            timeline = debugger.timeline
            place = timeline.seek(timeline.place_of(chance.randrange(timeline.end.clock)))
            seen, ram = dict(debugger.hart.registers()), bytes(debugger.hart.ram)
            origin = origin_at(debugger, place)
            twin = Machine(debugger.machine.config, load_image(debugger.machine.config), debugger.disks)
            try:
                twin.restore(list(origin.sections))
                found = {name: twin.hart.registers()[name] for name in ("pc", "x1", "x2", "x10", "satp", "sepc")}
                assert found == {name: seen[name] for name in found}, f"at {place}"
                assert twin.clock == place.clock and bytes(twin.hart.ram) == ram, f"at {place}"
            finally:
                twin.close()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--live", "--at", "end"], 1, "the guest is over there (poweroff)"),
        (["--live", "--at", "1:2:3"], 1, "is not a position"),
        (["--live"], 2, "--live goes on from --at POSITION"),
        (["--at", "end"], 2, "are for --live"),
        (["--live", "--at", "0:0", "--record", "guest.log"], 1, "guest.log: exists"),
        (["--live", "--at", "0:0", "--state-dir", "used"], 1, "is not empty; a fork needs a state directory"),
    ],
)
def test_what_cannot_be_is_told(work: Workshop, arguments: list[str], code: int, words: str) -> None:
    """And nothing is left behind."""
    text = 'name = "g"\n[machine]\nkernel = "compute"\nmemory = "16 MiB"\ncmdline = "insns=1000000"\n'
    run = work.call("run", work.machine(text), "--state-dir", work.state("s").path, "--record", "guest.log")
    assert run.returncode == 0, run.stderr
    (work.directory / "used").mkdir()
    (work.directory / "used" / "file").touch()
    before = sorted(work.directory.iterdir())
    refused = work.call("replay", "guest.log", *arguments)
    assert refused.returncode == code and words in refused.stderr, refused.stderr
    assert sorted(work.directory.iterdir()) == before


def test_a_stopped_machine_goes_on(work: Workshop) -> None:
    """An operator's stop is no end for the guest; recording and state directory have names by default."""
    log = record_timer(work.directory / "timer.log", 20)
    first = work.start("replay", log, "--live", "--at", "end")
    fork = work.directory / "timer.log.fork1"
    state = work.state("timer.log.fork1.state")
    work.until(lambda: fork.exists() and state.status("a").exists(), "the fork to run")
    assert work.call("stop", "--state-dir", state.path).returncode == 0 == first.wait(), first.stderr
    assert replayed(work, fork)["end"] == "stopped"
    second = work.start("replay", fork, "--live", "--at", "end")
    state = work.state("timer.log.fork1.fork1.state")
    work.until(lambda: state.status("a").exists(), "the fork's fork to run")
    assert work.call("stop", "--state-dir", state.path).returncode == 0 == second.wait(), second.stderr
    with LogReader(work.directory / "timer.log.fork1.fork1") as reader:
        assert reader.header.notes["parent"] == str(fork)
