# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles the C core against the headers in the unicorn wheel; says in words what to do when no compiler is there."""

from __future__ import annotations

from pathlib import Path

import unicorn
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = Path("ftvm/core")
HELP = """
ftvm could not compile its C core (ftvm/core/*.c).
  It needs a C compiler and Python's headers. On Debian, as root: apt-get install gcc python3-dev. Then install again.
  There is no slower fallback: the guest's clock and page tables live in this core.
"""


class BuildCore(build_ext):
    """`build_ext` that turns a missing compiler into advice."""

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception:
            print(HELP)
            raise


setup(
    ext_modules=[
        Extension(
            "ftvm._hart",
            sources=sorted(str(path) for path in CORE.glob("*.c")),
            depends=sorted(str(path) for path in CORE.glob("*.h")),
            include_dirs=[str(Path(unicorn.__file__).parent / "include")],
            # The engine's own symbols are resolved at import from the wheel's library (see ftvm/hart.py).
            extra_compile_args=[
                "-std=gnu11",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Wno-unused-parameter",
                "-fvisibility=hidden",
            ],
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
