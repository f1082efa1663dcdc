# SPDX-License-Identifier: GPL-2.0-or-later
"""What running commands print, and that nobody waits for its reader."""

from __future__ import annotations

import json
import os
import pty
import re
import time
from collections.abc import Iterator

import pytest

from ftvm import say
from ftvm.say import Say


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """(reader, writer)."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_line_has_a_time_and_a_speaker(pipe: tuple[int, int]) -> None:
    speaker = Say("a", fd=pipe[1])
    speaker.info("primary of term 2", term=2)
    speaker.warning("the backup is gone")
    speaker.error("no space left\nthe side leaves")
    lines = os.read(pipe[0], 10_000).decode().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} a        primary of term 2", lines[0])
    assert lines[1].endswith("a        warning: the backup is gone")
    assert lines[2].endswith("error: no space left") and lines[3].strip() == "the side leaves"


def test_structured_lines_carry_the_fields(pipe: tuple[int, int]) -> None:
    speaker = Say("b", log_json=True, fd=pipe[1])
    speaker.info('two\nlines "quoted"', term=2, path=os.sep, level="a field's name may be taken")
    speaker.error("failed", reason=OSError("x"))
    first, second = (json.loads(line) for line in os.read(pipe[0], 10_000).splitlines())
    assert {"who": "b", "level": "info", "message": 'two\nlines "quoted"', "term": 2}.items() <= first.items()
    assert second["level"] == "error" and second["reason"] == "x"
    assert abs(time.time() - time.mktime(time.strptime(first["time"][:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 60


def test_a_reader_that_stands_still_costs_lines_not_time(pipe: tuple[int, int]) -> None:
    speaker = Say("a", fd=pipe[1])
    begin = time.monotonic()
    for number in range(2000):
        speaker.info(f"line {number} {'x' * 100}")
    assert time.monotonic() - begin < 2
    os.set_blocking(pipe[0], False)
    got = b""
    try:
        while piece := os.read(pipe[0], 1 << 20):
            got += piece
    except BlockingIOError:
        pass
    shown = got.count(b"line ")
    speaker.info("again")
    lines = os.read(pipe[0], 10_000).decode().splitlines()
    assert 0 < shown < 2000
    assert f"{2000 - shown} lines are missing here" in lines[0] and lines[1].endswith("again")


def test_a_reader_that_is_gone_does_no_harm() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Say("a", fd=writer).info("x")
    os.close(writer)
    Say("a", fd=writer).info("not even a descriptor")


def test_a_terminal_gets_colours_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    monkeypatch.delenv("NO_COLOR", raising=False)
    Say("a", fd=slave).error("x")
    assert b"\x1b[31m" in os.read(master, 1000)
    Say("a", log_json=True, fd=slave).error("x")
    assert b"\x1b" not in os.read(master, 1000)
    monkeypatch.setenv("NO_COLOR", "1")
    Say("a", fd=slave).error("x")
    assert b"\x1b" not in os.read(master, 1000)
    os.close(master)
    os.close(slave)


def test_long_work_is_told_now_and_then(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(say, "PROGRESS_EVERY_S", 0.0)
    with Say("copy", log_json=True, fd=pipe[1]).progress("copying", 200) as progress:
        progress.advance(50)
        progress.advance(100)
    told = [json.loads(line) for line in os.read(pipe[0], 10_000).splitlines()]
    assert [(line["message"], line["done"]) for line in told] == [("copying: 25 %", 50), ("copying: 75 %", 150)]


def test_short_work_is_not_told(pipe: tuple[int, int]) -> None:
    speaker = Say("copy", fd=pipe[1])
    with speaker.progress("copying", 0) as progress:
        progress.advance(0)
    speaker.info("done")
    assert os.read(pipe[0], 10_000).count(b"\n") == 1
