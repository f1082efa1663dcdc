# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmarks' own behaviour: what a figure says, what the command prints, what sections yield.

The sections that start processes run in the benchmarks themselves; here the ones in this process do, with little work.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import __main__ as command
from bench import engine, kills, travel
from bench.client import sequential_load
from bench.effort import Bench, Effort
from bench.figure import Figure, percentile
from bench.plain_engine import compile_program
from bench.report import FIRST, LAST, show, write_page
from bench.sides import Sides, beyond_ram_mib
from bench.solo import Solo, machine_text, settled
from bench.stock import LOADS, load_text
from ftvm.demo.kills import WAYS_TO_DIE

LITTLE = Effort(rounds=1, slice_s=0.1, window_s=0.2, insns=5_000_000, kills=1)
ROOT = Path(__file__).parents[2]


def test_a_figure_knows_whether_its_goal_is_met() -> None:
    """At least, at most, no goal, no value."""
    assert Figure("a", 0.95, "x", at_least=0.93).met is True
    assert Figure("a", 0.92, "x", at_least=0.93).met is False
    assert Figure("a", 100.0, "us", at_most=100).met is True
    assert Figure("a", 100.1, "us", at_most=100).met is False
    assert Figure("a", 1.0, "x").met is None
    assert Figure("a", None, "x", at_least=1).met is None


def test_percentiles_are_by_nearest_rank() -> None:
    """As in the demo's report."""
    assert percentile([], 50) is None
    assert percentile([3.0], 99) == 3.0
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.0


def test_the_command_prints_json_of_five_fields() -> None:
    """`--json` is a list of name, value, unit, goal and met, and nothing else on stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", "--only", "clock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    figures = json.loads(done.stdout)
    assert [figure["name"] for figure in figures] == ["clock hook / no hook", "speed, compute guest"]
    for figure in figures:
        assert list(figure) == ["name", "value", "unit", "goal", "met"]
    assert figures[0]["goal"] == ">= 0.93" and figures[0]["value"] > 0.3


def test_a_section_that_fails_becomes_a_figure_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other sections go on."""

    def broken(bench: Bench) -> object:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setitem(command.SECTIONS, "log", broken)  # type: ignore[arg-type]
    figures = command.run_section("log", LITTLE, lambda text: None)
    assert [figure.name for figure in figures] == ["log: failed"]
    assert figures[0].value is None and "the disk is on fire" in figures[0].note


def test_sections_in_this_process_yield_their_figures(tmp_path: Path) -> None:
    """Recording, log size and replaying, with goals as they were set."""
    found: dict[str, Figure] = {}
    for number, section in enumerate((engine.recording, engine.log_size, engine.replaying)):
        directory = tmp_path / str(number)
        directory.mkdir()
        found |= {figure.name: figure for figure in section(Bench(LITTLE, directory, lambda text: None))}
    assert set(found) == {
        "recorded / unrecorded, compute, CPU",
        "recorded / unrecorded, timer, CPU",
        "log, idle",
        "log, computing",
        "log, 1 kHz",
        "replay / record, compute, CPU",
    }
    assert all(figure.value is not None and figure.value >= 0 for figure in found.values())
    assert found["log, idle"].goal == "<= 200" and found["log, computing"].goal == "<= 2000"


def test_time_travel_is_measured_on_a_recording_with_checkpoints(tmp_path: Path) -> None:
    """The parts in this process, over five million instructions."""
    bench = Bench(LITTLE, tmp_path, lambda text: None)
    found = {figure.name: figure for figure in travel._cost(bench)}
    (recorded,) = travel._recordings(bench)
    found |= {figure.name: figure for part in (travel._places, travel._spans) for figure in part(recorded)}
    assert len(found) == 7 and all(figure.value is not None and figure.value >= 0 for figure in found.values())


def test_a_solo_machine_runs_to_its_guests_end(tmp_path: Path) -> None:
    """Slices add up to the whole run."""
    solo = Solo(tmp_path, machine_text("compute", "insns=2000000"))
    slices = [solo.run(0.01) for _ in range(2000) if not solo.ended]
    assert solo.ended and sum(slice.clock for slice in slices) == solo.machine.clock > 4_000_000
    solo.close()


def test_sides_come_and_go_as_a_measurement_wants(tmp_path: Path) -> None:
    """A primary alone, protected, and alone again, under a block load; nothing is left running."""
    with Sides(tmp_path, machine_text("blockd")) as sides:
        sides.start_primary()
        assert not sides.fresh_status()["protected"]
        assert sides.start_backup() > 0
        load = sequential_load(sides.socket, 0.2, 1 << 20)
        fields = sides.fresh_status()
        assert fields["protected"] and fields["commit_delay_us"]["count"] >= load.requests > 0
        assert 1 < beyond_ram_mib(sides.pid("a")) < 500
        sides.kill_backup()
        assert sides.fresh_status()["commit_delay_us"] is None
        pid = sides.pid("a")
    assert not Path(f"/proc/{pid}").exists()


def test_a_pair_that_is_never_silent_stays_protected(tmp_path: Path) -> None:
    """Acknowledgements leave no heartbeat due: they count as progress, else the backup is given up in two seconds."""
    with Sides(tmp_path, machine_text("timer")) as sides:
        sides.start_primary()
        sides.start_backup()
        before = sides.fresh_status()["executed"]
        assert sides.rate(3.0) > 0
        after = sides.fresh_status()
        assert after["protected"] and after["term"] == 1 and after["executed"] > before + 1000


def test_the_table_says_what_was_not_measured() -> None:
    """A figure without a value shows a dash and its note."""
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show([Figure("QEMU beside ours", None, "x", note="not installed"), Figure("speed", 1234.5, "MIPS")], console)
    text = console.export_text()
    assert "not installed" in text and "1,234" in text and " - " in text


def test_a_page_takes_the_figures_between_its_marks(tmp_path: Path) -> None:
    """What stands around the marks stays, what stood between them goes."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{FIRST}\nold\n{LAST}\n\nafter\n")
    write_page(page, [Figure("speed | all", 1.0, "x", at_least=0.9, note="two\nlines")], "today")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| speed \\| all | 1 | x | >= 0.9 | yes | two lines |" in text and "today" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="marks"):
        write_page(page, [], "today")


def test_only_the_watchdog_sees_a_hung_driver() -> None:
    """The names by which the deaths are told apart exist."""
    assert set(kills.NOTICED_LATE) < set(WAYS_TO_DIE.values())


def test_the_engine_without_hooks_compiles_and_says_how_it_is_called(tmp_path: Path) -> None:
    """Its boot needs a stock kernel: the benchmark's own business."""
    program = tmp_path / "plain-engine"
    compile_program(program)
    assert subprocess.run([program]).returncode == 2


def test_a_load_is_a_script_in_an_initramfs_behind_the_fetched_one(tmp_path: Path) -> None:
    """Whatever the load is, the machine file is one that ftvm reads."""
    (tmp_path / "vmlinux").touch()
    (tmp_path / "initramfs.cpio.gz").write_bytes(b"the first archive")
    for load in LOADS:
        config = settled(tmp_path, load_text(Bench(LITTLE, tmp_path, print), tmp_path, load))
        assert config.initrd_path is not None
        content = config.initrd_path.read_bytes()
        assert content.startswith(b"the first archive") and LOADS[load].encode() in gzip.decompress(content[17:])
        assert len(config.disk) == 1
