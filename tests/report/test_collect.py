# SPDX-License-Identifier: GPL-2.0-or-later
"""What the page's data are: sums that are right, of bounded size, and the truth about logs that are not in order."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from devices.event import Event, EventKind
from devices.virtio.offload import plain
from ftvm.cli import main
from ftvm.report.bins import WORK_MAX, Bins, packed
from ftvm.report.collect import DETAILS_MAX, collect
from ftvm.report.sample import Sample
from ftvm.scripting import Recording
from replay.entry import Entry, EpochResult
from replay.header import LogHeader
from replay.log_writer import LogWriter
from tests.machine import frames
from tests.machine.box import blockd_config
from tests.report.browser import Browser
from tests.travel.recorded import WRITE, RecordedBox


def report(log: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", str(log), *map(str, arguments)])


def data_of(page: Path) -> dict[str, Any]:
    """What a page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def unpacked(values: list[int]) -> list[int]:
    return [each for value in values for each in ([0] * -value if value < 0 else [value])]


# -- bins and samples -----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1000)), min_size=1, max_size=60))
def test_bins_lose_nothing_whatever_the_times(given: list[tuple[int, int]]) -> None:
    given.sort()
    bins = Bins(8)
    for time, value in given:
        bins.add("x", time, value)
    (values,) = bins.series().values()
    assert sum(values) == sum(value for _, value in given) and len(values) <= 8
    assert bins.width == 1 or given[-1][0] - given[0][0] >= 4 * bins.width, "no wider than needed"
    for index, value in enumerate(values):
        left = bins.start + index * bins.width
        assert value == sum(each for time, each in given if left <= time < left + bins.width)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 100)), min_size=1, max_size=40))
def test_what_lasts_is_spread_over_its_bins(given: list[tuple[int, int]]) -> None:
    bins, time, each = Bins(16), 0, []
    for gap, span in given:
        bins.spread("busy", time + gap, time + gap + span, span)
        each.append((time + gap, time + gap + span))
        time += gap + span
    for index, value in enumerate(bins.series()["busy"]):
        left = bins.start + index * bins.width
        inside = sum(max(0, min(end, left + bins.width) - max(begin, left)) for begin, end in each)
        assert value == pytest.approx(inside)


def test_times_that_step_back_count_as_the_first() -> None:
    """No recorder writes such; a log may say anything."""
    bins = Bins(8)
    bins.add("x", 100)
    bins.add("x", 3)
    bins.spread("x", 200, 50, 5)
    assert sum(bins.series()["x"]) == 7


def test_a_log_of_endless_epochs_costs_no_more_than_its_length() -> None:
    """Each says that it took all the time there is: no recorder writes that, and it must not take hours to show."""
    bins = Bins()
    for number in range(20_000):
        bins.spread("busy", 0, 1 << 60, 1)
        bins.add("epochs", number)
    series = bins.series()
    assert sum(series["epochs"]) == 20_000 and sum(series["busy"]) == pytest.approx(20_000)
    assert bins._work > WORK_MAX, "it was bounded"


@given(st.lists(st.integers(0, 3)))
def test_packed_series_can_be_unpacked(values: list[int]) -> None:
    assert unpacked(packed([float(value) for value in values])) == values


@given(st.integers(0, 5000), st.integers(2, 50))
def test_a_sample_is_all_or_evenly_spread(count: int, most: int) -> None:
    sample: Sample[int] = Sample(most)
    for number in range(count):
        sample.offer(number if sample.wants_next() else None)
    assert sample.offered == count and len(sample.kept) <= most
    assert sample.kept == list(range(0, count, sample.stride))
    assert sample.stride == 1 or len(sample.kept) >= most // 2


# -- recordings -----------------------------------------------------------------------------------------------------


def test_the_data_add_up(recordings: Path) -> None:
    data = data_of(recordings / "driver.log.html")
    with Recording.open(recordings / "driver.log") as recording:
        counts = recording.statistics()
    series = {name: sum(unpacked(values)) for name, values in data["bins"]["series"].items()}
    assert series["epochs"] == counts.entries == data["facts"]["entries"] == data["facts"]["verified"]
    assert series["n block_request"] == 40 and series["n interrupt"] == 40
    assert series["code"] == pytest.approx(counts.clock_last - counts.clock_first, rel=0.01)
    assert {kind["name"]: kind["count"] for kind in data["kinds"]}["disk_request"] == 40
    assert len(data["rows"]) == 161


