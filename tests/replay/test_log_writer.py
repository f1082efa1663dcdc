# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing a log: when entries reach write(2), going on with a log, forgetting its end, and disks that refuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devices.event import Event
from replay.entry import Entry, EpochResult, recorded
from replay.errors import LogDamaged, LogError
from replay.header import LogHeader
from replay.inspect import verify
from replay.log_reader import LogReader
from replay.log_scan import Scan
from replay.log_writer import FLUSH_BYTES, KEY_EVERY_BYTES, LogWriter

Pair = tuple[Entry, EpochResult]
Stream = Callable[..., Iterator[Pair]]


def contents(path: Path) -> list[object]:
    with LogReader(path) as reader:
        return list(reader)


def kept(pairs: list[Pair]) -> list[object]:
    return [(entry, recorded(result)) for entry, result in pairs]


def big(sequence: int, size: int) -> Pair:
    entry = Entry(sequence, 0, 0, 0, 0, (Event(2, 0, os.urandom(size)),))
    return entry, EpochResult(sequence, 1, 0, 0, 0)


def test_entries_wait_for_at_most_100_ms(tmp_path: Path, header: LogHeader, streams: dict[str, Stream]) -> None:
    path = tmp_path / "a.log"
    pairs = list(streams["idle"](3))
    with LogWriter(path, header) as writer:
        assert writer.deadline is None
        assert not writer.flush_due(1e9)
        writer.append(*pairs[0], 50.0)
        assert writer.deadline == pytest.approx(50.1)
        writer.append(*pairs[1], 50.05)
        assert writer.deadline == pytest.approx(50.1)
        assert not writer.flush_due(50.0999)
        assert (contents(path), writer.written_sequence) == ([], None)
        assert writer.flush_due(50.1001)
        assert (contents(path), writer.written_sequence) == (kept(pairs[:2]), 2)
        assert writer.deadline is None
        writer.append(*pairs[2], 60.0)
        assert len(contents(path)) == 2
    assert contents(path) == kept(pairs)


def test_an_entry_that_comes_late_takes_the_waiting_ones_along(
    tmp_path: Path, header: LogHeader, streams: dict[str, Stream]
) -> None:
    pairs = list(streams["idle"](2))
    with LogWriter(tmp_path / "a.log", header) as writer:
        writer.append(*pairs[0], 1.0)
        writer.append(*pairs[1], 1.2)
        assert writer.written_sequence == 2


def test_many_bytes_do_not_wait(tmp_path: Path, header: LogHeader) -> None:
    with LogWriter(tmp_path / "a.log", header) as writer:
        writer.append(*big(1, FLUSH_BYTES - 100), 0.0)
        assert writer.written_sequence is None
        writer.append(*big(2, 200), 0.0)
        assert writer.written_sequence == 2


