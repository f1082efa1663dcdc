# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm log show` and `ftvm log grep`: what they print, find and refuse."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from devices.event import Event, OutputKind
from ftvm.cli import main
from ftvm.records.happening import Happening, Input, Output, epoch_of
from ftvm.records.lines import epoch_lines
from ftvm.records.query import LINE_MAX, PatternError, Query, hex_pattern, text_pattern, with_whole_lines
from replay.entry import Entry, EntryFlag, RecordedResult


def ftvm(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def grep(log: Path, *arguments: object) -> list[str]:
    """The lines found."""
    result = ftvm("log", "grep", log, *arguments)
    assert result.exit_code == (0 if result.stdout else 1), result.output
    return result.stdout.splitlines()


def objects(log: Path, *arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in grep(log, "--json", *arguments)]


# -- show -----------------------------------------------------------------------------------------------------------


def test_an_entry_is_a_line_and_what_it_brought_is_below() -> None:
    events = (Event(1, 0, b"ls\n"), Event(7, 1, b"\1"))
    entry = Entry(12, 4096, 12_345_678, 12_400_000, 90_000, events, EntryFlag.DIGEST_PAGES)
    epoch = epoch_of(entry, RecordedResult(1, 5000, 12_345_708, 0xAB, 0xCD))
    assert list(epoch_lines(epoch, epoch.inputs)) == [
        "      12  clock 4096 +904 of 90000  time 1.2345678 +3.0 us  idle  digest 000000ab  pages 00000000000000cd"
        "  digest_pages",
        '          <- console_input  "ls\\n"',
        "          <- link           link of network 1: up",
    ]


def test_show_prints_a_range_with_summaries(logs: Path) -> None:
    lines = ftvm("log", "show", logs / "driver.log", "--from", 3, "--to", 5).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "4", "<-", "5"]
    assert " write on connection 1: " in lines[2]


def test_show_with_a_replay_has_outputs_too(logs: Path) -> None:
    shown = ftvm("log", "show", logs / "echo.log", "--replay").stdout
    assert "<- packet 0       ARP who has 10.0.2.15? tell 10.0.2.2 [42 bytes]" in shown
    assert "-> packet_out 0   ARP reply: 10.0.2.15 is at 52:54:00:ab:cd:ef [42 bytes]" in shown
    as_json = ftvm("log", "show", logs / "echo.log", "--replay", "--json", "--to", 3).stdout.splitlines()
    epochs = [json.loads(line) for line in as_json]
    assert [epoch["sequence"] for epoch in epochs] == [1, 2, 3]
    assert [each["kind"] for each in epochs[2]["happenings"]] == ["packet", "packet_out"]


def test_nothing_that_a_guest_says_reaches_the_terminal(logs: Path) -> None:
    """Neither from the console nor in packets; the words are there, escaped."""
    for name in ("console", "echo"):
        for command in (("log", "show"), ("log", "grep")):
            text = ftvm(*command, logs / f"{name}.log", "--replay").stdout
            assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b]0;title\\x07" in ftvm("log", "show", logs / "console.log").stdout


def test_what_was_before_damage_is_shown(logs: Path, tmp_path: Path) -> None:
    content = bytearray((logs / "driver.log").read_bytes())
    (tmp_path / "torn").write_bytes(content[:-20])
    assert "bytes from offset" in ftvm("log", "show", tmp_path / "torn").stdout.splitlines()[-1]
    content[-40] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    found = ftvm("log", "show", tmp_path / "damaged")
    assert found.exit_code == 1 and "damaged at offset" in found.stderr
    assert ftvm("log", "grep", tmp_path / "damaged").exit_code == 2, "not 1: it is not known that there is nothing"


# -- grep -----------------------------------------------------------------------------------------------------------


def test_grep_by_kind(logs: Path) -> None:
    assert len(grep(logs / "driver.log", "-k", "block_request")) == 40
    assert len(grep(logs / "echo.log", "-k", "packet")) == 6
    assert len(grep(logs / "echo.log", "-k", "packet", "-k", "packet-out")) == 12, "which runs the guest"
    assert len(grep(logs / "timer.log", "-k", "interrupt")) == 11
    assert len(grep(logs / "driver.log", "-k", "disk_request", "write")) == 25
    assert grep(logs / "timer.log", "-k", "packet") == []
    refused = ftvm("log", "grep", logs / "timer.log", "-k", "paket")
    assert refused.exit_code == 2 and "kinds are console_input, packet," in refused.stderr


def test_grep_by_entry_and_time(logs: Path) -> None:
    every = objects(logs / "echo.log")
    assert [each["sequence"] for each in objects(logs / "echo.log", "--from", 5, "--to", 9)] == [5, 7, 9]
    middle = every[2]["seconds"]
    assert objects(logs / "echo.log", "--since", middle) == every[2:]
    assert objects(logs / "echo.log", "--until", middle) == every[:3]
    assert objects(logs / "echo.log", "--since", middle, "--until", middle) == [every[2]]


