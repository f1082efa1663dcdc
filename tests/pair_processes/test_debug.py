# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm debug`: GDB looks into a pair that serves its clients, and the pair does not notice."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftvm.demo.pair import MACHINE
from ftvm.pair_process import PairProcess
from ftvm.testing import MakePair
from tests.pair_processes.load import Load
from tests.travel.gdb import FLUSH, WAIT_S, Served, served

pytestmark = pytest.mark.timeout(240)

PATIENT = MACHINE + "\n[pair]\ntimeout_ms = 5000\n"  # a busy machine is no failure


def debug(pair: PairProcess, *options: str) -> list[str | Path]:
    """The command's arguments."""
    return ["debug", "--state-dir", pair.state.path, "--gdb", "127.0.0.1:0", *options]


def term_of(pair: PairProcess) -> int:
    status = pair.status()
    assert status["protected"], status
    return int(status["term"])


def until_said(server: Served, words: str) -> None:
    end = time.monotonic() + WAIT_S
    while words not in server.said:
        assert time.monotonic() < end and server.process.poll() is None, server.said
        time.sleep(0.05)


def test_gdb_looks_into_a_pair_under_load(ftvm_pair: MakePair, tmp_path: Path) -> None:
    """Registers, memory, steps back, breakpoints backwards; what was before, the newest moment; no request is lost."""
    pair = ftvm_pair(PATIENT + 'history = "32 MiB"\n')
    kept = tmp_path / "kept.log"
    with Load(pair.addresses) as load:
        term = term_of(pair)
        load.answered(200)
        with served(debug(pair, "--record", str(kept)), tmp_path) as server:
            load.answered(200)
            said = server.gdb(
                "monitor when",
                "monitor seek start",
                "monitor when",
                "info registers pc sp satp",
                "x/4xw $sp",
                "monitor seek live",
                FLUSH,
                "monitor when",
                'printf "there %lu %lx\\n", $clock, $pc',
                "reverse-stepi",
                "reverse-stepi",
                "stepi",
                "stepi",
                'printf "again %lu %lx\\n", $clock, $pc',
                "break blk_submit",
                "reverse-continue",
                'printf "met %lu\\n", $clock',
                "bt 1",
                "set var $a0 = 1",
            )
            assert re.search(r"there (\d+) (\w+)", said) and re.search(r"Breakpoint 1, 0x\w+ in blk_submit", said), said
            places = re.findall(r"(?:there|again) (\d+) (\w+)", said)
            assert len(places) == 2 and places[0] == places[1], said
            moments = [int(entry) for entry in re.findall(r"behind entry (\d+) of", said)]
            attached, start = moments[0], min(moments)
            assert start < attached - 50 and attached < moments[-1], said
            assert "a recording cannot be changed" in said and "divergence" not in said
            load.answered(100)
            again = server.gdb("monitor seek live", FLUSH, "monitor when")
            later = re.search(r"behind entry (\d+) of", again)
            assert later and int(later[1]) > moments[-1], again
        load.answered(100)
        assert term_of(pair) == term and not pair.status()["alarms"]
        load.finish()
    command = [sys.executable, "-m", "ftvm.cli", "replay", str(kept), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0 and json.loads(done.stdout)["entries"] > 50, done.stderr


def test_a_killed_debugger_leaves_nothing_and_the_next_one_is_served(ftvm_pair: MakePair, tmp_path: Path) -> None:
    pair = ftvm_pair(PATIENT)
    with Load(pair.addresses) as load:
        term = term_of(pair)
        for number in range(2):
            with served(debug(pair), tmp_path) as server:
                load.answered(50)
                server.process.send_signal(signal.SIGKILL if number else signal.SIGSTOP)
                load.answered(100)
                server.process.kill()
            assert not list(tmp_path.glob("ftvm-debug-*"))
        with served(debug(pair), tmp_path) as server:
            assert "behind entry" in server.gdb("monitor when")
        load.answered(50)
        assert term_of(pair) == term
        load.finish()


def test_a_look_outlives_the_primary_and_the_backup(ftvm_pair: MakePair, tmp_path: Path) -> None:
    """What has come stays, is told to be over, and the pair does what it always does."""
    pair = ftvm_pair(PATIENT)
    with Load(pair.addresses) as load:
        for victim in (pair.kill_primary, pair.kill_backup):
            pair.wait_protected()
            with served(debug(pair), tmp_path) as server:
                load.answered(50)
                victim()
                until_said(server, "nothing more comes from the pair")
                said = server.gdb("monitor seek live", FLUSH, "monitor when", "stepi", "reverse-stepi", "monitor where")
                assert "behind entry" in said and "divergence" not in said, said
            load.answered(50)
            pair.wait_protected(60)
        load.finish()


def test_a_recorded_pair_is_looked_at_from_its_beginning_while_it_runs(ftvm_pair: MakePair, tmp_path: Path) -> None:
    pair = ftvm_pair(PATIENT, "--record", str(tmp_path / "pair.log"))
    with Load(pair.addresses) as load, served(debug(pair), tmp_path) as server:
        assert "all since its beginning" in server.said
        load.answered(50)
        said = server.gdb(
            "monitor seek live", FLUSH, "reverse-stepi", "monitor when", "monitor seek start", "monitor when"
        )
        assert "entry 0 of" in said, said
        load.finish()
    pair.stop()
    command = [sys.executable, "-m", "ftvm.cli", *map(str, debug(pair))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 1 and "no backup in sync on this host" in done.stderr
