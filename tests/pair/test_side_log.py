# SPDX-License-Identifier: GPL-2.0-or-later
"""A side's log is turned over by the side, and followed across that by the launcher."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.pair.side_log import NAME, OLD, Tail, turn_over


class Speaker:
    """Writes lines to a side's log by a descriptor that `turn_over` may replace."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fd = os.open(directory / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def turn(self, size_max: int = 100) -> bool:
        return turn_over(self.directory, (self.fd,), size_max)


@pytest.fixture
def speaker(tmp_path: Path) -> Iterator[Speaker]:
    speaker = Speaker(tmp_path)
    yield speaker
    os.close(speaker.fd)


def test_a_long_log_is_turned_over_and_one_old_file_is_kept(speaker: Speaker) -> None:
    for turn in range(5):
        speaker.say(f"turn {turn}\n")
        assert not speaker.turn(), "it was turned over while it was short"
        speaker.say("x" * 100 + "\n")
        assert speaker.turn()
    speaker.say("last\n")
    assert (speaker.directory / NAME).read_text() == "last\n"
    assert (speaker.directory / OLD).read_text().startswith("turn 4\n")
    assert len(list(speaker.directory.iterdir())) == 2


def test_a_follower_misses_no_line_and_sees_none_twice(speaker: Speaker) -> None:
    """Also when the line at the turn was half written, and when the new file is as long as the old one was."""
    tail, said, seen = Tail(speaker.directory), "", b""
    for number in range(40):
        for part in (f"line {number} ", "y" * (number % 7) + "\n"):
            speaker.say(part)
            said += part
            if number % 3:
                seen += tail.read()
            if number % 5 == 0:
                speaker.turn(20)
                seen += tail.read()
    seen += tail.read()
    assert seen.decode() == said


def test_what_is_not_the_log_is_left_alone(tmp_path: Path) -> None:
    """A side in the foreground writes to a terminal, or to a file of its operator's."""
    (tmp_path / NAME).write_text("another process's\n" * 100)
    other = os.open(tmp_path / "mine", os.O_WRONLY | os.O_CREAT)
    os.write(other, bytes(1000))
    assert not turn_over(tmp_path, (other,), 100)
    os.close(other)
    assert not (tmp_path / OLD).exists()
