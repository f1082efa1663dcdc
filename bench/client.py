# SPDX-License-Identifier: GPL-2.0-or-later
"""One NBD client for all servers: fio with its nbd engine where it is installed, else the demo's client in Python.

Random requests of 4 KiB, half reads and half writes, 16 in flight; or reads of 256 KiB in order, 4 in flight.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ftvm.demo.nbd_client import Address, NbdClient, Outcome
from ftvm.demo.nbd_wire import Command, Request

DEPTH = 16
BLOCK = 4096
LONG = 256 << 10


@dataclass(frozen=True, slots=True)
class Load:
    """What a load did."""

    requests: int
    read: int  # bytes
    written: int  # bytes
    seconds: float
    latency_us: float  # median

    @property
    def iops(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def mb_per_s(self) -> float:
        """Megabytes per second."""
        return (self.read + self.written) / self.seconds / 1e6


def client_name() -> str:
    """Which client is used here."""
    return "fio" if _fio() else "own client"


def random_load(socket: Path, seconds: float, size: int, reads: int = 50, depth: int = DEPTH) -> Load:
    """Random 4 KiB requests, `reads` percent of them reads."""
    if _fio():
        mix = ["--rw=randrw", f"--rwmixread={reads}"] if 0 < reads < 100 else ["--rw=randread"]
        return _run_fio(socket, seconds, size, [*mix, f"--bs={BLOCK}", f"--iodepth={depth}", "--refill_buffers=1"])
    return asyncio.run(_Own(socket, seconds, size, BLOCK, depth, reads).run())


def sequential_load(socket: Path, seconds: float, size: int) -> Load:
    """Reads of 256 KiB one after the other."""
    if _fio():
        return _run_fio(socket, seconds, size, ["--rw=read", f"--bs={LONG}", "--iodepth=4"])
    return asyncio.run(_Own(socket, seconds, size, LONG, 4, 100, in_order=True).run())


def _fio() -> bool:
    path = shutil.which("fio")
    if path is None:
        return False
    return "nbd" in subprocess.run([path, "--enghelp"], capture_output=True, text=True, check=False).stdout.split()


def _run_fio(socket: Path, seconds: float, size: int, options: list[str]) -> Load:
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={socket}", f"--size={size}"]
    command += ["--time_based", f"--runtime={seconds:g}", "--output-format=json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 + 3 * seconds)
    if done.returncode != 0:
        raise RuntimeError(f"fio ended with code {done.returncode}: {done.stderr.strip()[-400:]}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    read, write = job["read"], job["write"]
    longest = max(read["runtime"], write["runtime"]) / 1000
    latency = max(part["clat_ns"].get("percentile", {}).get("50.000000", 0) for part in (read, write))
    return Load(read["total_ios"] + write["total_ios"], read["io_bytes"], write["io_bytes"], longest, latency / 1000)


class _Own:
    """The same load by the demo's client."""

    def __init__(
        self, socket: Path, seconds: float, size: int, block: int, depth: int, reads: int, in_order: bool = False
    ) -> None:
        self._client = NbdClient(Address(path=str(socket)))
        self._seconds, self._blocks, self._block = seconds, size // block, block
        self._depth, self._reads, self._in_order = depth, reads, in_order
        self._random = random.Random(1)
        self._data = self._random.randbytes(2 * block)
        self._next = self._running = 0
        self._read = self._written = 0
        self._latencies: list[float] = []
        self._end = 0.0

    async def run(self) -> Load:
        await self._client.open()
        start = time.monotonic()
        self._end = start + self._seconds
        self._drained = asyncio.Event()
        for _ in range(self._depth):
            self._submit()
        await self._drained.wait()
        seconds = time.monotonic() - start
        await self._client.close()
        ordered = sorted(self._latencies)
        return Load(len(ordered), self._read, self._written, seconds, ordered[len(ordered) // 2] * 1e6)

    def _submit(self) -> None:
        number = self._next % self._blocks if self._in_order else self._random.randrange(self._blocks)
        self._next += 1
        self._running += 1
        offset = number * self._block
        if self._random.randrange(100) < self._reads:
            request = Request(Command.READ, offset, self._block)
            self._read += self._block
        else:
            start = self._random.randrange(self._block)
            request = Request(Command.WRITE, offset, self._block, self._data[start : start + self._block])
            self._written += self._block
        self._client.submit(request, self._done)

    def _done(self, outcome: Outcome) -> None:
        assert not outcome.error, f"the server answers error {outcome.error}"
        self._running -= 1
        self._latencies.append(outcome.seconds)
        if time.monotonic() < self._end:
            self._submit()
        elif not self._running:
            self._drained.set()


async def _sparse(socket: Path, count: int, pause_s: float) -> list[float]:
    client = NbdClient(Address(path=str(socket)))
    await client.open()
    latencies = []
    for number in range(count):
        await asyncio.sleep(pause_s)
        start = time.monotonic()
        await client.request(Request(Command.READ, number % 256 * BLOCK, BLOCK))
        latencies.append(time.monotonic() - start)
    await client.close()
    return latencies


def sparse_load(socket: Path, count: int, pause_s: float) -> list[float]:
    """One 4 KiB read at a time with pauses between; latencies in seconds."""
    return asyncio.run(_sparse(socket, count, pause_s))
