# SPDX-License-Identifier: GPL-2.0-or-later
"""For users' own kill-and-failover tests: a pair as a pytest fixture.

    def test_my_client_survives(ftvm_pair):
        pair = ftvm_pair()                       # a pair with the bundled driver VM, protected
        client = MyClient(pair.addresses[0])     # NBD, "unix:/..." or "HOST:PORT"
        client.start()
        pair.kill_primary()
        pair.wait_protected()
        pair.crash_driver()
        assert client.finish() == "nothing lost"
        assert pair.status()["driver_restarts"] >= 1

`ftvm_pair(machine=...)` takes the text of a machine file instead; `pair` is an `ftvm.pair_process.PairProcess`. The
fixture comes with the package (a pytest plugin by entry point), ends every pair with its test, and adds the sides'
latest lines to the report of a test that fails. `ftvm_module_pair` is the same for pairs that all tests of a module
share, which saves the seconds that a start takes.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from ftvm.pair_process import PairProcess

_PAIRS: pytest.StashKey[Iterable[PairProcess]] = pytest.StashKey()


class MakePair(Protocol):
    """Starts a pair and waits until it is protected, unless `wait` is false."""

    def __call__(self, machine: str | None = None, *options: str, wait: bool = True) -> PairProcess: ...


@pytest.fixture
def ftvm_pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakePair]:
    """Make pairs; all of them are gone when the test is over."""
    with _pairs(tmp_path, request.node) as make:
        yield make


@pytest.fixture(scope="module")
def ftvm_module_pair(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[MakePair]:
    """Make pairs that live until the module's last test is over."""
    with _pairs(tmp_path_factory.mktemp("pairs"), request.node) as make:
        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows the latest lines of every pair that was there for it."""
    report = yield
    if report.failed:
        for node in item.listchain():
            for number, pair in enumerate(node.stash.get(_PAIRS, ())):
                report.sections.append((f"pair {number} of {node.name}", pair.log()))
    return report


@contextmanager
def _pairs(directory: Path, node: pytest.Item | pytest.Collector) -> Iterator[MakePair]:
    from ftvm.demo.pair import MACHINE
    from ftvm.pair_process import PairProcess

    pairs: list[PairProcess] = []
    node.stash[_PAIRS] = pairs

    def make(machine: str | None = None, *options: str, wait: bool = True) -> PairProcess:
        path = directory / f"machine{len(pairs)}.toml"
        path.write_text(MACHINE if machine is None else machine)
        pair = PairProcess(path, directory / f"pair{len(pairs)}", options)
        pairs.append(pair)
        if wait:
            pair.start()
        else:
            pair.launch()
        return pair

    yield make
    for pair in pairs:
        pair.close()
