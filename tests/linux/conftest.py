# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures for tests with stock guests."""

from __future__ import annotations

import pytest

from tests.linux.stock import Stock, stock_or_skip


@pytest.fixture(scope="session")
def stock() -> Stock:
    """Stock guests, fetched once."""
    return stock_or_skip()
