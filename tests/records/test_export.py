# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm log export`: captures that tcpdump reads, and traces, read back with Perfetto's library."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from devices.event import Event, EventKind, OutputKind
from devices.virtio.offload import GSO_TCPV4, NEEDS_CSUM, PACKET_HEADER, plain
from ftvm.cli import main
from ftvm.records.happening import Input, Output
from ftvm.records.pcapng import CaptureWriter, on_the_wire
from ftvm.scripting import Interrupt, Recording
from replay.entry import Entry, EpochResult
from replay.header import LogHeader
from replay.log_writer import LogWriter
from tests.machine import frames
from tests.records.test_frame import tcp

TCPDUMP = "tcpdump"


def export(log: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["log", "export", str(log), *map(str, arguments)])


# -- captures -------------------------------------------------------------------------------------------------------


def tcpdump(capture: Path, *arguments: str) -> list[str]:
    """What a real tcpdump reads in it."""
    if shutil.which(TCPDUMP) is None:
        words = f"{TCPDUMP} is not installed (apt-get install tcpdump)"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    command = [TCPDUMP, "-n", "-tt", "-r", str(capture), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TZ": "UTC"})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_tcpdump_reads_packets_in_and_out_at_guest_time(logs: Path, tmp_path: Path) -> None:
    capture = tmp_path / "echo.pcapng"
    assert export(logs / "echo.log", "--pcap", capture, "--json").exit_code == 0
    lines = tcpdump(capture, "-v")
    with Recording.open(logs / "echo.log") as recording:
        packets = [each for each in recording.happenings(replay=True) if "packet" in each.kind]
    stamps = [line.split()[0] for line in tcpdump(capture)]
    assert stamps == [f"{each.time // 10 / 1e6:.6f}" for each in packets], "microseconds is what it prints"
    text = "\n".join(lines)
    assert text.count("ICMP echo request") == text.count("ICMP echo reply") == 3
    assert "who-has 10.0.2.15 tell 10.0.2.2" in text and "is-at 52:54:00:ab:cd:ef" in text
    assert "bad" not in text and "truncated" not in text


def test_without_a_replay_only_what_came_in_is_there(logs: Path, tmp_path: Path) -> None:
    exported = export(logs / "echo.log", "--pcap", tmp_path / "x", "--no-replay", "--json")
    assert json.loads(exported.stdout)["packets"] == 6
    lines = tcpdump(tmp_path / "x")
    assert len(lines) == 6 and not any("reply" in line.lower() for line in lines)


def test_a_capture_without_packets_is_one_all_the_same(logs: Path, tmp_path: Path) -> None:
    assert "0 packets" in export(logs / "timer.log", "--pcap", tmp_path / "x").stdout
    assert tcpdump(tmp_path / "x") == []


def test_several_cards_long_segments_and_bytes_that_are_no_packet(tmp_path: Path) -> None:
    """Also what a guest may send to upset whoever reads captures."""
    segment = bytearray(tcp(0x10, bytes(5000)))
    pseudo = frames.OUR_IP + frames.IP + struct.pack(">HH", 6, len(segment))
    segment[16:18] = struct.pack(">H", 0xFFFF - frames.checksum(pseudo))
    long = frames.ipv4(6, bytes(segment))
    given = [
        (0, plain(frames.arp())),
        (3, PACKET_HEADER.pack(NEEDS_CSUM, GSO_TCPV4, 54, 1448, 34, 16) + long),
        (1, plain(b"x")),
        (1, b"short"),
        (2, PACKET_HEADER.pack(255, 255, 0, 0, 9, 9) + frames.arp()),
    ]
    path = tmp_path / "x"
    with path.open("wb") as file:
        writer = CaptureWriter(file, "a test")
        for number, (unit, data) in enumerate(given):
            place = 7, 0, number, 1 << 40 | number
            assert writer.add(Input(*place, EventKind.PACKET, unit, data)) == (data != b"short")
            assert writer.add(Output(*place, OutputKind.PACKET, unit, data, 0, False)) == (data != b"short")
        assert not writer.add(Input(7, 0, 0, 0, EventKind.CONTROL, 0, b"stop"))
    assert writer.packets == 8
    lines = tcpdump(path)
    assert len(lines) == 8 and "length 5000" in lines[2]
    assert {line.split(".")[0] for line in lines} == {str((1 << 40) // 10_000_000)}
    checked = "\n".join(tcpdump(path, "-v", "tcp"))
    assert "(correct)" in checked and "incorrect" not in checked, "the checksum that was left to the card"


def test_what_does_not_fit_its_header_goes_as_it_is() -> None:
    assert on_the_wire(PACKET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 900, 2) + frames.arp()) == frames.arp()
    assert on_the_wire(b"abc") == b""


# -- traces ---------------------------------------------------------------------------------------------------------


class ReadTrace:
    """A trace as its readers see it: slices and counters by the names of their tracks."""

    def __init__(self, path: Path) -> None:
        trace = Trace()
        trace.ParseFromString(path.read_bytes())
        self.names: dict[int, str] = {}
        self.units: dict[str, str] = {}
        self.slices: dict[str, list[dict[str, Any]]] = {}
        self.counters: dict[str, list[tuple[int, float]]] = {}
        self.open: dict[int, list[dict[str, Any]]] = {}
        self.process = ""
        last = 0
        for packet in trace.packet:
            assert packet.trusted_packet_sequence_id == 1
            if packet.HasField("track_descriptor"):
                self._track(packet.track_descriptor)
            else:
                assert packet.HasField("track_event")
                self._event(packet.timestamp, packet.track_event)
                last = max(last, packet.timestamp)
        self.unfinished = [each for opened in self.open.values() for each in opened]

    def _track(self, track: Any) -> None:
        assert track.uuid not in self.names
        self.names[track.uuid] = track.name
        if track.HasField("process"):
            self.process = track.process.process_name
            return
        assert self.names[track.parent_uuid] == "", "a track of the guest"
        if track.HasField("counter"):
            self.units[track.name] = track.counter.unit_name

    def _event(self, time: int, event: Any) -> None:
        name = self.names[event.track_uuid]
        if event.type == TrackEvent.TYPE_COUNTER:
            self.counters.setdefault(name, []).append((time, event.double_counter_value))
            return
        details = {note.name: note.string_value or note.uint_value for note in event.debug_annotations}
        opened = self.open.setdefault(event.track_uuid, [])
        if event.type == TrackEvent.TYPE_SLICE_END:
            ended = opened.pop()  # fails when there is nothing to end
            assert ended["time"] <= time
            ended["end"] = time
            ended |= details
            return
        found = {"name": event.name, "time": time, **details}
        self.slices.setdefault(name, []).append(found)
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            assert not opened, f"two slices at once on {name}"
            opened.append(found)


@pytest.fixture(scope="module")
def driver_trace(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> ReadTrace:
    path = tmp_path_factory.mktemp("trace") / "driver.pftrace"
    result = export(logs / "driver.log", "--perfetto", path)
    assert result.exit_code == 0 and "open it at ui.perfetto.dev" in result.stdout, result.output
    return ReadTrace(path)


def test_epochs_are_slices_with_their_entries(driver_trace: ReadTrace, logs: Path) -> None:
    with Recording.open(logs / "driver.log") as recording:
        epochs = list(recording)
    slices = driver_trace.slices["epochs"]
    assert driver_trace.process == "guest box"
    assert [(each["time"], each["end"]) for each in slices] == [(e.time * 100, e.time_end * 100) for e in epochs]
    assert [each["position"] for each in slices] == [str(epoch.start) for epoch in epochs]
    assert slices[2]["name"] == "epoch, ends idle" and slices[2]["digest"] == f"{epochs[2].digest:08x}"
    assert driver_trace.units["speed"] == "bytes/us" and len(driver_trace.counters["speed"]) > 2


def test_block_requests_last_until_their_replies(driver_trace: ReadTrace) -> None:
    requests = driver_trace.slices["block requests"]
    assert len(requests) == 40 and not driver_trace.unfinished
    assert [each["request"] for each in requests] == list(range(1, 41))
    assert all(each["end"] > each["time"] and each["error"] == 0 for each in requests)
    under_way = [value for _, value in driver_trace.counters["requests without reply"]]
    assert set(under_way) == {0.0, 1.0} and under_way[-1] == 0.0
    done = driver_trace.slices["disk 0"]
    assert [(each["name"], each["offset"]) for each in done] == [(each["name"], each["offset"]) for each in requests]


def test_interrupts_and_the_console_are_there(driver_trace: ReadTrace, logs: Path) -> None:
    with Recording.open(logs / "driver.log") as recording:
        taken = [each for each in recording.happenings(interrupts=True) if isinstance(each, Interrupt)]
    assert [each["time"] for each in driver_trace.slices["interrupts"]] == [each.time * 100 for each in taken]
    (line,) = driver_trace.slices["console"]
    assert line["name"] == '"blockd: ready, 2048 sectors\\n"'


def test_packets_in_and_out_are_on_one_track(logs: Path, tmp_path: Path) -> None:
    assert export(logs / "echo.log", "--perfetto", tmp_path / "x", "--pcap", tmp_path / "y").exit_code == 0
    trace = ReadTrace(tmp_path / "x")
    names = [each["name"] for each in trace.slices["network 0"]]
    assert len(names) == 12 and [name.partition(":")[0] for name in names] == ["in", "out"] * 6
    assert len(tcpdump(tmp_path / "y")) == 12, "both from one replay"


def test_without_a_replay_requests_are_instants(logs: Path, tmp_path: Path) -> None:
    part = ("--no-replay", "--from", 10, "--to", 20)
    assert export(logs / "driver.log", "--perfetto", tmp_path / "x", *part).exit_code == 0
    trace = ReadTrace(tmp_path / "x")
    assert len(trace.slices["epochs"]) == 11 and not trace.unfinished
    assert all("end" not in each for each in trace.slices["block requests"])
    assert "interrupts" not in trace.slices and "disk 0" not in trace.slices


def test_a_part_knows_the_numbers_of_its_requests(logs: Path, tmp_path: Path) -> None:
    """Although the replies to those before are not in it, and the last has none."""
    whole_path, part_path = tmp_path / "whole", tmp_path / "part"
    export(logs / "driver.log", "--perfetto", whole_path)
    export(logs / "driver.log", "--perfetto", part_path, "--from", 31, "--to", 60)
    whole, part = (ReadTrace(path).slices["block requests"] for path in (whole_path, part_path))
    assert len(part) == 15 and part == [each for each in whole if 31 <= int(each["position"].split(":")[0]) <= 60]


def test_many_requests_at_once_have_lanes(tmp_path: Path) -> None:
    from tests.machine.box import blockd_config
    from tests.travel.recorded import READ, RecordedBox

    box = RecordedBox(blockd_config(), tmp_path / "many.log")
    box.until("blockd: ready")
    box.run(*(box.request(1, READ, 512 * number, 512) for number in range(9)))
    box.settle()
    box.close()
    assert export(tmp_path / "many.log", "--perfetto", tmp_path / "x").exit_code == 0
    trace = ReadTrace(tmp_path / "x")
    assert len(trace.slices["block requests"]) == 9 and not trace.unfinished
    assert max(value for _, value in trace.counters["requests without reply"]) == 9.0
    assert list(trace.names.values()).count("block requests") == 9, "nine at once, each in a lane, one name"


@pytest.mark.parametrize("start", [0, (1 << 64) - 2])
def test_a_log_that_was_made_up_is_written_too(tmp_path: Path, start: int) -> None:
    """Times and clocks that step back or reach the end of their range; every command gets to its end."""
    log = tmp_path / "x.log"
    events = tuple(Event(kind, 1 << 40, b"\xff" * 12) for kind in (1, 2, 3, 4, 5, 6, 7, 99))
    with LogWriter(log, LogHeader(b"", "12" * 32, {}, "toy", 30)) as writer:
        for sequence, time in enumerate((start, start + 1, 0, (1 << 64) - 1), 1):
            entry = Entry(sequence, start, time, time, 0, events)
            writer.append(entry, EpochResult(sequence, 200, (1 << 64) - 1, 0, 0), 0.0)
    done = export(log, "--perfetto", tmp_path / "x", "--pcap", tmp_path / "y", "--no-replay")
    assert done.exit_code == 0, done.output
    for command in (["show"], ["grep"], ["grep", "--json"], ["stat"]):
        result = CliRunner().invoke(main, ["log", command[0], str(log), *command[1:]])
        assert result.exit_code == 0 and result.stdout, result.output


# -- lag ------------------------------------------------------------------------------------------------------------


def sample(sequence: int, lag: float, acked: int, protected: bool = True) -> dict[str, object]:
    side = {"role": "primary", "sequence": sequence, "acked": acked, "lag_ms": lag}
    return {"name": "disk0", "primary": "b", "protected": protected, "sides": {"a": {"role": "backup"}, "b": side}}


def test_samples_of_a_status_become_lag(logs: Path, tmp_path: Path) -> None:
    status = tmp_path / "lag.json"
    samples = [sample(40, 1.5, 38), sample(20, 0.25, 20), sample(60, 9.0, 0, protected=False), {"primary": None}]
    status.write_text("\n".join(json.dumps(each, indent=2) for each in samples))
    assert export(logs / "driver.log", "--perfetto", tmp_path / "x", "--status", status).exit_code == 0
    trace = ReadTrace(tmp_path / "x")
    with Recording.open(logs / "driver.log") as recording:
        at = {epoch.sequence: epoch.time * 100 for epoch in recording}
    assert trace.counters["lag"] == [(at[20], 0.25), (at[40], 1.5)] and trace.units["lag"] == "ms"
    assert trace.counters["entries not acknowledged"] == [(at[20], 0.0), (at[40], 2.0)]


@pytest.mark.parametrize("content", ['{"a": ', "no json", "[" * 100_000])
def test_a_status_that_is_none_is_refused(logs: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "lag.json").write_text(content)
    refused = export(logs / "timer.log", "--perfetto", tmp_path / "x", "--status", tmp_path / "lag.json")
    assert refused.exit_code == 1 and "is not what ftvm status --json prints" in refused.stderr


# -- what goes wrong ------------------------------------------------------------------------------------------------


WRONG: list[tuple[list[str], int, str]] = [
    ([], 2, "say what to write"),
    (["--pcap", "x", "--status", "y"], 2, "--status is for --perfetto"),
    (["--pcap", "nowhere/x"], 1, "cannot write nowhere/x"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG)
def test_wrong_usage_is_told(logs: Path, arguments: list[str], code: int, words: str) -> None:
    result = export(logs / "timer.log", *arguments)
    assert result.exit_code == code and words in result.stderr
