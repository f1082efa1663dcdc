# SPDX-License-Identifier: GPL-2.0-or-later
"""A live side's own disk fails: with a backup clients go on, without one the service stops, and nothing is lost."""

from __future__ import annotations

import resource

from ftvm.pair_process import PairProcess
from ftvm.process import Process
from tests.pair_processes.load import Load
from tests.pair_processes.test_launcher import until

FULL_AT = 256 << 10  # bytes into the image; the load writes beyond that all the time


def fill_up(side: Process) -> None:
    """From here on the side can write to no file beyond its first 256 KiB."""
    resource.prlimit(side.pid, resource.RLIMIT_FSIZE, (FULL_AT, resource.RLIM_INFINITY))


def living(pid: int) -> Process:
    found = Process.find(pid)
    assert found is not None
    return found


def test_clients_go_on_when_the_primarys_disk_is_full(pair: PairProcess) -> None:
    """It leaves before the request completes; the backup goes live and serves that request."""
    with Load(pair.addresses) as load:
        primary = living(pair.primary_pid())
        fill_up(primary)
        until(lambda: not primary.alive, "the primary to leave")
        load.answered(100)
        pair.wait_protected()
        load.finish()
    assert "this side's disk failed" in pair.log() and "File too large" in pair.log()


def test_a_lone_side_stops_and_goes_on_once_its_disk_is_mended(pair: PairProcess) -> None:
    """Neither guest nor client gets an error: a client that reconnects has seen a pause, for as long as it took."""
    with Load(pair.addresses) as load:
        lone = living(pair.primary_pid())
        pair.kill_launcher()  # so that nobody starts another backup
        backup = living(pair.backup_pid())
        pair.kill_backup()
        load.answered(100)
        until(lambda: not backup.alive, "the backup to be gone")
        fill_up(lone)
        until(lambda: not lone.alive, "the lone side to leave")
        pair.launch()
        load.answered(100)
        pair.wait_protected()
        load.finish()
