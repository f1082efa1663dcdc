# SPDX-License-Identifier: GPL-2.0-or-later
"""A load with bookkeeping, in a thread of its own, that goes on through whatever a test does to the pair meanwhile.

It is the demo's load: clients that reconnect and send again, every block's versions in a tally. `finish` drains it,
reads every block back by another client than wrote it, and fails in words when anything was lost, doubled or corrupt.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from ftvm.demo.content import BLOCK
from ftvm.demo.load import Worker, prepare, verify
from ftvm.demo.meter import Meter
from ftvm.demo.nbd_client import Address, NbdClient, Outcome
from ftvm.demo.nbd_wire import Command, Request
from ftvm.demo.tally import Tally
from ftvm.service.nbd import VENDOR

PATIENCE_S = 40.0


class Load:
    """Clients number `clients`, each with `depth` requests in flight on `blocks` blocks of 4 KiB of its own."""

    def __init__(self, addresses: Sequence[str], clients: int = 2, depth: int = 8, blocks: int = 128) -> None:
        self.meter = Meter()
        self.seed = random.SystemRandom().getrandbits(32)
        self.tally = Tally([i for i in range(clients) for _ in range(blocks)], self.seed)
        self._addresses = [Address.parse(addresses[index % len(addresses)]) for index in range(clients)]
        self._depth, self._blocks = depth, blocks
        self._clients: list[NbdClient] = []
        self._crasher = NbdClient(self._addresses[0], PATIENCE_S)
        self._workers: list[Worker] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        self._call(self._open(), PATIENCE_S)
        self.answered(50)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close(), 10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def done(self) -> int:
        """Requests answered with success."""
        return sum(self.meter.done.values())

    @property
    def retried(self) -> int:
        """Requests that were sent again over a new connection."""
        return sum(client.retried for client in self._clients)

    def answered(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until `count` more requests have been answered: the pair serves its clients now."""
        target, end = self.done + count, time.monotonic() + timeout_s
        while self.done < target:
            assert time.monotonic() < end, (
                f"only {self.done - target + count} of {count} requests were answered within {timeout_s} s; "
                f"{[client.trouble for client in self._clients]}, errors {self.meter.errors[:3]}"
            )
            time.sleep(0.005)

    def crash_driver(self, mode: int) -> Future[Outcome]:
        """Send a request that kills the driver, and come back at once; the future is the request's outcome."""
        return self._submit(Request(VENDOR, offset=mode))

    def poisoned_burst(self, mode: int, count: int) -> list[Outcome]:
        """`count` writes of one client in flight at once behind the load's blocks, the one in the middle poisoned."""
        poison = f"FTVM-POISON-MD={mode}".encode().ljust(BLOCK, b".")
        blocks = [poison if index == count // 2 else bytes([index + 1]) * BLOCK for index in range(count)]
        first = self.tally.size
        requests = [Request(Command.WRITE, (first + index) * BLOCK, 0, data) for index, data in enumerate(blocks)]
        outcomes = [future.result(PATIENCE_S) for future in [self._submit(request) for request in requests]]
        for index, data in enumerate(blocks):
            read = self._submit(Request(Command.READ, (first + index) * BLOCK, BLOCK)).result(PATIENCE_S)
            assert read.error == 0
            assert index == count // 2 or read.data == data, f"block {index} of the burst was lost"
        return outcomes

    def fill_disk(self, size: int) -> None:
        """Write something that does not compress everywhere behind the load's blocks."""
        chunk = 1 << 20
        noise = random.Random(self.seed).randbytes(chunk)
        starts = range(self.tally.size * BLOCK, size - chunk, chunk)
        for future in [self._submit(Request(Command.WRITE, start, 0, noise)) for start in starts]:
            assert future.result(PATIENCE_S).error == 0

    def _submit(self, request: Request) -> Future[Outcome]:
        answer: Future[Outcome] = Future()
        self._loop.call_soon_threadsafe(self._crasher.submit, request, answer.set_result)
        return answer

    def finish(self) -> None:
        """Stop, drain, read everything back, and judge."""
        self._call(self._verify(), PATIENCE_S)
        texts = [finding.text for finding in self.tally.findings]
        assert not texts, f"seed {self.seed}: {self.tally.counts}: {texts[:5]}"
        assert not self.meter.errors, f"seed {self.seed}: {len(self.meter.errors)}: {self.meter.errors[:5]}"

    async def _open(self) -> None:
        for index, address in enumerate(self._addresses):
            client = NbdClient(address, PATIENCE_S)
            self._clients.append(client)
            await client.open()
            blocks = range(index * self._blocks, (index + 1) * self._blocks)
            rng = random.Random(f"{self.seed} {index}")
            self._workers.append(Worker(index, client, self.tally, self.meter, rng, blocks))
        await self._crasher.open()
        await prepare(self._clients[0], self.tally.size)
        for worker in self._workers:
            worker.start(self._depth)

    async def _verify(self) -> None:
        for worker in self._workers:
            worker.stop()
        await asyncio.gather(*(worker.drained() for worker in self._workers))
        for index in range(len(self._clients)):
            blocks = range(index * self._blocks, (index + 1) * self._blocks)
            await verify(self._clients[(index + 1) % len(self._clients)], self.tally, blocks)

    async def _close(self) -> None:
        for worker in self._workers:
            worker.stop()
        for client in (*self._clients, self._crasher):
            await client.close()

    def _call(self, coroutine: object, timeout_s: float) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)  # type: ignore[arg-type]
