# SPDX-License-Identifier: GPL-2.0-or-later
"""`Recording`: what scripts see of a log, and what a replay adds, against what the guest did when it was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.event import Event, EventKind
from ftvm.scripting import (
    BlockReply,
    BlockRequest,
    Divergence,
    Input,
    Interrupt,
    Ip,
    LogError,
    Output,
    Packet,
    Position,
    Recording,
)
from tests.machine.box import blockd_config
from tests.travel.recorded import READ, WRITE, RecordedBox


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RecordedBox]:
    """A recording, and the bench that it was made on."""
    path = tmp_path_factory.mktemp("driver") / "driver.log"
    box = RecordedBox(blockd_config(), path)
    box.until("blockd: ready")
    for number in range(6):
        box.run(box.request(1, WRITE, 512 * number, data=bytes([number]) * 512))
        box.wait()
    box.run(box.request(1, READ, 0, 3072))
    box.wait()
    box.run(Event(EventKind.CONTROL, 0, b"stop"))
    box.close()
    return path, box


def test_it_says_what_was_recorded(driver: tuple[Path, RecordedBox]) -> None:
    path, box = driver
    with Recording.open(path) as recording:
        assert recording.machine.name == "box" and recording.path == path and recording.starts_after == 0
        assert recording.header.images == box.image.digests
        assert recording.statistics().events == {"block_request": 7, "control": 1}
        assert recording.verify().state == "whole" and recording.tail == ""


def test_epochs_are_those_that_the_machine_ran(driver: tuple[Path, RecordedBox]) -> None:
    path, box = driver
    with Recording.open(path) as recording:
        epochs = list(recording)
        assert [(epoch.sequence, epoch.clock_end, epoch.time_end) for epoch in epochs] == [
            (result.sequence, result.clock, result.time) for result in box.results
        ]
        assert epochs[-1].reason == "stopped" and epochs[2].reason == "idle" and epochs[2].idle
        assert list(recording.epochs(3, 5)) == epochs[2:5], "sequences count from 1"
        wanted = epochs[7]
        assert recording.at_time(wanted.time_end / 1e7) in epochs[:8]
        assert recording.at_time(1e9) is None
        assert (wanted.start, wanted.end) == (Position(8, wanted.clock), Position(8, wanted.clock_end))


def test_inputs_are_typed(driver: tuple[Path, RecordedBox]) -> None:
    path, _ = driver
    with Recording.open(path) as recording:
        requests = [event.content for event in recording.inputs(kinds={"block_request"})]
        assert all(isinstance(request, BlockRequest) for request in requests)
        assert requests[2] == BlockRequest(1, "write", 1024, 512, False, b"\2" * 512)
        (stop,) = recording.inputs(kinds=["control"])
        assert (stop.kind, stop.summary, stop.direction) == ("control", "stop", "in")
        assert [event.payload[:1] for event in recording.inputs()][:3] == [b"\0", b"\1", b"\2"]


def test_a_replay_brings_the_outputs_back(driver: tuple[Path, RecordedBox]) -> None:
    """All of them, as they were, with clocks inside their epochs."""
    path, box = driver
    with Recording.open(path) as recording, recording.replay() as replay:
        epochs = list(replay)
        made = [(output.sequence, output.index, output.code, output.data) for e in epochs for output in e.outputs]
        assert made == [(sequence, index, output.kind, output.data) for sequence, index, output in box.emitted]
        for each in epochs:
            assert all(each.epoch.clock <= output.clock <= each.epoch.clock_end for output in each.outputs)
            assert all(each.epoch.time <= output.time <= each.epoch.time_end for output in each.outputs)
        assert replay.verified == len(epochs) == len(box.results)
        replies = [output.content for output in epochs[-2].outputs + epochs[-3].outputs]
        assert BlockReply(1, 7, 0, b"".join(bytes([n]) * 512 for n in range(6))) in replies
        assert recording.console() == box.console.encode()


def test_a_part_is_the_same_as_in_the_whole(driver: tuple[Path, RecordedBox]) -> None:
    path, _ = driver
    with Recording.open(path) as recording:
        whole = [output for output in recording.outputs() if 6 <= output.sequence <= 12]
        assert list(recording.outputs(6, 12)) == whole and len(whole) > 2


def test_a_part_behind_a_checkpoint_is_the_same_too(driver: tuple[Path, RecordedBox], tmp_path: Path) -> None:
    path, _ = driver
    copy = tmp_path / "copy.log"
    copy.write_bytes(path.read_bytes())
    with Recording.open(copy) as recording:
        before = list(recording.happenings(6, interrupts=True))
        with recording.debugger() as debugger:
            debugger.make_checkpoints()
        assert (tmp_path / "copy.log.ckpt").exists()
        assert list(recording.happenings(6, interrupts=True)) == before


def test_interrupts_are_where_the_machine_takes_them(logs: Path) -> None:
    """At each, the machine stands at its handler, with that cause, in the timer guest and in the driver."""
    for name, kind in (("timer", "timer"), ("driver", "external")):
        with Recording.open(logs / f"{name}.log") as recording, recording.debugger() as debugger:
            taken = [each for each in recording.happenings(interrupts=True) if isinstance(each, Interrupt)]
            assert len(taken) >= 11 and {each.name for each in taken} == {kind}
            assert len({each.position for each in taken}) == len(taken)
            for each in taken[:12]:
                assert debugger.timeline.seek(each.position) == each.position
                registers = debugger.registers()
                assert registers["pc"] == each.handler == registers["stvec"]
                assert registers["scause"] == 1 << 63 | each.cause
                assert debugger.machine.time == each.time


def test_requests_to_the_disk_are_those_of_the_clients(logs: Path) -> None:
    """The driver does what its clients ask for, sector by sector, in order."""
    with Recording.open(logs / "driver.log") as recording, recording.replay(disks=True) as replay:
        asked: list[tuple[str, int, int]] = []
        done = []
        for replayed in replay:
            for event in replayed.epoch.inputs:
                content = event.content
                assert isinstance(content, BlockRequest)
                asked.append((content.command, content.offset, content.length))
            done += [(each.command, each.offset, each.length) for each in replayed.disk_requests]
        assert done == asked and len(done) == 40


def test_happenings_come_in_order(logs: Path) -> None:
    with Recording.open(logs / "echo.log") as recording:
        found = list(recording.happenings(replay=True))
        assert [each.position for each in found] == sorted(each.position for each in found)
        assert [each.time for each in found] == sorted(each.time for each in found)
        packets = [each for each in found if isinstance(each, Input | Output) and isinstance(each.content, Packet)]
        assert [each.direction for each in packets] == ["in", "out"] * 6, "each packet is echoed"
        for sent, echoed in zip(packets[2::2], packets[3::2], strict=True):
            assert isinstance(sent.content, Packet) and isinstance(echoed.content, Packet)
            there, back = sent.content.frame.network, echoed.content.frame.network
            assert isinstance(there, Ip) and isinstance(back, Ip)
            assert (there.source, there.destination) == (back.destination, back.source)


def test_another_guest_is_a_divergence(driver: tuple[Path, RecordedBox], tmp_path: Path) -> None:
    """A bit flips while the guest is recorded: the replay stops at that entry, and without comparing it goes on."""
    path = tmp_path / "flipped.log"
    box = RecordedBox(blockd_config(), path)
    box.until("blockd: ready")
    box.flip(box.machine.hart.registers()["x2"] - 4096, 0)  # unused stack: only a digest of pages sees it
    for number in range(3):
        box.run(box.request(1, WRITE, 512 * number, data=b"x" * 512))
        box.wait()
    box.run(flags=1)
    box.close()
    with Recording.open(path) as recording:
        with pytest.raises(Divergence), recording.replay() as replay:
            list(replay)
        with recording.replay(verify=False) as replay:
            assert len(list(replay)) == len(box.results) and replay.verified == 0


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot open"):
        Recording.open(tmp_path / "none")
    (tmp_path / "text").write_text("not a log")
    with pytest.raises(LogError, match="not an ftvm log"):
        Recording.open(tmp_path / "text")
