# SPDX-License-Identifier: GPL-2.0-or-later
"""One lab for all tests of a module, and commands that run on its hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.workshop import Workshop

from .lab import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two hosts, a switch, a client."""
    built = Lab()
    try:
        built.build()
        yield built
    finally:
        built.destroy()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workshop]:
    """Commands in the background, all of them gone afterwards."""
    workshop = Workshop(tmp_path)
    yield workshop
    workshop.close()
