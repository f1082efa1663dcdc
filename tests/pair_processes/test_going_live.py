# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup goes live although something beside the guest fails; only what a cold start rests on is waited for."""

from __future__ import annotations

import time

from ftvm.pair_process import PairProcess
from ftvm.testing import MakePair
from tests.pair_processes.conftest import MACHINE
from tests.pair_processes.load import Load
from tests.pair_processes.test_launcher import until


def alarms(pair: PairProcess) -> str:
    return "\n".join(pair.status()["alarms"])


def test_a_console_that_cannot_be_opened_keeps_no_backup_from_going_live(ftvm_pair: MakePair) -> None:
    """Something else is where the socket was: clients go on, and an alarm says that the guest has no console."""
    machine = MACHINE.replace(', "127.0.0.1:PORT"', "") + '\n[console]\nbackend = "unix:console.sock"\n'
    pair = ftvm_pair(machine)
    path = pair.state.path / "console.sock"
    assert path.is_socket()
    path.unlink()
    path.write_text("in the way")
    with Load(pair.addresses) as load:
        pair.kill_primary()
        load.answered(100)
        load.finish()
    assert "no console" in alarms(pair) and "not a socket" in alarms(pair)
    pair.wait_protected()


def test_a_backup_waits_until_it_can_note_that_it_took_over(pair: PairProcess) -> None:
    """It has won the term, and serves nobody before the note is durable; then it goes live by itself."""
    status = pair.status()
    backup = next(name for name, side in status["sides"].items() if side["role"] == "backup")
    obstacle = pair.state.side(backup) / "image.json.new"
    with Load(pair.addresses) as load:
        obstacle.mkdir()
        pair.kill_primary()
        until(lambda: "nothing leaves this side before" in alarms(pair), "an alarm")
        done = load.done
        time.sleep(0.5)
        assert load.done == done, "it serves clients without a note that it took over"
        obstacle.rmdir()
        load.answered(100)
        pair.wait_protected()
        load.finish()
    assert pair.status()["term"] == status["term"] + 1
