# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock guests for tests: fetched once, kept in the user's cache under a digest of what was asked for.

Without a mirror the tests that need them are skipped, and say why; where `CI` is set they fail.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from ftvm.linux import newc
from ftvm.linux.errors import FetchError
from ftvm.linux.fetch import Wanted, fetch
from ftvm.linux.modules import Modules
from ftvm.say import Say

T = TypeVar("T")
WANTED = Wanted(packages=("e2fsprogs",))


@dataclass(frozen=True, slots=True)
class Stock:
    """What was fetched."""

    directory: Path
    wanted: Wanted

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def initramfs(self) -> Path:
        return self.directory / "initramfs.cpio.gz"

    @property
    def u_boot(self) -> Path:
        return self.directory / "u-boot.bin"

    @property
    def options(self) -> list[str]:
        """The options of `ftvm guest fetch` that brought it."""
        return [word for package in self.wanted.packages for word in ("--package", package)]

    def modules(self) -> Modules:
        """The kernel's modules."""
        (directory,) = (self.directory / "root/usr/lib/modules").glob("*")
        return Modules(directory)

    def with_files(self, target: Path, tree: newc.Tree) -> Path:
        """An initramfs with further files, written to `target`: archives may follow one another."""
        target.write_bytes(self.initramfs.read_bytes() + newc.packed(tree))
        return target


def fetch_stock(wanted: Wanted = WANTED) -> Stock:
    """The guests, fetched now or earlier; FetchError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ftvm-tests"
    directory = cache / wanted.key
    cache.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fetch(directory, wanted, Say("fetch"))
    return Stock(directory, wanted)


def stock_or_skip(wanted: Wanted = WANTED) -> Stock:
    """The guests; without them the test fails in CI and is skipped elsewhere."""
    return or_skip(lambda: fetch_stock(wanted))


def or_skip(bring: Callable[[], T]) -> T:
    """What is brought from a mirror; a test that goes without fails in CI and is skipped elsewhere."""
    try:
        return bring()
    except (FetchError, OSError) as error:
        message = f"stock guests cannot be fetched: {error}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
