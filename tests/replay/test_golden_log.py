# SPDX-License-Identifier: GPL-2.0-or-later
"""The recordings of every released format stay readable, and mean what they meant."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from replay.inspect import stat, verify
from replay.log_reader import LogReader
from replay.record import FORMAT

GOLDEN = Path(__file__).with_name("golden")
LOGS = sorted(GOLDEN.glob("format-*.ftvmlog"))


def test_the_format_that_is_written_has_a_golden_log() -> None:
    assert GOLDEN / f"format-{FORMAT}.ftvmlog" in LOGS


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_golden_log_means_what_it_meant(path: Path) -> None:
    made = runpy.run_path(str(GOLDEN / "generate.py"))
    with LogReader(path) as reader:
        assert reader.header == made["header"]()
        state = reader.state()
        assert state is not None
        assert (state.sequence, state.sections) == (made["STATE_SEQUENCE"], made["sections"]())
        assert list(reader) == list(made["pairs"]())
        assert (reader.closed, reader.tail) == (True, None)
    assert verify(path).state == "whole"


def test_a_golden_log_uses_all_forms_of_records() -> None:
    found = stat(LOGS[0])
    assert set(found.records) == {"entries", "state", "state_end", "end"}
    assert found.records["entries"] > 5
    assert len(found.events) >= 7
    assert found.record_bytes["entries"] > 66_000
