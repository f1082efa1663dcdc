# SPDX-License-Identifier: GPL-2.0-or-later
"""The repository checks itself: style, types, import floors, sizes, headers, and what may not stand in any file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ftvm", "logging_channel", "replay", "devices")
LINES_MAX = 600


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def check(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}"


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing: install ftvm with its test extra, pip install -e '.[test]'"
    return found


def test_ruff_finds_nothing() -> None:
    """Style and common mistakes."""
    check(tool("ruff"), "check", ".")


@pytest.mark.timeout(300)
def test_types_are_strict() -> None:
    """mypy --strict over all packages."""
    check(tool("mypy"))


def test_floors_hold() -> None:
    """Who may import whom (docs: the floors)."""
    check(tool("lint-imports"))


@pytest.mark.parametrize(("module", "file"), [("unicorn", "ftvm/hart.py"), ("zmq", "logging_channel/transport.py")])
def test_only_one_file_knows(module: str, file: str) -> None:
    """The engine and the transport can be replaced in one place each."""
    pattern = re.compile(rf"^\s*(import|from) {module}\b", re.MULTILINE)
    users = [path for path in tracked(*(f"{package}/*.py" for package in PACKAGES)) if pattern.search(path.read_text())]
    assert [str(path.relative_to(ROOT)) for path in users] == [file]


def test_the_machine_reads_no_clock_and_no_chance() -> None:
    """Nothing below `Machine` may read a clock, a socket or a random number."""
    forbidden = re.compile(r"^\s*(?:import|from) (time|random|secrets|socket|datetime|select)\b", re.MULTILINE)
    below = "machine hardware hart driver sbi pages ram_image service/journal gate live pace"
    for name in below.split():
        found = forbidden.search((ROOT / "ftvm" / f"{name}.py").read_text())
        assert found is None, f"ftvm/{name}.py imports {found and found[1]}"


def test_files_are_small() -> None:
    """One noun a file; none of ours outside tests/ above 600 lines, C too."""
    sources = [path for path in tracked("*.py", "*.c", "*.h", "*.S") if not path.is_relative_to(ROOT / "tests")]
    long = {str(path.relative_to(ROOT)): n for path in sources if (n := len(path.read_text().splitlines())) > LINES_MAX}
    assert not long


def test_every_source_names_its_license() -> None:
    """SPDX identifiers."""
    line = "SPDX-License-Identifier: GPL-2.0-or-later"
    missing = [path for path in tracked("*.py", "*.c", "*.h", "*.S") if line not in path.read_text()[:300]]
    assert not [str(path.relative_to(ROOT)) for path in missing]


def test_nothing_names_one_machine() -> None:
    """No absolute path of a machine, and no host of a package registry."""
    paths, registries = r"(^|[ \"'=(])/(work|farm|root|home)/", r"https?://[a-z0-9.-]+/(debian|simple|packages)(/|$)"
    odd = re.compile(f"{paths}|{registries}", re.MULTILINE)
    mine = Path(__file__).resolve()
    found = []
    for path in tracked():
        if path == mine or path.suffix in (".elf", ".ftvmlog"):
            continue
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group(0)!r}" for match in odd.finditer(text)]
    assert not found


def test_the_readme_has_its_two_commands() -> None:
    """Two fenced sh blocks of one command line each: the main job, and the tests."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    assert all(len(block.strip().splitlines()) == 1 for block in blocks)
    assert "ftvm demo" in blocks[0] and "pytest" in blocks[1]
