# SPDX-License-Identifier: GPL-2.0-or-later
"""One pair for all tests of a module that leave it running: starting a pair is what costs most."""

from __future__ import annotations

import socket

import pytest

from ftvm.pair_process import PairProcess
from ftvm.testing import MakePair

MACHINE = """\
name = "tested"

[machine]
memory = "32 MiB"
kernel = "blockd"
cmdline = "crash=on"

[[disk]]
image = "disk0.img"
size = "32 MiB"

[service.block]
listen = ["unix:nbd.sock", "127.0.0.1:PORT"]
vendor = true

[driver]
watchdog_ms = 300

[pair]
timeout_ms = 400
"""


@pytest.fixture(scope="module")
def module_pair(ftvm_module_pair: MakePair) -> PairProcess:
    """A pair with two addresses, one on a Unix socket and one on TCP."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return ftvm_module_pair(MACHINE.replace("PORT", str(port)))


@pytest.fixture
def pair(module_pair: PairProcess) -> PairProcess:
    """The module's pair, running and protected whatever an earlier test has done to it."""
    if module_pair.exit_code is not None:
        module_pair.launch()
    module_pair.wait_protected()
    return module_pair
