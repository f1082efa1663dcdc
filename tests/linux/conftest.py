# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures for tests with stock guests: fetched once, booted once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.linux.debian import debian_or_skip
from tests.linux.guest import LOOP_READY, READY, Booted, Linux, files, linux_config
from tests.linux.stock import Stock, stock_or_skip
from tests.network.conftest import lab, work

__all__ = ["lab", "work"]


@pytest.fixture(scope="session")
def stock() -> Stock:
    """Stock guests, fetched once."""
    return stock_or_skip()


@pytest.fixture(scope="session")
def debian(stock: Stock) -> Path:
    """The image of a small Debian, made once beside the stock guests."""
    return debian_or_skip(stock)


@pytest.fixture(scope="session")
def initrd(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fetched initramfs and the tests' own files."""
    return stock.with_files(tmp_path_factory.mktemp("initramfs") / "initramfs", files())


@pytest.fixture(scope="session")
def booted(stock: Stock, initrd: Path) -> Booted:
    """The stock kernel, booted to its first program, as bytes."""
    linux = Linux(linux_config(stock, initrd))
    try:
        linux.until(READY)
        linux.until(LOOP_READY)
        linux.settle()
        return linux.saved()
    finally:
        linux.machine.close()


@pytest.fixture
def linux(booted: Booted) -> Iterator[Linux]:
    """A stock Linux that waits for commands."""
    linux = Linux.of(booted)
    yield linux
    linux.machine.close()
