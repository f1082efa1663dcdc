# SPDX-License-Identifier: GPL-2.0-or-later
"""A stock kernel that panics: noticed at once, by every replica; restarted, or told, as the machine file says."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftvm.demo.nbd_client import Address, NbdClient
from ftvm.demo.nbd_wire import Command, Request
from ftvm.machine import EpochEnd
from ftvm.service.nbd import FLUSH
from ftvm.testing import MakePair
from tests.linux.guest import Booted, Linux, linux_config
from tests.linux.stock import Stock
from tests.linux.test_pair import console, ftvm, machine, until, until_end
from tests.machine.box import SECOND

pytestmark = pytest.mark.timeout(900)

CAUSE = "the guest panicked: Kernel panic - not syncing: sysrq triggered crash"
CRASH = "#!/bin/sh\necho 0 > /proc/sys/kernel/panic\necho c > /proc/sysrq-trigger\n"
SERVICE = """
[service.block]

[driver]
watchdog_ms = 3600000
boot_ms = 3600000
"""
# A driver in shell: answers every request with success, having read its header. In its first life it dies of that;
# that it has lived is known to the disk, at 1 MiB.
DRIVER = r"""#!/bin/sh
port=$(echo /dev/vport*)
exec 3<>$port
echo "listening"
while dd bs=28 count=1 of=/tmp/header <&3 2>/dev/null; do
    if [ "$(dd if=/dev/vda bs=512 skip=2048 count=1 2>/dev/null | head -c 5)" != lived ]; then
        echo lived | dd of=/dev/vda bs=512 seek=2048 conv=sync,fsync 2>/dev/null
        echo c > /proc/sysrq-trigger
    fi
    (printf '\x67\x44\x66\x98\0\0\0\0'; dd if=/tmp/header bs=1 skip=8 count=8 2>/dev/null) | dd bs=16 >&3 2>/dev/null
    echo "answered"
done
"""


@pytest.fixture
def restarting(stock: Stock, initrd: Path, booted: Booted) -> Linux:
    """A stock Linux that waits for commands, on a machine that restarts what dies."""
    return Linux.of(replace(booted, config=linux_config(stock, initrd, driver={"restart": True})))


def panic(linux: Linux, timeout: int) -> int:
    """Panics; returns the guest time it began at. `timeout` is the kernel's own: 0 hangs, N resets, -1 at once."""
    linux.shell(f"echo {timeout} > /proc/sys/kernel/panic")
    start = linux.machine.time
    linux.begin("echo c > /proc/sysrq-trigger")
    return start


def test_a_kernel_that_panics_and_hangs_has_failed(linux: Linux) -> None:
    start = panic(linux, 0)
    assert linux.end() == EpochEnd.FAILED
    assert linux.machine.failure == CAUSE and linux.notices == [f"the guest has failed: {CAUSE}"]
    assert "---[ end Kernel panic" in linux.console, "it may say all it has to say"
    assert linux.machine.time - start < SECOND // 10


def test_a_kernel_that_is_to_reset_itself_does_when_it_is_left_to(linux: Linux) -> None:
    start = panic(linux, 2)
    linux.until("Rebooting in 2 seconds")
    assert linux.wait_out(5) == EpochEnd.RESET
    assert linux.machine.time - start >= 2 * SECOND
    assert linux.notices == [CAUSE.replace("panicked", "panicked, and has reset itself")]


@pytest.mark.parametrize("timeout", [0, 10, -1])
def test_a_kernel_that_panics_is_restarted_at_once(restarting: Linux, timeout: int) -> None:
    """Also one that would reset itself in ten seconds, and one that does so without another word."""
    linux = restarting
    start = panic(linux, timeout)
    assert linux.end() == EpochEnd.RESTARTED
    assert linux.notices == [f"driver restart 1: {CAUSE}"]
    assert linux.machine.time - start < SECOND // 10
    linux.machine.close()


