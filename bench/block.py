# SPDX-License-Identifier: GPL-2.0-or-later
"""The block service: through a pair, through one VM and through qemu-nbd, on the same image with the same client; how
long replies wait for the output rule; and what a request adds to a recording."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.client import Load, client_name, random_load, sequential_load, sparse_load
from bench.effort import Bench
from bench.figure import Figure, middle, percentile, spread
from bench.sides import Sides
from bench.solo import DISK, machine_text

PAUSE_S = 0.005


def service(bench: Bench) -> Iterator[Figure]:
    """IOPS and MB/s in turns, alone and paired; delays while busy and while idle."""
    effort = bench.effort
    alone: list[tuple[Load, Load]] = []
    paired: list[tuple[Load, Load]] = []
    busy: list[dict[str, float]] = []
    with Sides(bench.directory, machine_text("blockd")) as sides:
        sides.start_primary()
        random_load(sides.socket, 0.5, DISK)
        alone_sparse = sparse_load(sides.socket, 100, PAUSE_S)
        for number in range(effort.rounds):
            bench.say(f"block load, alone and paired, round {number + 1} of {effort.rounds}")
            alone.append(_both(sides.socket, effort.window_s))
            sides.start_backup()
            load = random_load(sides.socket, effort.window_s, DISK)
            busy.append(sides.fresh_status()["commit_delay_us"])
            paired.append((load, sequential_load(sides.socket, effort.window_s, DISK)))
            sides.kill_backup()
        sides.start_backup()
        sparse = sparse_load(sides.socket, 100 * effort.rounds, PAUSE_S)
        idle = sides.fresh_status()["commit_delay_us"]
    other = _qemu_nbd(bench, sides.state.image("a", 0))
    yield from _speeds(alone, paired, other)
    yield from _delays("busy", busy)
    yield from _delays("idle", [idle])
    for name, values in (("paired", sparse), ("alone", alone_sparse)):
        half = percentile(values, 50)
        yield Figure(f"read latency, one at a time, {name}", None if half is None else half * 1e6, "us")


def _both(socket: Path, seconds: float) -> tuple[Load, Load]:
    return random_load(socket, seconds, DISK), sequential_load(socket, seconds, DISK)


def _speeds(alone: list[tuple[Load, Load]], paired: list[tuple[Load, Load]], other: list[Load]) -> Iterator[Figure]:
    note = f"4 KiB random, half writes, 16 in flight, {client_name()}"
    iops = {"pair": [a.iops for a, _ in paired], "one VM": [a.iops for a, _ in alone]}
    rates = {"pair": [b.mb_per_s for _, b in paired], "one VM": [b.mb_per_s for _, b in alone]}
    if other:
        iops["qemu-nbd"], rates["qemu-nbd"] = [other[0].iops], [other[1].mb_per_s]
    for name, values in iops.items():
        yield Figure(f"block IOPS, {name}", middle(values), "1/s", note=f"{note}; {spread(values)}")
    for name, values in rates.items():
        yield Figure(f"block throughput, {name}", middle(values), "MB/s", note=f"reads of 256 KiB; {spread(values)}")
    if not other:
        yield Figure("block IOPS, qemu-nbd", None, "1/s", note="qemu-nbd is not installed")
    ratios = [a / b for a, b in zip(iops["pair"], iops["one VM"], strict=True)]
    yield Figure("paired / unpaired, block load, IOPS", middle(ratios), "x", at_least=0.93, note=spread(ratios))


def _delays(name: str, reports: list[dict[str, float]]) -> Iterator[Figure]:
    count = sum(int(report["count"]) for report in reports)
    for percent, goal in (("p50", 100.0), ("p99", 2000.0)):
        value = middle([report[percent] for report in reports])
        yield Figure(f"output-commit delay {percent}, {name}", value, "us", at_most=goal, note=f"of {count} replies")
    longest = max(report["max"] for report in reports)
    yield Figure(f"output-commit delay max, {name}", longest, "us", note="from the guest to the client's socket")


def _qemu_nbd(bench: Bench, image: Path) -> list[Load]:
    program = shutil.which("qemu-nbd")
    if program is None:
        return []
    bench.say("the same load on qemu-nbd")
    socket = bench.path("qemu.sock")
    server = subprocess.Popen([program, "-t", "-f", "raw", "-e", "8", "-k", str(socket), str(image)])
    try:
        while not socket.exists():
            time.sleep(0.01)
        return list(_both(socket, bench.effort.window_s))
    finally:
        server.kill()
        server.wait()


def request_log(bench: Bench) -> Iterator[Figure]:
    """Bytes of a recording for each request, without the data written."""
    for name, reads, goal in (("reads", 100, 40.0), ("half writes", 50, 40.0)):
        bench.say(f"log of block requests, {name}")
        directory = bench.path(f"reads{reads}")
        directory.mkdir()
        log = directory / "block.log"
        with Sides(directory, machine_text("blockd"), record=log) as sides:
            sides.start_primary()
            time.sleep(0.5)
            before = log.stat().st_size
            load = random_load(sides.socket, bench.effort.window_s, DISK, reads)
            time.sleep(0.5)
            grown = log.stat().st_size - before
        each = (grown - load.written) / load.requests
        note = f"beyond write data; {grown / load.seconds / 1e6:.2f} MB/s at {load.iops:.0f} requests/s"
        yield Figure(f"log of a block request, {name}", each, "B", at_most=goal, note=note)
