# SPDX-License-Identifier: GPL-2.0-or-later
"""A workshop for each test; what its processes said stands in the report of a test that fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .workshop import Workshop

_WORKSHOP = pytest.StashKey[Workshop]()


@pytest.fixture
def work(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """Commands in a directory of their own."""
    workshop = Workshop(tmp_path)
    request.node.stash[_WORKSHOP] = workshop
    yield workshop
    workshop.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the story of a test that fails."""
    report = yield
    if report.failed and _WORKSHOP in item.stash:
        report.sections.append(("commands and sides", item.stash[_WORKSHOP].story()))
    return report
