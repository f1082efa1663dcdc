# SPDX-License-Identifier: GPL-2.0-or-later
"""console, compute and timer do what the catalog says, and every guest ends in words."""

from __future__ import annotations

import re
import time

import pytest

from ftvm.guests import catalog

from .conftest import StartGuest

CHECKSUM_20M = "16f6104eb014d10f"


def test_console_echoes_and_quits(start_guest: StartGuest) -> None:
    """Only a line that is just "quit" does."""
    guest = start_guest("console")
    guest.wait_for("console: ready\r\n")
    guest.type("hello\rquit!\rxquit\r" + "long" * 30 + "\r")
    guest.wait_for("hello\r\nquit!\r\nxquit\r\n" + "long" * 30 + "\r\n")
    guest.type("quit\r")
    guest.wait_for_end()
    assert guest.console().endswith("quit\r\n")


def test_console_panics_when_told(start_guest: StartGuest) -> None:
    """And the machine ends."""
    guest = start_guest("console")
    guest.wait_for("console: ready")
    guest.type("panic\n")
    guest.wait_for_end()
    assert guest.console().endswith("panic\r\npanic: told to\n")


def test_console_uses_no_cpu_while_nobody_types(start_guest: StartGuest) -> None:
    """It waits for the UART's interrupt."""
    guest = start_guest("console")
    guest.wait_for("console: ready")
    time.sleep(0.1)
    before = guest.cpu_seconds()
    time.sleep(0.5)
    assert guest.cpu_seconds() - before <= 0.1


def numbers(text: str, pattern: str) -> int:
    """The decimal number in the one match of `pattern`."""
    found = re.findall(pattern, text)
    assert len(found) == 1, text
    return int(found[0])


def test_compute_counts_its_instructions_exactly(start_guest: StartGuest) -> None:
    """`instret` under -icount agrees, but for the eight instructions between its two readings outside the kernel."""
    guest = start_guest("compute", "measure=on insns=20000000", ("-icount", "shift=0"))
    guest.wait_for_end()
    text = guest.console()
    told = numbers(text, r"compute: (\d+) instructions")
    assert 20_000_000 <= told < 20_000_047
    assert numbers(text, r"instret counted (\d+)") == told + 8
    assert f"checksum {CHECKSUM_20M}\n" in text


def test_compute_has_a_checksum_that_depends_on_the_work(start_guest: StartGuest) -> None:
    """More instructions, another sum."""
    guest = start_guest("compute", "insns=20000047")
    guest.wait_for_end()
    assert "20000070 instructions" in guest.console()
    assert CHECKSUM_20M not in guest.console()


@pytest.mark.parametrize(("arguments", "ticks", "seconds"), [("ticks=300", 300, 0.3), ("hz=100 ticks=20", 20, 0.2)])
def test_timer_ticks_at_its_rate_and_stops(start_guest: StartGuest, arguments: str, ticks: int, seconds: float) -> None:
    """No tick comes early, so it takes at least its time."""
    guest = start_guest("timer", arguments)
    guest.wait_for("timer: ready")
    start = time.monotonic()
    guest.wait_for_end()
    assert guest.console().endswith(f"timer: {ticks} ticks\n")
    assert time.monotonic() - start >= seconds - 0.1


def test_timer_runs_until_stopped(start_guest: StartGuest) -> None:
    """Without ticks=N there is no end."""
    guest = start_guest("timer")
    guest.wait_for("timer: ready, 1000 Hz")
    time.sleep(0.3)
    assert guest.running()


@pytest.mark.parametrize("name", ["blockd", "netecho"])
def test_a_missing_device_is_a_panic_in_words(start_guest: StartGuest, name: str) -> None:
    """Also an example of how a panic looks."""
    guest = start_guest(name)
    guest.wait_for_end()
    assert re.search(r"panic: (blk|net): no virtio \w+ device \(version 2\)\n$", guest.console())


def test_the_catalog_names_every_image() -> None:
    """blockd, the default, comes first; all images together stay small."""
    names = [guest.name for guest in catalog.list()]
    assert names == ["blockd", "netecho", "console", "compute", "timer"]
    images = {path.stem for path in catalog.directory().glob("*.elf")}
    assert images == {*names, "translate"}, "translate is a program for Linux, not a guest"
    assert sum(guest.path.stat().st_size for guest in catalog.list()) < 200_000
    assert catalog.find("nothing") is None
