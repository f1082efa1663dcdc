# SPDX-License-Identifier: GPL-2.0-or-later
"""Another core for another process: the C core as it is, linked with `evicting.c`, in a copy of the package.

tree = build(tmp_path, coherent=True)
subprocess.run([sys.executable, "-P", "-m", "ftvm.cli", ...], env=environment(tree, seed=1, every=64))
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import unicorn

import ftvm

ROOT = Path(__file__).parent.parent.parent
CORE = ROOT / "ftvm/core"


def build(directory: Path, *, coherent: bool) -> Path:
    """A directory for PYTHONPATH whose ftvm has a core with a forgetful TLB; without the coherence rule if not so."""
    package = directory / "ftvm"
    shutil.copytree(Path(ftvm.__file__).parent, package, ignore=shutil.ignore_patterns("*.so", "__pycache__", "core"))
    includes = (CORE, Path(sysconfig.get_path("include")), Path(unicorn.__file__).parent / "include")
    command = ["cc", "-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,--wrap=pages_derive"]
    command += [] if coherent else ["-DINCOHERENT"]
    command += [f"-I{path}" for path in includes]
    command += [*sorted(str(path) for path in CORE.glob("*.c")), str(Path(__file__).with_name("evicting.c"))]
    command += ["-o", str(package / f"_hart{sysconfig.get_config_var('EXT_SUFFIX')}")]
    subprocess.run(command, check=True, timeout=300)
    return directory


def environment(tree: Path, *, seed: int, every: int) -> dict[str, str]:
    """For a process that is to use that core, and flush before one fill in `every`."""
    path = os.pathsep.join([str(tree), str(ROOT)])
    return os.environ | {
        "PYTHONPATH": path, "FTVM_TEST_EVICT_SEED": str(seed), "FTVM_TEST_EVICT_EVERY": str(every)
    }  # fmt: skip