def test_grep_by_content(logs: Path) -> None:
    echo = logs / "echo.log"
    assert ["who has" in line for line in grep(echo, "who has")] == [True], "in what is said of it"
    assert len(grep(echo, "hello, g")) == 1, "in what was moved"
    assert len(grep(echo, "HELLO")) == 0 and len(grep(echo, "-i", "HELLO")) == 1
    assert len(grep(echo, "-v", "ICMP")) == 3
    assert len(grep(echo, "-x", "0806 0001 0800 (06|07) 04")) == 1
    assert len(grep(echo, "-x", "0800 45 (..){8} 01")) == 3, "pings, by their protocol"
    assert len(grep(echo, "-x", "fffe fdfc")) == 0
    assert grep(echo, "-c", "ping") == ["3"] and grep(echo, "-m", "2", "ping") == grep(echo, "ping")[:2]


def test_grep_of_the_console_is_by_lines(logs: Path) -> None:
    (ready,) = objects(logs / "driver.log", "-k", "console_output", "^blockd: ready.*sectors\n$")
    assert bytes.fromhex(ready["payload"]) == b"blockd: ready, 2048 sectors\n"
    assert (ready["direction"], ready["sequence"]) == ("out", 3)


def test_the_exit_code_is_that_of_grep(logs: Path, tmp_path: Path) -> None:
    assert ftvm("log", "grep", logs / "echo.log", "ping").exit_code == 0
    assert ftvm("log", "grep", logs / "echo.log", "nowhere").exit_code == 1
    assert json.loads(ftvm("log", "grep", logs / "echo.log", "nowhere", "--json", "-c").stdout) == {"count": 0}
    for arguments in (["[a"], ["-x", "abc"], ["-x", "zz"], ["-x", "(ab"]):
        assert ftvm("log", "grep", logs / "echo.log", *arguments).exit_code == 2
    assert ftvm("log", "grep", tmp_path / "none").exit_code == 2


def test_a_machine_file_stands_in_for_the_recorded_one(logs: Path, tmp_path: Path) -> None:
    """For outputs; a wrong one is refused in words."""
    (tmp_path / "other.toml").write_text('name = "other"\n[machine]\nkernel = "timer"\nmemory = "16 MiB"\n')
    refused = ftvm("log", "grep", logs / "echo.log", "--replay", "--machine", tmp_path / "other.toml")
    assert refused.exit_code == 2 and "the machine is configured differently" in refused.stderr


# -- patterns and lines ---------------------------------------------------------------------------------------------


def test_patterns_in_hexadecimal() -> None:
    assert hex_pattern("0a 0D").search(b"..\n\r..")
    assert hex_pattern("28 .. 29").search(b"(\n)"), "any byte, also a newline; a byte is never a sign of a pattern"
    assert hex_pattern("00{3}").search(bytes(3)) and not hex_pattern("00{3}").search(bytes(2))
    assert hex_pattern("ff(00|01)+ff").search(b"\xff\0\1\0\xff")
    for wrong in ("0", "0x12", "a..", "g0", "00{9999999999999}", "*"):
        with pytest.raises(PatternError):
            hex_pattern(wrong)
    assert text_pattern("ä").search("Mär".encode())


def piece(data: bytes, offset: int, clock: int) -> Output:
    return Output(1, 0, clock, clock, OutputKind.CONSOLE, 0, data, offset, False)


def test_pieces_of_the_console_become_lines_where_they_began() -> None:
    other = Input(1, 0, 15, 15, 2, 0, b"")
    pieces: list[Happening] = [piece(b"on", 0, 10), other, piece(b"e\ntw", 2, 20), piece(b"o\nthree", 6, 30)]
    lines = list(with_whole_lines(pieces))
    assert lines[0] is other
    assert [(each.data, each.offset, each.clock) for each in lines if isinstance(each, Output)] == [
        (b"one\n", 0, 10), (b"two\n", 4, 20), (b"three", 8, 30),
    ]  # fmt: skip


def test_a_console_without_lines_is_searched_in_pieces() -> None:
    flood = [piece(b"x" * 1000, 1000 * number, number) for number in range(200)]
    lines = list(with_whole_lines(flood))
    assert b"".join(each.payload for each in lines) == b"x" * 200_000
    assert max(len(each.payload) for each in lines) < LINE_MAX + 1000


def test_a_query_without_conditions_wants_everything() -> None:
    assert Query().wants(piece(b"x", 0, 0)) and not Query().needs_replay
    assert Query(kinds={"notice"}).needs_replay and not Query(kinds={"packet"}).needs_replay


def drained(terminal: int) -> Iterator[bytes]:
    """All that is written to a terminal, until nobody has it open."""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 4096):
            yield part


def test_lines_reach_standard_output_although_progress_is_shown(logs: Path, tmp_path: Path) -> None:
    """On a terminal a bar runs; what was found is in the file it was sent to, whole and clean."""
    keeper, terminal = pty.openpty()
    shown: list[bytes] = []
    reader = threading.Thread(target=lambda: shown.extend(drained(keeper)), daemon=True)
    reader.start()
    with (tmp_path / "out").open("wb") as out:
        command = [sys.executable, "-m", "ftvm.cli", "log", "grep", logs / "driver.log", "-k", "block_reply"]
        done = subprocess.run(command, stdout=out, stderr=terminal, timeout=60)
    os.close(terminal)
    reader.join(60)
    os.close(keeper)
    lines = (tmp_path / "out").read_text().splitlines()
    assert done.returncode == 0 and len(lines) == 40 and all(line.isprintable() for line in lines)
