# SPDX-License-Identifier: GPL-2.0-or-later
"""Alarms outlive who raised them, and stand until they are acknowledged."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from ftvm.alarms import ACKNOWLEDGED, NAME, Alarms
from ftvm.cli import main
from ftvm.state_dir import StateDir


def test_alarms_stand_until_acknowledged(tmp_path: Path) -> None:
    """In order, from both sides; acknowledged ones are kept in a file."""
    alarms = Alarms(tmp_path)
    assert alarms.standing() == [] == alarms.acknowledge()
    alarms.sound("a", "first")
    Alarms(tmp_path).sound("b", "second\nline")
    assert [(alarm.side, alarm.text) for alarm in alarms.standing()] == [("a", "first"), ("b", "second\nline")]
    assert [alarm.text for alarm in alarms.acknowledge()] == ["first", "second\nline"]
    assert alarms.standing() == []
    alarms.sound("a", "third")
    assert [alarm.text for alarm in alarms.acknowledge()] == ["third"]
    assert (tmp_path / ACKNOWLEDGED).read_text().count("\n") == 3
    assert not list(tmp_path.glob("alarms.[0-9]*"))


def test_a_damaged_line_hides_no_other(tmp_path: Path) -> None:
    """Whatever stands in the file: what is an alarm is shown."""
    alarms = Alarms(tmp_path)
    alarms.sound("a", "first")
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"at": 1}\nnonsense\n\xff\xfe\n[1]\n{"at": "x", "side": 1, "text": 2}\n')
    alarms.sound("b", "last")
    assert [alarm.text for alarm in alarms.standing()] == ["first", "last"]


def test_raising_one_never_fails(tmp_path: Path) -> None:
    """A side goes on without a directory to write to."""
    Alarms(tmp_path / "missing").sound("a", "lost")


def test_the_command_shows_and_acknowledges(tmp_path: Path) -> None:
    """`ftvm status` shows standing alarms, `--acknowledge` says what it clears."""
    state = StateDir(tmp_path / "pair")
    state.create()
    Alarms(state.path).sound("a", "divergence: they differ")
    arguments = ["status", "--state-dir", str(state.path)]
    assert "side a: divergence: they differ" in CliRunner().invoke(main, arguments).stdout
    cleared = CliRunner().invoke(main, [*arguments, "--acknowledge", "--json"])
    assert "acknowledged: " in cleared.stderr and "divergence" in cleared.stderr
    assert '"alarms": []' in cleared.stdout
    assert "divergence" not in CliRunner().invoke(main, arguments).stdout