def test_a_kernel_that_was_restarted_boots(restarting: Linux) -> None:
    linux = restarting
    linux.shell("touch /test/before")
    panic(linux, 0)
    linux.until("loop ready")
    linux.shell("test -e /test/before", code=1)
    assert linux.notices == [f"driver restart 1: {CAUSE}"]
    linux.machine.close()


def test_a_request_is_submitted_again_after_a_panic(restarting: Linux) -> None:
    linux = restarting
    linux.run(linux.request(1, FLUSH))
    panic(linux, 0)
    assert linux.end() == EpochEnd.RESTARTED
    assert linux.machine.outstanding == 1 and linux.replies() == {}
    linux.machine.close()


def test_a_panic_is_no_other_after_a_restore(linux: Linux) -> None:
    """Saved in the middle of the message's line, and gone on with in another machine."""
    linux.run(budget=1000)
    panic(linux, 0)
    while "Kernel panic - not" not in linux.console:
        linux.run(budget=20_000)
    other = Linux.of(linux.saved())
    for guest in (linux, other):
        guest.results.clear()
        assert guest.end() == EpochEnd.FAILED
    assert other.machine.failure == CAUSE
    assert [result.digest for result in other.results] == [result.digest for result in linux.results]
    other.machine.close()


def test_words_on_the_console_are_no_panic_when_the_machine_file_says_so(stock: Stock, initrd: Path, booted: Booted
                                                                         ) -> None:  # fmt: skip
    """With another text, and with none."""
    for text in ("panic: ", ""):
        config = linux_config(stock, initrd, driver={"restart": True, "panic": text})
        linux = Linux.of(replace(booted, config=config))
        linux.shell("echo 'Kernel panic - not syncing: said by a program'")
        assert linux.notices == []
        linux.machine.close()


def test_run_ends_with_a_clear_message_and_replay_with_the_same_end(stock: Stock, tmp_path: Path) -> None:
    file, log = tmp_path / "machine.toml", tmp_path / "panic.log"
    file.write_text(machine(stock, tmp_path, CRASH))
    ran = ftvm("run", file, "--state-dir", tmp_path / "state", "--record", log, seconds=900)
    assert ran.returncode == 1
    assert f"the guest has failed: {CAUSE}" in ran.stderr
    replayed = ftvm("replay", log, "--json", seconds=900)
    assert replayed.returncode == 0, replayed.stderr
    report = json.loads(replayed.stdout)
    assert report["end"] == "failed" and report["verified"] and report["divergence"] is None


def test_a_pair_whose_guest_panics_ends_with_a_clear_message(ftvm_pair: MakePair, stock: Stock, tmp_path: Path) -> None:
    pair = ftvm_pair(machine(stock, tmp_path, CRASH), wait=False)
    pair.wait_protected(300)
    until_end(pair, 600, code=1)
    assert f"the guest has failed: {CAUSE}" in pair.log()
    assert "divergence" not in pair.log().lower()


def test_a_client_of_a_pair_does_not_notice_that_the_kernel_panicked(
    ftvm_pair: MakePair, stock: Stock, tmp_path: Path
) -> None:
    """The kernel dies of the first request; the next one, booted again on both sides, answers it. Then a host dies."""
    text = machine(stock, tmp_path, DRIVER)  # with panic=1, and no second of waiting
    pair = ftvm_pair(text + SERVICE)

    until(pair, "listening", 600)

    async def ask() -> None:
        client = NbdClient(Address.parse(pair.addresses[0]), patience_s=600)
        await client.open()
        try:
            await client.request(Request(Command.FLUSH))
            pair.wait_protected(300)
            pair.kill_primary()
            await client.request(Request(Command.FLUSH))
        finally:
            await client.close()

    asyncio.run(ask())
    pair.wait_protected(300)
    assert pair.status()["driver_restarts"] == 1
    said = console(pair)
    assert said.count("Linux version") == 2 and said.splitlines().count("answered") == 2
    assert f"driver restart 1: {CAUSE}" in pair.log()
    assert "divergence" not in pair.log().lower()
