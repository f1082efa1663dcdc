# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings of three bundled guests, made once: block requests, packets, console."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.travel.recorded import record_console, record_driver, record_network, record_timer


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with driver.log, echo.log, console.log and timer.log."""
    place = tmp_path_factory.mktemp("recordings")
    record_driver(place / "driver.log")
    record_network(place / "echo.log")
    record_console(place / "console.log")
    record_timer(place / "timer.log")
    return place
