# SPDX-License-Identifier: GPL-2.0-or-later
"""A kill counts only when it is proved: each thing that may be missing is noticed and told."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from ftvm.demo.kills import WAYS_TO_DIE, Executioner, Kill, KillResult, PairUnderTest, Target, gone, plan_kills
from ftvm.demo.load import Worker
from ftvm.demo.meter import Meter
from ftvm.demo.nbd_client import Address, NbdClient
from ftvm.demo.tally import Tally

from .servers import FaultyServer, QemuNbd, closing

HOST = Kill(1, Target.HOST, 0, 0.05)
DRIVER = Kill(1, Target.DRIVER, 1, 0.05)


def carry_out(pair: PairUnderTest, address: str, kill: Kill, depth: int = 4, clients: int = 2) -> KillResult:
    """One kill under load, with little patience."""

    async def scenario() -> KillResult:
        everyone = tuple(NbdClient(Address.parse(address)) for _ in range(clients + 1))
        meter = Meter()
        tally = Tally([index for index in range(clients) for _ in range(64)], 1)
        for index, client in enumerate(everyone):
            await client.open()
            if index < clients:
                blocks = range(index * 64, index * 64 + 64)
                Worker(index, client, tally, meter, random.Random(index), blocks).start(depth)
        executioner = Executioner(pair, everyone[:clients], everyone[-1], meter, time.monotonic() + 0.7)
        result = await executioner.execute(kill)
        assert meter.watch is None
        for client in everyone:
            await client.close()
        return result

    return asyncio.run(scenario())


def test_plan_has_the_asked_kills_in_an_order_that_follows_from_the_seed() -> None:
    plan = plan_kills((Target.HOST, Target.DRIVER), 6, 3, (0.1, 0.2))
    assert plan == plan_kills((Target.HOST, Target.DRIVER), 6, 3, (0.1, 0.2))
    assert plan != plan_kills((Target.HOST, Target.DRIVER), 6, 4, (0.1, 0.2))
    assert [kill.number for kill in plan] == list(range(1, 13))
    assert sum(kill.target is Target.HOST for kill in plan) == 6
    assert {kill.mode for kill in plan if kill.target is Target.DRIVER} == set(WAYS_TO_DIE)
    assert all(0.1 <= kill.calm_s <= 0.2 for kill in plan)


def test_kill_of_a_host_is_proved(tmp_path: Path) -> None:
    with closing(QemuNbd(tmp_path / "disk", f"unix:{tmp_path}/s")) as pair:
        result = carry_out(pair, pair.address, HOST)
    assert result.sound and result.in_flight == (4, 4)
    assert result.reply_ms is not None and result.all_clients_ms is not None and result.protected_ms is not None
    assert 0 < result.reply_ms <= result.all_clients_ms


def test_kill_of_a_driver_is_proved() -> None:
    with closing(FaultyServer(death_s=0.05)) as pair:
        result = carry_out(pair, pair.address, DRIVER)
    assert result.sound and result.in_flight == (4, 4)
    assert result.reply_ms is not None and 40 < result.reply_ms < 500


def test_driver_that_does_not_die_is_no_hit() -> None:
    with closing(FaultyServer()) as pair:
        pair.driver_dies = False
        result = carry_out(pair, pair.address, DRIVER)
    assert not result.hit and not result.sound
    assert result.problem == "the driver's restart counter stayed at 0"


def test_killing_request_with_another_answer_than_eio_is_no_hit(tmp_path: Path) -> None:
    with closing(QemuNbd(tmp_path / "disk", "tcp")) as pair:
        result = carry_out(pair, pair.address, DRIVER)
    assert not result.hit and result.problem.startswith("the killing request was answered with EINVAL")


@pytest.mark.parametrize(("depth", "clients"), [(3, 2)])
def test_kill_waits_for_load_and_is_not_carried_out_without(depth: int, clients: int) -> None:
    with closing(FaultyServer()) as pair:
        result = carry_out(pair, pair.address, DRIVER, depth, clients)
        assert pair.restarts == 0
    assert not result.hit and not result.loaded and "8 requests of all clients" in result.problem


class _Stubborn(FaultyServer):
    """A pair whose killed primary lives on."""

    def kill_primary(self) -> int:
        return os.getpid()


class _Unprotected(FaultyServer):
    """A pair that is never protected."""

    def wait_protected(self, timeout_s: float) -> None:
        time.sleep(timeout_s)
        raise TimeoutError("the backup did not join")


class _Forgetful(QemuNbd):
    """A pair that still names the dead process."""

    first = 0

    def primary_pid(self) -> int:
        self.first = self.first or super().primary_pid()
        return self.first


class _Mute(FaultyServer):
    """A pair whose status tells nothing."""

    def status(self) -> dict[str, int]:
        return {}


def test_status_without_the_restart_counter_is_told() -> None:
    with closing(_Mute()) as pair:
        result = carry_out(pair, pair.address, DRIVER)
    assert not result.hit and result.problem == "the pair's status does not tell driver_restarts"


def test_process_that_survives_its_kill_is_no_hit() -> None:
    with closing(_Stubborn()) as pair:
        result = carry_out(pair, pair.address, HOST)
    assert not result.hit and f"process {os.getpid()} to be gone" in result.problem


def test_pair_without_a_primary_is_no_hit() -> None:
    with closing(FaultyServer()) as pair:
        result = carry_out(pair, pair.address, HOST)
    assert not result.hit and "no process of its own" in result.problem


def test_pair_that_is_not_protected_is_told() -> None:
    with closing(_Unprotected()) as pair:
        result = carry_out(pair, pair.address, DRIVER)
    assert not result.protected and result.problem == "the backup did not join"


def test_successor_must_be_another_process(tmp_path: Path) -> None:
    with closing(_Forgetful(tmp_path / "disk", f"unix:{tmp_path}/s")) as pair:
        result = carry_out(pair, pair.address, HOST)
    assert result.hit and not result.sound and "still called the primary" in result.problem


def test_clients_that_are_never_answered_again_are_told(tmp_path: Path) -> None:
    with closing(QemuNbd(tmp_path / "disk", f"unix:{tmp_path}/s", delay_s=9)) as pair:
        result = carry_out(pair, pair.address, HOST)
    assert result.hit and result.reply_ms is None and not result.sound
    assert "every client to be answered again" in result.problem


def test_kill_without_time_left_is_not_carried_out() -> None:
    with closing(FaultyServer()) as pair:
        result = carry_out(pair, pair.address, Kill(1, Target.DRIVER, 1, calm_s=30.0))
        assert pair.restarts == 0
    assert not result.hit and result.problem == "there was no time left for it"


def test_log_bytes_are_added_up_over_primaries_whose_counters_start_again() -> None:
    class Pair(FaultyServer):
        counts = iter((100, 250, 40, 60))

        def status(self) -> dict[str, int]:
            return {"log_bytes": next(self.counts)}

    async def scenario(pair: Pair) -> int:
        executioner = Executioner(pair, (), NbdClient(Address.parse(pair.address)), Meter(), 0.0)
        for _ in range(4):
            await executioner.status()
        return executioner.log_bytes

    with closing(Pair()) as pair:
        assert asyncio.run(scenario(pair)) == 310


def test_process_is_gone_when_killed_even_before_it_is_waited_for() -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert not gone(process.pid)
    process.kill()
    end = time.monotonic() + 5
    while not gone(process.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert gone(process.pid)
    process.wait()
    assert gone(process.pid)
