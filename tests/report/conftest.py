# SPDX-License-Identifier: GPL-2.0-or-later
"""One browser for all tests of the page, and pages of the bundled guests' recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.cli import main
from tests.report.browser import Browser
from tests.travel.recorded import record_console, record_driver, record_network


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """driver.log, echo.log and console.log, each with its page."""
    place = tmp_path_factory.mktemp("pages")
    for name, record in (("driver", record_driver), ("echo", record_network), ("console", record_console)):
        record(place / f"{name}.log")
        result = CliRunner().invoke(main, ["report", str(place / f"{name}.log")])
        assert result.exit_code == 0, result.output
    return place