def test_a_record_is_one_write(
    tmp_path: Path, header: LogHeader, streams: dict[str, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    pwrite = os.pwrite

    def count(fd: int, data: bytes, at: int) -> int:
        writes.append(at)
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", count)
    with LogWriter(tmp_path / "a.log", header) as writer:
        for entry, result in streams["idle"](300):
            writer.append(entry, result, 0.0)
        assert len(writes) == 2  # the header, and 255 entries
    assert len(writes) == 4


def test_sync_makes_every_flush_reach_the_disk(
    tmp_path: Path, header: LogHeader, streams: dict[str, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    for sync, expected in ((True, 4), (False, 0)):  # the header, two flushes, the end
        synced.clear()
        with LogWriter(tmp_path / f"{sync}.log", header, sync=sync) as writer:
            for index, (entry, result) in enumerate(streams["idle"](2)):
                writer.append(entry, result, index)
                writer.flush()
        assert len(synced) == expected


def test_an_existing_file_is_refused_unless_told_to_replace_it(tmp_path: Path, header: LogHeader) -> None:
    path = tmp_path / "a.log"
    path.write_text("precious")
    with pytest.raises(LogError, match="exists: remove it"):
        LogWriter(path, header)
    assert path.read_text() == "precious"
    LogWriter(path, header, replace=True).close()
    assert contents(path) == []
    with pytest.raises(LogError, match="cannot make the log"):
        LogWriter(tmp_path / "missing" / "a.log", header)


def test_a_gap_is_our_own_bug(tmp_path: Path, header: LogHeader, streams: dict[str, Stream]) -> None:
    pairs = list(streams["idle"](3))
    with LogWriter(tmp_path / "a.log", header) as writer:
        writer.append(*pairs[0], 0.0)
        with pytest.raises(AssertionError):
            writer.append(*pairs[2], 0.0)


def test_recording_goes_on_where_it_ended(tmp_path: Path, header: LogHeader, streams: dict[str, Stream]) -> None:
    path = tmp_path / "a.log"
    pairs = list(streams["mixed"](60))
    LogWriter(path, header).close()
    for start in range(0, 60, 20):
        with LogWriter.resume(path, replace(header, notes={"by": "another"})) as writer:
            assert (writer.cut, writer.entries) == (None, start)
            assert writer.last_sequence == (start or None)
            for entry, result in pairs[start : start + 20]:
                writer.append(entry, result, 0.0)
    assert contents(path) == kept(pairs)
    with LogReader(path) as reader:
        assert list(reader.entries(35)) == kept(pairs)[34:]
        assert reader.closed


def test_going_on_tells_what_it_cut(tmp_path: Path, header: LogHeader, streams: dict[str, Stream]) -> None:
    path = tmp_path / "a.log"
    with LogWriter(path, header) as writer:
        for entry, result in streams["mixed"](40):
            writer.append(entry, result, 0.3 * entry.sequence)
        writer.flush()
        size = writer.size
    os.truncate(path, size - 3)
    with LogWriter.resume(path, header) as writer:
        assert writer.cut is not None
        assert 0 < writer.cut.size < 300
        assert writer.cut.last_sequence == writer.last_sequence == 38  # two to a record
        assert "bytes from offset" in str(writer.cut)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": {"kernel": "ee" * 32, "disk0": "cd" * 32}}, "image 'kernel' has digest"),
        ({"images": {"kernel": "ab" * 32}}, "image 'disk0' of the recording is missing"),
        ({"images": {"kernel": "ab" * 32, "disk0": "cd" * 32, "initrd": "0"}}, "image 'initrd' was not there"),
        ({"machine": b'name = "toy"\nmemory = 128\n', "configuration": "x"}, "-memory = 64, +memory = 128"),
        ({"engine": "toy 2.0"}, "engine 'toy 1.0', here it is 'toy 2.0'"),
        ({"pair": "other"}, "pair 'pair0', here it is 'other'"),
        ({"rate": 7}, "rate 30, here it is 7"),
    ],
)
def test_another_machines_log_is_refused_in_words(
    tmp_path: Path, header: LogHeader, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "a.log"
    LogWriter(path, header).close()
    before = path.read_bytes()
    with pytest.raises(LogError) as caught:
        LogWriter.resume(path, replace(header, **change))  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert path.read_bytes() == before


def test_going_on_needs_a_log(tmp_path: Path, header: LogHeader) -> None:
    with pytest.raises(LogError, match="cannot open the log"):
        LogWriter.resume(tmp_path / "none.log", header)
    (tmp_path / "text").write_text("something else entirely")
    with pytest.raises(LogError, match="not an ftvm log"):
        LogWriter.resume(tmp_path / "text", header)


@pytest.mark.parametrize("state", [None, 4])
def test_everything_after_a_sequence_can_be_forgotten(
    tmp_path: Path, header: LogHeader, streams: dict[str, Stream], record: Callable[..., Path], state: int | None
) -> None:
    """At every sequence, also in the middle of a record; then the recording goes on with another history."""
    sections = (state, [("all", b"x" * 100)]) if state else None
    pairs, others = list(streams["mixed"](40, first=5)), list(streams["computing"](40, first=5))
    for last in range(4, 46):
        path = record(tmp_path / "a.log", pairs, state=sections)
        with LogWriter.resume(path, header) as writer:
            writer.truncate_after(last)
            kept_count = min(last - 4, 40)
            assert writer.entries == kept_count
            assert writer.last_sequence == (min(last, 44) if kept_count or state else None)
            assert contents(path) == kept(pairs[:kept_count])
            for entry, result in others[kept_count:]:
                writer.append(entry, result, 0.0)
        assert contents(path) == kept(pairs[:kept_count] + others[kept_count:])
        assert verify(path).exit_code == 0


def test_waiting_entries_can_be_forgotten_too(tmp_path: Path, header: LogHeader, streams: dict[str, Stream]) -> None:
    pairs = list(streams["mixed"](10))
    with LogWriter(tmp_path / "a.log", header) as writer:
        for entry, result in pairs:
            writer.append(entry, result, 0.0)
        writer.truncate_after(6)
        assert contents(writer.path) == kept(pairs[:6])
        writer.append(*pairs[6], 0.0)
    assert contents(tmp_path / "a.log") == kept(pairs[:7])


def test_the_checkpoint_that_a_log_starts_from_cannot_be_forgotten(
    tmp_path: Path, header: LogHeader, streams: dict[str, Stream], record: Callable[..., Path]
) -> None:
    path = record(tmp_path / "a.log", list(streams["mixed"](5, first=8)), state=(7, [("all", b"x")]))
    with LogWriter.resume(path, header) as writer, pytest.raises(LogError, match="checkpoint at sequence 7"):
        writer.truncate_after(6)
    assert len(contents(path)) == 5


def test_reading_can_begin_in_the_middle_of_a_long_log(tmp_path: Path, header: LogHeader) -> None:
    """Records that stand for themselves come often enough, and what lies before one of them is not decoded."""
    path = tmp_path / "a.log"
    pairs = [big(sequence, 30_000) for sequence in range(1, 4 * KEY_EVERY_BYTES // 30_000)]
    with LogWriter(path, header) as writer:
        for entry, result in pairs:
            writer.append(entry, result, 0.0)
    with LogReader(path) as reader:
        assert list(reader.entries(30)) == kept(pairs)[29:]
        assert list(reader.entries(1000)) == []
    with path.open("rb") as file:
        keys = [r.header.key for r in Scan(file.fileno(), path)]
    assert 4 <= sum(keys) <= 6


def run_python(source: str, *arguments: str) -> subprocess.Popen[str]:
    """A process with this Python and our packages."""
    root = str(Path(__file__).parents[2])
    code = textwrap.dedent(source)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})


RECORDER = """
    import sys, time, os, zlib
    from devices.event import Event
    from replay.entry import Entry, EpochResult
    from replay.header import LogHeader
    from replay.log_writer import LogWriter
    writer = LogWriter(sys.argv[1], LogHeader(b"m", "c", {}, "e"))
    for n in range(1, 1_000_000):
        data = zlib.crc32(n.to_bytes(8, "big")).to_bytes(4, "big") * (n % 90)
        writer.append(Entry(n, n, n, n, 0, (Event(2, 0, data),)), EpochResult(n, 1, n, n, zlib.crc32(data)), n / 1000)
        if n % 100 == 0:
            print(writer.written_sequence, flush=True)
"""


def test_a_killed_recorders_log_is_whole_up_to_its_last_record(tmp_path: Path, header: LogHeader) -> None:
    """Nothing that was handed to write(2) is lost, whatever the moment; and another process goes on with it."""
    for round_number in range(3):
        path = tmp_path / f"{round_number}.log"
        process = run_python(RECORDER, str(path))
        assert process.stdout is not None
        for _ in range(7 + 3 * round_number):
            written = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        verdict = verify(path)
        assert verdict.exit_code == 0, verdict.words
        assert not verdict.closed
        assert verdict.last_sequence is not None
        assert verdict.last_sequence >= written > 0
        assert len(contents(path)) == verdict.last_sequence
        with LogWriter.resume(path, LogHeader(b"m", "c", {}, "e")) as writer:
            writer.append(Entry(verdict.last_sequence + 1, 0, 0, 0, 0), EpochResult(0, 1, 0, 0, 0), 0.0)
        assert verify(path).closed


FULL_DISK = """
    import resource, sys
    from replay.entry import Entry, EpochResult
    from replay.errors import LogError
    from replay.header import LogHeader
    from replay.log_writer import LogWriter
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    writer = LogWriter(sys.argv[1], LogHeader(b"m", "c", {}, "e"))
    try:
        for n in range(1, 10_000):
            writer.append(Entry(n, n, n, n, 0), EpochResult(n, 1, n, n, n * 0x9E3779B1), n / 100)
    except LogError as error:
        print(writer.written_sequence, error)
    try:
        writer.append(Entry(n + 1, n, n, n, 0), EpochResult(n, 1, n, n, 0), 0.0)
    except LogError as error:
        print("again", error)
    writer.close()
"""


def test_a_disk_that_refuses_leaves_a_readable_log_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    process = run_python(FULL_DISK, str(path))
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    first, again = output.splitlines()
    written = int(first.split()[0])
    assert f"cannot record to {path}: File too large; the log keeps all entries up to {written}" in first
    assert again == "again " + first.partition(" ")[2]
    verdict = verify(path)
    assert (verdict.state, verdict.last_sequence, verdict.closed) == ("whole", written, False)
    assert written > 100


def test_a_disk_that_fails_to_sync_is_told(
    tmp_path: Path, header: LogHeader, streams: dict[str, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    writer = LogWriter(tmp_path / "a.log", header, sync=True)
    monkeypatch.setattr(os, "fdatasync", fail)
    writer.append(*next(streams["idle"](1)), 0.0)
    with pytest.raises(LogError, match="Input/output error"):
        writer.flush()
    writer.close()
    assert len(contents(tmp_path / "a.log")) == 1


def test_a_recorder_that_fails_leaves_its_log_without_an_end(
    tmp_path: Path, header: LogHeader, streams: dict[str, Stream]
) -> None:
    path = tmp_path / "a.log"
    with pytest.raises(ZeroDivisionError), LogWriter(path, header) as writer:
        writer.append(*next(streams["idle"](1)), 0.0)
        _ = 1 // 0
    assert len(contents(path)) == 1
    assert not verify(path).closed


def test_one_entry_may_carry_the_largest_write(tmp_path: Path, header: LogHeader) -> None:
    """33 MiB that do not compress: a record of the long form."""
    entry, result = big(1, 33 << 20)
    with LogWriter(tmp_path / "a.log", header) as writer:
        writer.append(entry, result, 0.0)
    with LogReader(tmp_path / "a.log") as reader:
        found = next(iter(reader))[0]
        assert found.events[0].data == entry.events[0].data
    data = bytearray((tmp_path / "a.log").read_bytes())
    data[20 << 20] ^= 0x10
    (tmp_path / "a.log").write_bytes(data)
    with pytest.raises(LogDamaged, match="body's check"):
        contents(tmp_path / "a.log")