def test_without_a_replay_only_what_came_in_is_there(recordings: Path, tmp_path: Path) -> None:
    assert report(recordings / "driver.log", "--no-replay", "-o", tmp_path / "x.html").exit_code == 0
    data = data_of(tmp_path / "x.html")
    assert [kind["name"] for kind in data["kinds"]] == ["block_request"]
    assert (data["facts"]["replayed"], data["facts"]["verified"], data["facts"]["closed"]) == (False, 0, True)


def flood(path: Path, entries: int, *, close: bool = True) -> Path:
    """A log of a busy network, with the times of an hour."""
    header = LogHeader(b'name = "flood"\n', "12" * 32, {"kernel": "ab" * 32}, "toy", 30)
    chance = random.Random(1)
    packet = Event(EventKind.PACKET, 0, plain(frames.ipv4(17, frames.datagram(1024, 7, b"x" * 20))))
    clock = time = 0
    with LogWriter(path, header) as writer:
        for sequence in range(1, entries + 1):
            events = (packet,) * chance.choice((0, 1, 1, 3))
            time += chance.randrange(36_000_000_000 // entries * 2)
            entry = Entry(sequence, clock, time, time + 80_000, 90_000, events)
            clock += 10_000
            time += 333
            writer.append(entry, EpochResult(sequence, 1, clock, time, sequence), sequence * 0.001)
        if not close:
            writer.abandon()
    return path


def test_a_large_recording_is_a_page_of_bounded_size(browser: Browser, tmp_path: Path) -> None:
    """Its sums are exact, its events a sample; the browser shows them and zooms."""
    log = flood(tmp_path / "flood.log", 20_000)
    assert report(log, "--no-replay").exit_code == 0
    path = tmp_path / "flood.log.html"
    data = data_of(path)
    with Recording.open(log) as recording:
        packets = recording.statistics().events["packet"]
    (kind,) = data["kinds"]
    assert kind["count"] == sum(unpacked(data["bins"]["series"]["n packet"])) == packets > 20_000
    assert kind["stride"] == 8 and DETAILS_MAX / 2 <= len(data["rows"]) <= DETAILS_MAX
    assert path.stat().st_size < 800_000
    page = browser.open(path)
    assert f"every 8th of {packets:,} packet" in page.text("#shown")
    left, top, width, _ = page.box("#lanes")
    for _ in range(16):
        page.wheel(left + width / 3, top + 60, -400)
    assert page.value("view.end - view.begin") < 36_000_000_000 / 1000
    assert page.complaints == [] and page.requests == [path.as_uri()]


def test_a_part_is_a_page_with_more_of_it(recordings: Path, tmp_path: Path) -> None:
    assert report(recordings / "driver.log", "--from", 20, "--to", 29, "-o", tmp_path / "x.html").exit_code == 0
    data = data_of(tmp_path / "x.html")
    facts = data["facts"]
    assert (facts["first"], facts["last"], facts["entries"], facts["verified"]) == (20, 29, 10, 10)
    assert {int(position.split(":")[0]) for _, position, *_ in data["rows"]} == set(range(20, 30, 2))


def test_size_does_not_grow_with_the_log(tmp_path: Path) -> None:
    sizes = []
    for entries in (7_000, 28_000):
        log = flood(tmp_path / f"{entries}.log", entries)
        assert report(log, "--no-replay").exit_code == 0
        sizes.append((tmp_path / f"{entries}.log.html").stat().st_size)
    assert sizes[1] < 1.3 * sizes[0]


def test_a_divergence_is_told_in_the_page_and_by_the_exit_code(browser: Browser, tmp_path: Path) -> None:
    log = tmp_path / "flipped.log"
    box = RecordedBox(blockd_config(), log)
    box.until("blockd: ready")
    box.flip(box.machine.hart.registers()["x2"] - 4096, 0)
    box.run(box.request(1, WRITE, 0, data=b"x" * 512))
    box.run(flags=1)
    box.close()
    result = report(log)
    assert result.exit_code == 1 and "divergence in entry" in result.stderr
    page = browser.open(tmp_path / "flipped.log.html")
    verdict = page.text("#verdict")
    assert "divergence in entry" in verdict and "before that, " in verdict
    assert "blockd: ready" in page.text("#rows"), "what was before is there"


def test_damage_is_told_with_what_was_before(recordings: Path, tmp_path: Path) -> None:
    content = bytearray((recordings / "driver.log").read_bytes())
    content[-40] ^= 1
    (tmp_path / "damaged.log").write_bytes(content)
    result = report(tmp_path / "damaged.log")
    assert result.exit_code == 1 and "damaged at offset" in result.stderr
    facts = data_of(tmp_path / "damaged.log.html")["facts"]
    assert "damaged at offset" in facts["damage"] and 0 < facts["entries"] < 83


def test_a_torn_tail_and_a_killed_recorder_are_told_and_are_no_failure(recordings: Path, tmp_path: Path) -> None:
    content = (recordings / "driver.log").read_bytes()
    (tmp_path / "torn.log").write_bytes(content[:-40])
    assert report(tmp_path / "torn.log").exit_code == 0
    facts = data_of(tmp_path / "torn.log.html")["facts"]
    assert "bytes from offset" in facts["tail"] and not facts["closed"]
    flood(tmp_path / "killed.log", 50, close=False)
    assert report(tmp_path / "killed.log", "--no-replay").exit_code == 0
    facts = data_of(tmp_path / "killed.log.html")["facts"]
    assert (facts["tail"], facts["closed"]) == ("", False)


def test_a_recording_without_entries_is_a_page_too(browser: Browser, tmp_path: Path) -> None:
    flood_path = tmp_path / "empty.log"
    with LogWriter(flood_path, LogHeader(b"", "12" * 32, {}, "toy", 30)):
        pass
    assert report(flood_path, "--no-replay").exit_code == 0
    page = browser.open(tmp_path / "empty.log.html")
    assert page.complaints == [] and "0\nentries" in page.text("#figures")


@pytest.mark.parametrize("start", [0, (1 << 64) - 2, 1 << 53])
def test_impossible_times_and_clocks_do_not_upset_the_page(browser: Browser, tmp_path: Path, start: int) -> None:
    header = LogHeader(b"", "12" * 32, {}, "toy", 30)
    with LogWriter(tmp_path / "x.log", header) as writer:
        for sequence, time in enumerate((start, start + 1, 0, (1 << 64) - 1), 1):
            entry = Entry(sequence, start, time, time, 0, (Event(EventKind.CONSOLE_INPUT, 0, b"x"),))
            writer.append(entry, EpochResult(sequence, 6, (1 << 64) - 1, 0, 0), 0.0)
    assert report(tmp_path / "x.log", "--no-replay").exit_code == 0
    page = browser.open(tmp_path / "x.log.html")
    left, top, width, _ = page.box("#lanes")
    for _ in range(40):
        page.wheel(left + width / 2, top + 40, -600)
    page.value("chart.focus()")
    for key in ("n", "n", "ArrowRight", "Home", "-", "p"):
        page.key(key)
    assert page.complaints == []


def test_what_cannot_be_replayed_here_is_refused(tmp_path: Path) -> None:
    result = report(flood(tmp_path / "x.log", 5))
    assert result.exit_code == 1 and "it was recorded with engine 'toy'" in result.stderr
    assert not (tmp_path / "x.log.html").exists()


def test_a_log_that_names_any_number_of_kinds_is_bounded(tmp_path: Path) -> None:
    header = LogHeader(b"", "12" * 32, {}, "toy", 30)
    with LogWriter(tmp_path / "x.log", header) as writer:
        for sequence in range(1, 301):
            entry = Entry(sequence, 0, sequence, sequence, 0, (Event(1000 + sequence, 0, b"</script>"),))
            writer.append(entry, EpochResult(sequence, 0, 0, sequence, 0), 0.0)
    with Recording.open(tmp_path / "x.log") as recording:
        found = collect(recording, replay=False)
    assert len(found.kinds) == 65 and found.kinds["other"].count == 300 - 64
