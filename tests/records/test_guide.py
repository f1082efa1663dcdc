# SPDX-License-Identifier: GPL-2.0-or-later
"""The guide's examples are run, in its order, and print what it says; `...` stands for anything."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import ftvm.scripting

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "scripting.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n+^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_example_prints_what_the_guide_says(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(logs)
    text = GUIDE.read_text()
    examples = EXAMPLE.findall(text)
    assert len(examples) == text.count("```python") >= 8, "an example without its output"
    names: dict[str, object] = {}
    for code, expected in examples:
        exec(compile(code, str(GUIDE), "exec"), names)
        printed = capsys.readouterr().out
        matches = doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS)
        assert matches, f"{code}\nprints\n{printed}\nthe guide says\n{expected}"


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in ftvm.scripting.__all__:
        assert (getattr(ftvm.scripting, name).__doc__ or "").strip(), name
