# SPDX-License-Identifier: GPL-2.0-or-later
"""How a pair ends: the guest switches itself off, an operator stops it, or the guest fails. Never by a failover."""

from __future__ import annotations

import os
import signal
import time

from ftvm.pair_process import PairProcess
from ftvm.testing import MakePair
from tests.pair_processes.load import Load
from tests.pair_processes.terminal import Terminal
from tests.pair_processes.test_host_kills import await_end, both_pids

CONSOLE = """\
name = "console"

[machine]
memory = "16 MiB"
kernel = "console"

[console]
backend = "unix:console.sock"
"""


def test_a_guest_that_powers_off_ends_both_sides(ftvm_pair: MakePair) -> None:
    """Typed at the console, also after a failover; both end in order, and the launcher's exit code is 0."""
    pair = ftvm_pair(CONSOLE)
    terminal = Terminal(pair.state.path / "console.sock")
    terminal.expect(b"console: ready")
    terminal.type(b"hello\r")
    terminal.expect(b"hello\r\n")
    pair.kill_primary()
    pair.wait_protected()
    terminal.close()
    terminal = Terminal(pair.state.path / "console.sock")
    terminal.type(b"again\r")
    terminal.expect(b"again\r\n")
    term = pair.status()["term"]
    terminal.type(b"quit\r")
    assert await_end(pair) == 0
    status = pair.status()
    assert status["term"] == term == 2, "the power-off was taken for a failure"
    assert [side["role"] for side in status["sides"].values()] == ["stopped", "stopped"]
    assert all("poweroff" in side["why"] for side in status["sides"].values())
    terminal.close()


def test_a_guest_that_panics_and_is_not_to_be_restarted_fails_the_pair(ftvm_pair: MakePair) -> None:
    """Both sides see it at the same entry: no failover, exit code 1, and the reason in words."""
    pair = ftvm_pair(CONSOLE)
    terminal = Terminal(pair.state.path / "console.sock")
    terminal.expect(b"console: ready")
    terminal.type(b"panic\r")
    assert await_end(pair) == 1
    assert pair.status()["term"] == 1, "a guest's failure was taken for a host's"
    assert "the guest has failed: the guest asked for" in pair.log()
    assert "both sides are gone" not in pair.log()
    terminal.close()


def test_sigterm_ends_a_pair_under_load(pair: PairProcess) -> None:
    """SIGTERM to the launcher stops both sides in order, clients or not; SIGINT does the same."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with Load(pair.addresses) as load:
            pids = both_pids(pair)
            term = pair.status()["term"]
            launcher = pair.status()["launcher"]
            start = time.monotonic()
            os.kill(launcher, number)
            assert await_end(pair) == 0
            assert time.monotonic() - start < 5
            status = pair.status()
            assert status["term"] == term
            assert all("stopped" in side["why"] for side in status["sides"].values()), pids
            pair.start()
            load.answered(50)
            load.finish()


def test_sigterm_while_a_backup_joins_or_is_stopped(pair: PairProcess) -> None:
    """Without a backup, with one that is only joining, and with one that does not move: it ends all the same."""
    pair.kill_backup()
    assert pair.stop() == 0
    pair.start()
    pair.signal("backup", signal.SIGSTOP)
    assert pair.stop() == 0
    assert not any(side["pid"] for side in pair.status()["sides"].values())
