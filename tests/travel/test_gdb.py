# SPDX-License-Identifier: GPL-2.0-or-later
"""A real gdb-multiarch drives `ftvm replay --gdb`: registers, memory, breakpoints, watchpoints, in both directions."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.guests import catalog
from replay.gdb.packet import PacketReader, frame
from tests.travel.gdb import FLUSH, WAIT_S, Served
from tests.travel.gdb import served as serving
from tests.travel.recorded import record_driver

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_driver(tmp_path_factory.mktemp("gdb") / "driver.log")


@pytest.fixture
def served(log: Path, tmp_path: Path) -> Iterator[Served]:
    guest = catalog.find("blockd")
    assert guest is not None
    with serving(["replay", log, "--gdb", "127.0.0.1:0"], tmp_path, guest.path) as server:
        yield server


def test_symbols_breakpoints_and_steps_in_both_directions(served: Served) -> None:
    said = served.gdb(
        "break blk_submit",
        "continue",
        'printf "first %lx clock %lu\\n", $pc, $clock',
        "stepi",
        "stepi",
        'printf "two on %lx\\n", $pc',
        "reverse-stepi",
        "reverse-stepi",
        'printf "back %lx clock %lu\\n", $pc, $clock',
        "continue",
        'printf "second clock %lu\\n", $clock',
        "reverse-continue",
        'printf "again %lx clock %lu\\n", $pc, $clock',
        "delete",
        "reverse-continue",
        "info registers clock",
        "bt 1",
    )
    assert said.count("Breakpoint 1, ") == 4 and "in blk_submit ()" in said, said
    first = re.search(r"first (\w+) clock (\d+)", said)
    back = re.search(r"back (\w+) clock (\d+)", said)
    again = re.search(r"again (\w+) clock (\d+)", said)
    second = re.search(r"second clock (\d+)", said)
    assert first and back and again and second, said
    assert first.groups() == back.groups() == again.groups()
    assert int(second[1]) > int(first[2])
    assert "No more reverse-execution history" in said
    assert re.search(r"clock +0x0\t0", said), said


def test_watchpoints_and_last_write_agree(served: Served) -> None:
    said = served.gdb(
        "monitor seek end",
        FLUSH,
        "monitor last-write 0x80206308 8",
        "watch -l *(long *)0x80206308",
        "reverse-continue",
        'printf "wrote at %lu\\n", $clock',
        "monitor when",
        "rwatch *(int *)0x80206308",
        "continue",
    )
    told = re.search(r"(\d+):(\d+): the instruction at pc (0x\w+)", said)
    wrote = re.search(r"wrote at (\d+)", said)
    assert told and wrote, said
    assert told[2] == wrote[1], said
    assert "Hardware read watchpoint" in said


def test_every_kind_of_breakpoint_and_watchpoint_stops_in_both_directions(served: Served) -> None:
    said = served.gdb(
        "hbreak blk_submit",
        "tbreak blk_submit",
        "continue",
        'printf "soft and hard %lu\\n", $clock',
        "continue",
        'printf "hard %lu\\n", $clock',
        "reverse-continue",
        'printf "back %lu\\n", $clock',
        "delete",
        "awatch *(int *)&done",
        "continue",
        "continue",
        "reverse-continue",
        'printf "access %lu\\n", $clock',
        "delete",
        "watch *(int *)&done if *(int *)&done != 0",
        "monitor seek start",
        FLUSH,
        "continue",
        'printf "counted %d\\n", *(int *)&done',
        "next",
        "reverse-next",
        "reverse-step",
        "delete",
        "reverse-finish",
        "finish",
        "monitor where",
        "monitor seek output reply 3",
        FLUSH,
        "monitor where",
        "info registers sstatus satp priv fcsr fa0",
    )
    first, back = re.search(r"soft and hard (\d+)", said), re.search(r"back (\d+)", said)
    assert first and back and first[1] == back[1], said
    assert "Temporary breakpoint 2" in said and "Breakpoint 1, " in said and "Hardware assisted breakpoint 1" in said
    assert said.count("Hardware access (read/write) watchpoint 3") >= 3, said
    assert re.search(r"counted -?[1-9]", said), said
    assert len(re.findall(r"^\d+:\d+: \w+", said, re.MULTILINE)) == 2, said
    assert re.search(r"^priv +0x1", said, re.MULTILINE) and "sstatus" in said and "fa0" in said


def test_nothing_can_be_changed(served: Served) -> None:
    said = served.gdb(
        "python",
        "try:",
        "    gdb.execute('set var $a0 = 5')",
        "except gdb.error as e: print(e)",
        "try:",
        "    gdb.execute('set var *(int *)0x80200000 = 1')",
        "except gdb.error as e: print(e)",
        "end",
        "info registers a0",
        "x/xw 0x80200000",
    )
    assert "a recording cannot be changed" in said and "Cannot access memory at address 0x80200000" in said
    assert re.search(r"0x80200000 <_start>:\t0x10401073", said)


def test_monitor_commands_answer(served: Served) -> None:
    said = served.gdb(
        "monitor when",
        "monitor events 2",
        "monitor seek 10:5",
        "monitor seek entry 20",
        "monitor digest",
        "monitor seek +100",
        "monitor digest",
        "monitor seek time 0.001",
        "monitor checkpoints",
        "monitor nonsense",
        "monitor seek nowhere",
    )
    assert "behind entry 0 of" in said
    assert said.count("block request for unit 0") == 2
    assert re.search(r"^[0-9a-f]{16}$", said, re.MULTILINE), said
    assert "between entries only" in said
    assert "monitor last-write ADDRESS" in said
    assert "seek nowhere: " in said


def test_debuggers_come_one_after_the_other_and_leave_nothing_behind(served: Served) -> None:
    first = served.gdb("break blk_submit", "continue")
    assert "Breakpoint 1" in first
    second = served.gdb("monitor seek start", FLUSH, "continue", "monitor when")
    assert "No more reverse-execution history" in second and "Breakpoint" not in second
    assert served.said.count("a debugger has connected") == 2


def test_an_interrupt_stops_a_run(served: Served) -> None:
    """Ctrl-C on the wire while the guest runs on: the stop says SIGINT, and the debugger goes on from there."""
    with socket.create_connection(("127.0.0.1", served.port)) as wire:
        wire.settimeout(WAIT_S)
        reader = PacketReader()

        def ask(payload: bytes, then: bytes = b"") -> bytes:
            wire.sendall(frame(payload) + then)
            while True:
                for item, is_packet in reader.feed(wire.recv(65536)):
                    if is_packet:
                        wire.sendall(b"+")
                        return item

        assert ask(b"bs").startswith(b"T05") and b"replaylog:begin" in ask(b"?")
        assert ask(b"c", then=b"\x03+\x03") == b"T02thread:01;"
        assert b"replaylog:end" in ask(b"c")
        assert ask(b"qSupported").find(b"ReverseContinue+") > 0
        assert ask(b"g") and ask(b"p20") and ask(b"m80200000,8")
        assert ask(b"m10,8") == b"E14" and ask(b"pffff") == b"E45" and ask(b"mzz") == b"E22"
        assert ask(b"vMustReplyEmpty") == b""


def test_an_address_that_cannot_be_had_is_told(log: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ftvm.cli", "replay", str(log), "--gdb", "192.0.2.1:1"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "cannot listen at 192.0.2.1:1" in done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "ftvm.cli", "replay", str(log), "--gdb", "here"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "[HOST:]PORT" in done.stderr
