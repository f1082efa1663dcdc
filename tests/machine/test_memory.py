# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine takes of its host's memory: the RAM that its guest has written, once."""

from __future__ import annotations

import gc
from pathlib import Path

from tests.machine.box import MIB, Box


def resident() -> int:
    """Bytes that this process has in memory, of whatever kind."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_reading_all_of_ram_takes_no_memory() -> None:
    """A snapshot reads a gigabyte of which the guest uses little."""
    box = Box("console", memory="1 GiB")
    box.until("console: ready")
    gc.collect()
    before = resident()
    box.machine.save()
    gc.collect()
    assert resident() - before < 64 * MIB
    box.machine.close()
