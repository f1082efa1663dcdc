# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that these tests need: one that is missing is said loudly where tests must run, and skips elsewhere."""

from __future__ import annotations

import os
import shutil

import pytest


def need(program: str, package: str) -> str:
    """The path of `program`. Without it: a failure in CI, a skip elsewhere; either says what to install."""
    path = shutil.which(program)
    if path:
        return path
    message = f"{program} is not installed: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
