# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGKILL of the primary, of the backup, and of both, while clients have requests in flight; and starting again."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from ftvm.pair_process import PairProcess
from tests.pair_processes.load import Load


def await_end(pair: PairProcess, timeout_s: float = 15.0) -> int:
    """The launcher's exit code, when it has ended by itself."""
    end = time.monotonic() + timeout_s
    while pair.exit_code is None:
        assert time.monotonic() < end, f"the launcher has not ended within {timeout_s} s"
        time.sleep(0.01)
    return pair.exit_code


def both_pids(pair: PairProcess) -> list[int]:
    """Both sides' processes."""
    return [side["pid"] for side in pair.status()["sides"].values()]


def await_death(*pids: int) -> None:
    """Return once these processes are gone, or zombies."""
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            time.sleep(0.005)


def test_clients_go_on_when_the_primary_is_killed(pair: PairProcess) -> None:
    """Requests in flight are answered by the successor, nothing acknowledged is lost, and a new backup joins."""
    before = pair.status()
    with Load(pair.addresses) as load:
        killed = pair.kill_primary()
        load.answered(200)
        assert load.retried > 0, "no request was in flight when the primary was killed"
        pair.wait_protected()
        load.answered(200)
        load.finish()
    after = pair.status()
    assert after["term"] == before["term"] + 1
    assert after["primary"] != before["primary"]
    assert killed not in both_pids(pair)
    assert after["services"] == before["services"]
    assert not after["alarms"]


def test_clients_notice_nothing_when_the_backup_is_killed(pair: PairProcess) -> None:
    """The primary goes on alone in a new term, keeps its connections, and takes a new backup."""
    before = pair.status()
    with Load(pair.addresses) as load:
        pair.kill_backup()
        load.answered(200)
        pair.wait_protected()
        load.answered(200)
        assert load.retried == 0
        load.finish()
    after = pair.status()
    assert (after["term"], after["primary"]) == (before["term"] + 1, before["primary"])
    assert not after["alarms"]


def test_killing_both_at_once_loses_no_acknowledged_write(pair: PairProcess) -> None:
    """The launcher says that both are gone; started again, the pair goes on from the newest images."""
    with Load(pair.addresses) as load:
        pids = both_pids(pair)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert await_end(pair) == 1
        assert "both sides are gone" in pair.log()
        assert pair.status()["primary"] is None
        pair.start()
        load.answered(200)
        load.finish()


def test_one_killed_and_later_the_other_loses_nothing(pair: PairProcess) -> None:
    """Between the two kills the survivor has served alone: its images are the newest, and the next start takes them."""
    with Load(pair.addresses) as load:
        pair.kill_launcher()
        pair.kill_backup()
        load.answered(300)
        alone = pair.primary_pid()
        survivor = pair.status()["primary"]
        pair.kill_primary()
        await_death(alone)
        pair.launch()
        load.answered(300)
        assert pair.status()["primary"] == survivor
        pair.wait_protected()
        load.finish()


def test_stopped_in_order_and_started_again(pair: PairProcess) -> None:
    """`ftvm pair` ends with exit code 0 on SIGTERM, and the next one has everything that was written."""
    with Load(pair.addresses) as load:
        load.answered(100)
        assert pair.stop() == 0
        status = pair.status()
        assert [side["role"] for side in status["sides"].values()] == ["stopped", "stopped"]
        pair.start()
        load.answered(100)
        load.finish()


def test_a_start_is_refused_when_the_newest_images_cannot_be_known(pair: PairProcess) -> None:
    """The directory of the side that was live last, or the arbiter's, is not there: told in words, nothing started."""
    pair.kill_launcher()
    primary, backup = pair.status()["primary"], pair.backup_pid()
    pair.kill_backup()
    await_death(backup)
    while pair.status()["term"] == pair.status()["sides"][primary]["term"] - 1:
        time.sleep(0.01)
    alone = pair.kill_primary()
    await_death(alone)
    missing = {pair.state.side(primary): "may be newer", pair.state.path / "arbiter": "is not there: is it mounted?"}
    for directory, words in missing.items():
        away = pair.state.path.parent / "away"
        shutil.move(directory, away)
        pair.launch()
        assert await_end(pair) == 1
        assert words in pair.log(), pair.log()
        assert not any(side["pid"] for side in pair.status()["sides"].values())
        shutil.rmtree(directory, ignore_errors=True)
        shutil.move(away, directory)
    pair.start()
    assert pair.status()["primary"] == primary
