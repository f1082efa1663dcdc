# SPDX-License-Identifier: GPL-2.0-or-later
"""The built wheel is complete: it installs and works without the source tree beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINE = """\
name = "wheel"
[machine]
kernel = "compute"
cmdline = "insns=1000000"
[console]
backend = "file:out"
"""
RUN = """\
import sys
sys.path.insert(0, {target!r})
import ftvm.cli
assert ftvm.__file__.startswith({target!r})
ftvm.cli.main({arguments!r})
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what git tracks, in a tree of its own."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", str(out)]
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(tree)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.mark.timeout(300)
def test_the_wheel_carries_guests_and_core(wheel: Path) -> None:
    """Prebuilt images, their sources, the compiled core and the license."""
    names = zipfile.ZipFile(wheel).namelist()
    for guest in ("blockd", "netecho", "console", "compute", "timer"):
        assert f"ftvm/guests/{guest}.elf" in names
    assert "ftvm/report/page/page.html" in names
    assert any(name.startswith("ftvm/_hart.") and name.endswith(".so") for name in names)
    assert any(name.endswith("/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


@pytest.mark.timeout(300)
def test_the_wheel_runs_a_guest(wheel: Path, tmp_path: Path) -> None:
    """Installed elsewhere, the command lists its guests and runs one to its power-off."""
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    machine = tmp_path / "machine.toml"
    machine.write_text(MACHINE)
    program = RUN.format(target=str(target), arguments=["run", str(machine), "--state-dir", str(tmp_path / "state")])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checksum" in (tmp_path / "state" / "out").read_text()


@pytest.mark.timeout(300)
def test_a_tree_in_the_way_is_not_imported(wheel: Path, tmp_path: Path) -> None:
    """The first command of the README runs an installed ftvm inside a clone whose core was never compiled."""
    (tmp_path / "ftvm").mkdir()
    (tmp_path / "ftvm" / "__init__.py").write_text("raise ImportError('the clone was imported')")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, capture_output=True, check=True)
    arguments = ["demo", "--kill", "driver", "--count", "1", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(target)}
    program = RUN.format(target=str(target), arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
