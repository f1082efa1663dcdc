# SPDX-License-Identifier: GPL-2.0-or-later
"""The block service with the stock kernel as its driver VM, beside the bundled one: random and sequential reads, alone
and paired, what a request adds to a recording, and how long a driver's restart, which is a boot, keeps clients waiting.

Guests are fetched once and kept in the user's cache, as the tests keep them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

from bench.client import Load, random_load, sequential_load
from bench.effort import Bench
from bench.figure import Figure, middle, spread
from bench.sides import Sides
from bench.solo import DISK, machine_text
from bench.stock import fetched
from ftvm.demo.nbd_client import Address, NbdClient
from ftvm.demo.nbd_wire import Command, Request
from ftvm.demo.pair import linux_machine
from ftvm.linux.errors import FetchError
from ftvm.linux.fetch import Wanted
from ftvm.service.nbd import VENDOR

DEPTH = 32
PANIC = 1


def service(bench: Bench) -> Iterator[Figure]:
    """Linux and blockd in turns, first alone; then Linux paired."""
    try:
        linux = linux_machine(fetched("bench", Wanted()))
    except (FetchError, OSError) as error:
        yield Figure("random reads through Linux", None, "1/s", note=f"no stock guests: {error}"[:300])
        return
    directories = {name: bench.path(name) for name in ("linux", "bundled", "log")}
    for directory in directories.values():
        directory.mkdir()
    yield from _speeds(bench, directories["linux"], directories["bundled"], linux)
    yield from _log(bench, directories["log"], linux)


def _speeds(bench: Bench, linux: Path, bundled: Path, machine: str) -> Iterator[Figure]:
    alone: list[tuple[Load, Load]] = []
    other: list[Load] = []
    paired: list[tuple[Load, Load]] = []
    with Sides(linux, machine) as sides, Sides(bundled, machine_text("blockd")) as peer:
        sides.start_primary()
        peer.start_primary()
        asyncio.run(_read(sides.socket))
        for number in range(bench.effort.rounds):
            bench.say(f"reads through Linux and blockd, round {number + 1} of {bench.effort.rounds}")
            alone.append(_both(sides.socket, bench.effort.window_s))
            other.append(random_load(peer.socket, bench.effort.window_s, DISK, 100, DEPTH))
        peer.close()
        sides.start_backup()
        for _ in range(bench.effort.rounds):
            paired.append(_both(sides.socket, bench.effort.window_s))
        silence = [asyncio.run(_death(sides.socket)) for _ in range(bench.effort.rounds)]
    iops = [a.iops for a, _ in alone]
    note = f"4 KiB, {DEPTH} in flight"
    yield Figure("random reads through Linux", middle(iops), "1/s", at_least=10_000, note=f"{note}; {spread(iops)}")
    rates = [b.mb_per_s for _, b in alone]
    yield Figure("sequential reads through Linux", middle(rates), "MB/s", at_least=200, note=spread(rates))
    ratios = [a / b.iops for a, b in zip(iops, other, strict=True)]
    yield Figure("random reads, Linux / blockd", middle(ratios), "x", note=spread(ratios))
    iops = [a.iops for a, _ in paired]
    yield Figure("random reads through Linux, pair", middle(iops), "1/s", note=f"{note}; {spread(iops)}")
    rates = [b.mb_per_s for _, b in paired]
    yield Figure("sequential reads through Linux, pair", middle(rates), "MB/s", note=spread(rates))
    yield Figure("restart of a Linux driver, pair", middle(silence), "s", note=f"a cold boot; {spread(silence)}")


def _both(socket: Path, seconds: float) -> tuple[Load, Load]:
    return random_load(socket, seconds, DISK, 100, DEPTH), sequential_load(socket, seconds, DISK)


def _log(bench: Bench, directory: Path, machine: str) -> Iterator[Figure]:
    bench.say("log of block requests through Linux")
    log = directory / "block.log"
    with Sides(directory, machine, record=log) as sides:
        sides.start_primary()
        asyncio.run(_read(sides.socket))
        time.sleep(0.5)
        before = log.stat().st_size
        load = random_load(sides.socket, bench.effort.window_s, DISK, 100, DEPTH)
        time.sleep(0.5)
        grown = log.stat().st_size - before
    note = f"4 KiB reads, {load.iops:.0f}/s"
    yield Figure("log of a block request through Linux", grown / load.requests, "B", at_most=16, note=note)


async def _read(socket: Path) -> None:
    """Answered when the kernel has booted."""
    client = NbdClient(Address(path=str(socket)), 120.0)
    await client.open()
    await client.request(Request(Command.READ, 0, 4096))
    await client.close()


async def _death(socket: Path) -> float:
    """Seconds from a panic to the answer of a read that was in the driver with it: boots until the killer is alone."""
    client = NbdClient(Address(path=str(socket)), 300.0)
    await client.open()
    start = time.monotonic()
    killer = asyncio.create_task(client.request(Request(VENDOR, PANIC)))
    await client.request(Request(Command.READ, 0, 4096))
    waited = time.monotonic() - start
    await asyncio.gather(killer, return_exceptions=True)
    await client.close()
    return waited
