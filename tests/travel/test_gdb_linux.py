# SPDX-License-Identifier: GPL-2.0-or-later
"""gdb-multiarch on a recorded boot of the stock Debian kernel, which comes without a file of symbols."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.debugger import Debugger
from tests.travel.gdb import FLUSH, Served, served
from tests.travel.linux_recorded import ROUNDS, RecordedBoot

pytestmark = pytest.mark.timeout(400)

HOT = ("handle_exception", "__schedule", "do_trap_ecall_u", "tick_do_update_jiffies64")


@pytest.fixture
def door(recorded_boot: RecordedBoot, tmp_path: Path) -> Iterator[Served]:
    with served(["replay", recorded_boot.log, "--gdb", "127.0.0.1:0"], tmp_path) as server:
        yield server


def test_kernel_functions_and_variables_by_name_in_both_directions(door: Served, recorded_boot: RecordedBoot) -> None:
    """GDB is given no file: the symbols come with the connection."""
    said = door.gdb(
        f"monitor seek {recorded_boot.end_of_boot}",
        FLUSH,
        "break __riscv_sys_sched_yield",
        "continue",
        'printf "first %lu %lx\\n", $clock, $pc',
        "bt 2",
        "continue",
        'printf "second %lu\\n", $clock',
        "reverse-stepi",
        "reverse-stepi",
        "stepi",
        "stepi",
        "reverse-continue",
        'printf "again %lu %lx\\n", $clock, $pc',
        "monitor where",
        "delete",
        "monitor seek end",
        FLUSH,
        "watch *(unsigned long *)&jiffies",
        "reverse-continue",
        'printf "wrote %lu\\n", $clock',
        "bt 1",
        "monitor last-write jiffies 8",
        "monitor seek -100000",
        FLUSH,
        "continue",
        'printf "forwards %lu\\n", $clock',
    )
    first, again = re.search(r"first (\d+) (\w+)", said), re.search(r"again (\d+) (\w+)", said)
    second = re.search(r"second (\d+)", said)
    assert first and again and second, said
    assert first.groups() == again.groups() and int(second[1]) > int(first[1])
    assert said.count("Breakpoint 1, ") == 4, said
    assert re.search(r"#1  0x\w+ in do_trap_ecall_u \(\)", said), said
    assert re.search(r"^\d+:\d+: __riscv_sys_sched_yield(\+0x\w+)?, 0xf\w+: ", said, re.MULTILINE), said
    wrote, forwards = re.search(r"wrote (\d+)", said), re.search(r"forwards (\d+)", said)
    told = re.search(r"\d+:(\d+): the instruction at pc 0x\w+ \(tick_do_update_jiffies64\+0x\w+\); (\w+) before", said)
    assert wrote and forwards and told and re.search(r"#0  0x\w+ in tick_do_update_jiffies64 \(\)", said), said
    assert told[1] == wrote[1] or int(told[1]) < int(wrote[1]) + 8, said
    assert abs(int(forwards[1]) - int(wrote[1])) <= 8, said
    assert said.count("Hardware watchpoint 2") >= 2


def test_a_breakpoint_in_a_program_holds_across_context_switches(door: Served, recorded_boot: RecordedBoot) -> None:
    """Two processes of one program take turns; each meets it, in both directions, with its own memory."""
    tell = 'printf "met %lu satp %lx pid %ld rounds %ld\\n", $clock, $satp, $a0, *(long *)&rounds'
    steps = [word for _ in range(6) for word in ("continue", tell)]
    back = [word for _ in range(5) for word in ("reverse-continue", tell)]
    said = door.gdb(
        f"monitor seek {recorded_boot.end_of_boot}", FLUSH, f"add-symbol-file {recorded_boot.program}", "break tick",
        *steps, *back,
        "watch -l *(long *)&rounds", "delete 1", "continue", "continue", 'printf "value %ld\\n", *(long *)&rounds',
    )  # fmt: skip
    met = re.findall(r"met (\d+) satp (\w+) pid (\d+) rounds (\d+)", said)
    assert len(met) == 11, said
    assert met[6:] == met[4::-1], "backwards the same places, in reverse"
    spaces = {(satp, pid) for _, satp, pid, _ in met}
    assert len(spaces) == 2, met
    for space in spaces:
        rounds = [int(each[3]) for each in met[:6] if (each[1], each[2]) == space]
        assert rounds == list(range(len(rounds))) and len(rounds) >= 2, met
    assert said.count("Hardware watchpoint 2: -location") >= 2, said
    assert "value 2" in said, said


def test_every_round_of_every_process_is_met_once(recorded_boot: RecordedBoot) -> None:
    with Debugger.open(recorded_boot.log) as debugger:
        debugger.take_symbols(recorded_boot.program)
        timeline = debugger.timeline
        tick = debugger.symbols.address("tick")
        assert tick is not None
        timeline.seek(timeline.place_of(recorded_boot.end_of_boot))
        timeline.set_breakpoints([tick])
        pids: dict[int, int] = {}
        while timeline.run().why.name == "BREAKPOINT":
            pid = debugger.registers()["x10"]
            pids[pid] = pids.get(pid, 0) + 1
        assert sorted(pids.values()) == [ROUNDS, ROUNDS], pids


def test_a_breakpoint_on_a_hot_page_stops_and_retranslates_nothing(recorded_boot: RecordedBoot) -> None:
    """Functions that nobody calls, between others that run all the time: the engine stops as often as without them."""
    with Debugger.open(recorded_boot.log) as debugger:
        timeline, symbols = debugger.timeline, debugger.symbols
        first = timeline.entries.last - 60
        pages = {(symbols.address(name) or 0) >> 12 for name in HOT}
        functions = [each.address for each in symbols.all if each.function and each.address >> 12 in pages]
        met = _counted(debugger, first, functions, record=True)[1]
        cold = sorted(set(functions) - met)
        assert len(met) > 5 and len(cold) > 20
        counts = [_counted(debugger, first, breakpoints, record=False)[0] for breakpoints in ([], cold, [])]
        assert counts[0] == counts[1] == counts[2]


def _counted(debugger: Debugger, first: int, breakpoints: list[int], *, record: bool) -> tuple[list[int], set[int]]:
    """What the engine did from an entry to the end, and what was met."""
    timeline, hart = debugger.timeline, debugger.hart
    timeline.seek(timeline.behind(first))
    hart.breakpoints(breakpoints, record=record)
    before = hart.counters()
    for _ in timeline.results(first + 1, timeline.entries.last):
        pass
    after = hart.counters()
    met = {hit.address for hit in hart.hits()}
    hart.breakpoints([])
    return [after[name] - before[name] for name in ("slices", "translations", "removals", "flushes")], met


def test_last_write_knows_the_kernels_names(recorded_boot: RecordedBoot) -> None:
    command = [sys.executable, "-m", "ftvm.cli", "last-write", str(recorded_boot.log), "jiffies_64", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["symbol"].startswith("tick_do_update_jiffies64+"), found
    assert int.from_bytes(bytes.fromhex(found["new"]), "little") > int.from_bytes(bytes.fromhex(found["old"]), "little")


def test_physical_addresses_and_the_kernels_own_agree(door: Served, recorded_boot: RecordedBoot) -> None:
    said = door.gdb(
        f"monitor seek {recorded_boot.end_of_boot}",
        FLUSH,
        "x/4xw &linux_banner",
        "x/s &linux_banner",
        "maintenance packet Qqemu.PhyMemMode:1",
        "x/s (char *)&linux_banner - 0xffffffff80000000 + 0x80200000",
        "x/s 0x10",
        "maintenance packet Qqemu.PhyMemMode:0",
        "x/s 0x80200000",
        "set var $pc = 5",
        "info registers pc",
    )
    assert len(re.findall(r'"Linux version 6\.[^"]*"', said)) == 2, said
    assert "Cannot access memory at address 0x10" in said
