# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings that several modules look at, made once a session."""

from __future__ import annotations

import pytest

from tests.linux.stock import Stock, stock_or_skip
from tests.travel.linux_recorded import RecordedBoot, record_boot


@pytest.fixture(scope="session")
def stock() -> Stock:
    """Stock guests, fetched once."""
    return stock_or_skip()


@pytest.fixture(scope="session")
def recorded_boot(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> RecordedBoot:
    """The stock kernel from power-on to a shell, and two processes of one program."""
    return record_boot(stock, tmp_path_factory.mktemp("recorded"))
