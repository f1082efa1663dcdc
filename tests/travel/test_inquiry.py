# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm replay --verify` of a recording whose recorder, or whose replay, went wrong by one bit: that bit is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devices.event import EventKind
from ftvm import trials
from ftvm.board import RAM_BASE
from ftvm.debugger import Debugger
from ftvm.inquiry import Inquiry
from ftvm.replaying import rebuild, run_replay
from ftvm.service.nbd import READ
from ftvm.service.request import decode_request
from replay.divergence import Divergence
from replay.log_reader import LogReader
from replay.replayer import replay
from tests.travel.recorded import faulty, record_driver, record_timer
from tests.travel.test_comparison import record as record_console
from tests.travel.test_comparison import symbol
from tests.travel.test_comparison_of_states import change_field, flip_disk, flip_ram, flip_register


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_driver(tmp_path_factory.mktemp("driver") / "driver.log")


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_console(tmp_path_factory.mktemp("console"), "console")


def verify(log: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divergence and finding, as `ftvm replay` tells them."""
    command = [sys.executable, "-m", "ftvm.cli", "replay", str(log), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout, done.stderr
    answer = json.loads(done.stdout)
    assert f"divergence in entry {answer['divergence']['sequence']}" in done.stderr
    return answer["divergence"], answer["finding"]


def details(found: dict[str, Any]) -> str:
    return "\n".join(found["details"])


def test_a_bit_that_changed_between_two_checkpoints_of_the_recorder(console: Path, tmp_path: Path) -> None:
    """It is in the code that types characters back, which runs two entries later."""
    address, _ = symbol("receive")
    log = faulty(console, 17, flip_ram(address, 4), tmp_path / "code.log", spacing=1)
    divergence, found = verify(log)
    assert divergence["sequence"] == 20
    assert found["kind"] == "recorder" and found["sequence"] == 20, found
    assert "was the replay's behind entry 17, and not behind entry 18" in found["summary"], found
    assert f"{address:#x}:" in found["instructions"][0] and found["instructions"][0] != found["instructions"][1]
    assert f"RAM at {address - address % 8:#x}" in details(found), found
    assert "has changed by itself in the recorder" in details(found), found
    assert "in entry 20" in found["event"], found


def test_a_bit_of_ram_is_found_by_trying_what_a_later_checkpoint_has(console: Path, tmp_path: Path) -> None:
    """No checkpoint lies between the flip and what it did."""
    address, _ = symbol("receive")
    log = faulty(console, 19, flip_ram(address, 4), tmp_path / "later.log", spacing=1)
    divergence, found = verify(log)
    assert divergence["sequence"] == 20
    assert found["kind"] == "recorder" and f"{address:#x}:" in found["instructions"][0], found
    assert f"RAM at {address - address % 8:#x}" in found["summary"], found


def test_a_bit_of_a_register_is_found_by_trying(console: Path, tmp_path: Path) -> None:
    """Without any checkpoint: in front of the entry, every bit of every register is tried."""
    log = faulty(console, 11, flip_register("x2", 3), tmp_path / "register.log")
    divergence, found = verify(log)
    assert divergence["sequence"] == 12 and found["kind"] == "recorder", found
    assert "bit 3 of x2 " in found["summary"] + details(found), found


def test_a_bit_of_a_page_is_found_from_the_digest_of_ram(tmp_path: Path) -> None:
    """It is in code that has run for the last time, and only every seventh entry digests RAM."""
    address, _ = symbol("_start", "timer")
    log = record_timer(tmp_path / "timer.log")
    log = faulty(log, 10, flip_ram(address + 3, 5), tmp_path / "page.log")
    divergence, found = verify(log)
    assert {each["field"] for each in divergence["differences"]} == {"digest", "pages"}
    assert divergence["sequence"] == 15
    assert f"RAM at {address + 3:#x}: bit 5 alone is other in the recorder" in details(found), found


def test_a_bit_of_a_device_is_named(driver: Path, tmp_path: Path) -> None:
    """The disk's interrupt has no priority any more."""
    _, found = verify(faulty(driver, 12, change_field("priority", 2, 0), tmp_path / "device.log", spacing=1))
    assert found["kind"] == "recorder", found
    assert "plic.priority[2]: the replay 0x1, the recorder 0x0" in found["summary"] + details(found), found


def test_a_bit_of_a_disk_is_named(driver: Path, tmp_path: Path) -> None:
    """Of a sector that a client reads some entries later."""
    behind = 12
    with Debugger.open(driver) as debugger:
        reads = [
            decode_request(event.data)
            for entry, _ in debugger.timeline.entries.since(behind + 4)
            for event in entry.events
            if event.kind == EventKind.BLOCK_REQUEST
        ]
    at = next(request.offset for request in reads if request.kind == READ) + 5
    _, found = verify(faulty(driver, behind, flip_disk(at, 2), tmp_path / "disk.log", spacing=1))
    assert found["kind"] == "recorder", found
    assert f"disk 0 at {at - at % 8:#x}: the replay " in found["summary"] + details(found), found


def test_a_replay_that_went_wrong_itself_is_told_from_a_recorder_that_did(driver: Path) -> None:
    """The first replay has a bit of a register flipped; the second has not."""
    with LogReader(driver) as reader:
        first = rebuild(driver, reader.header, None)
        run = first.run

        def flipping(entry: Any) -> Any:
            if entry.sequence == 20:
                flip_register("x27", 11)(first)  # type: ignore[arg-type]
            return run(entry)

        first.run = flipping  # type: ignore[method-assign]
        with pytest.raises(Divergence) as raised:
            replay(first, reader)
        found = Inquiry(driver, None, raised.value, first).finding()
        first.close()
    assert found.kind == "host" and "gives what was recorded" in found.summary, found
    assert found.details[0].startswith("x27: first "), found


def test_what_cannot_be_known_is_not_guessed(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole instruction of the recorder's code is another one, and it has no checkpoints."""
    monkeypatch.setattr(trials, "WORK_MAX", 100_000_000)

    def change(debugger: Debugger) -> None:
        pc = debugger.registers()["pc"]
        debugger.hart.load_ram(pc - RAM_BASE, bytes.fromhex("13000000"))

    log = faulty(driver, 30, change, tmp_path / "unknown.log")
    report = run_replay(log, inquire=lambda divergence, first: Inquiry(log, None, divergence, first).finding())
    found = report.finding
    assert found is not None and found.kind == "recorder" and found.instructions is None, found
    assert "no checkpoint" in "\n".join(found.details), found
    command = [sys.executable, "-m", "ftvm.cli", "replay", str(log), "--no-bisect"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "something else" not in done.stdout
