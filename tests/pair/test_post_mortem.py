# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine of a side that has diverged is kept as a log, complete or not at all, and not for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftvm.pair.post_mortem import KEPT_MAX, keep_diverged
from replay.errors import LogError
from replay.header import LogHeader
from replay.log_reader import LogReader
from tests.pair.bench import IdleMachine

HEADER = LogHeader(b"", "00" * 32, {}, "engine", 32, "pair")


class Diverged(IdleMachine):
    """A machine with something in it."""

    def __init__(self, sequence: int) -> None:
        super().__init__()
        self.sequence = sequence

    def save(self) -> list[tuple[str, bytes]]:
        return [("hart", b"registers")]


def test_the_latest_are_kept(tmp_path: Path) -> None:
    for sequence in (900, 30, 31, 1000):
        path = keep_diverged(tmp_path, HEADER, Diverged(sequence))  # type: ignore[arg-type]
        with LogReader(path) as reader:
            state = reader.state()
        assert state is not None and state.sequence == sequence
        assert list(state.sections) == [("hart", b"registers")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["diverged-1000.log", "diverged-31.log"]
    assert KEPT_MAX == 2


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, sequence: int, sections: object) -> None:
        raise LogError("no space left on device")

    monkeypatch.setattr("replay.log_writer.LogWriter.write_state", full)
    with pytest.raises(LogError, match="no space"):
        keep_diverged(tmp_path, HEADER, Diverged(5))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
