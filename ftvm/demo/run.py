# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo from start to end: clients, load, kills, drain, verification, report.

    open clients -> zero the blocks -> load ... kill, kill, kill ... -> stop and drain -> read everything back -> report

Everything is bounded by `Options.seconds_max`: kills that no longer fit are reported as not carried out, and time is
kept back for draining and verification. What goes wrong becomes a line of the report, never an exception: the report
must come in any case, above all then.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ftvm.demo.kills import (
    STEP_S_MAX,
    WAYS_TO_DIE,
    Executioner,
    Kill,
    KillResult,
    PairUnderTest,
    Target,
    plan_kills,
)
from ftvm.demo.load import Worker, prepare, verify
from ftvm.demo.meter import Meter, Spread
from ftvm.demo.nbd_client import Address, NbdClient
from ftvm.demo.nbd_wire import NbdError
from ftvm.demo.report import Report
from ftvm.demo.tally import Kind, Tally

ENDING_S_MAX: Final = 12.0  # kept back of the whole time for draining and verification: this, or a quarter
TARGETS: Final = {"host": (Target.HOST,), "driver": (Target.DRIVER,), "both": (Target.HOST, Target.DRIVER)}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo is to do. `kill` is host, driver or both; `count` kills of each; `depth` requests per client."""

    seed: int
    kill: str = "both"
    count: int = 4
    clients: int = 2
    depth: int = 8
    blocks_per_client: int = 512
    seconds_max: float = 75.0
    calm_s: tuple[float, float] = (0.3, 0.9)
    step_s_max: float = STEP_S_MAX
    ways: Mapping[int, str] = field(default_factory=lambda: WAYS_TO_DIE)  # of the driver to die

    def __post_init__(self) -> None:
        if self.kill not in TARGETS:
            raise ValueError(f"kill is {self.kill!r}: it must be one of {', '.join(TARGETS)}")
        if self.clients < 2 or self.clients * self.depth < 8:
            raise ValueError("the demo needs at least 2 clients and 8 requests in flight")


def run_demo(pair: PairUnderTest, address: str, options: Options, say: Say) -> Report:
    """Run the demo against a pair that serves NBD at `address`; `say` gets a line for each thing that happens."""
    return asyncio.run(_Demo(pair, Address.parse(address), options, say).run())


class _Demo:
    def __init__(self, pair: PairUnderTest, address: Address, options: Options, say: Say) -> None:
        self._options = options
        self._say = say
        self._start = time.monotonic()
        self._end = self._start + options.seconds_max
        self._ending_s = min(ENDING_S_MAX, options.seconds_max / 4)
        self._blocks = options.clients * options.blocks_per_client
        owners = [index for index in range(options.clients) for _ in range(options.blocks_per_client)]
        self._tally = Tally(owners, random.SystemRandom().getrandbits(64))
        self._meter = Meter()
        self._clients = tuple(NbdClient(address, self._patience()) for _ in range(options.clients))
        self._crasher = NbdClient(address, self._patience())
        deadline = self._end - self._ending_s
        self._executioner = Executioner(pair, self._clients, self._crasher, self._meter, deadline, options.step_s_max)
        self._workers: list[Worker] = []
        self._results: list[KillResult] = []
        self._problems: list[str] = []
        self._restarts = 0
        self._verified = 0
        self._plan = plan_kills(TARGETS[options.kill], options.count, options.seed, options.calm_s, options.ways)

    def _patience(self) -> float:
        return self._options.seconds_max / 3

    async def run(self) -> Report:
        """See the top of this file."""
        asyncio.get_running_loop().set_exception_handler(self._fault)
        limit = asyncio.timeout(self._end - time.monotonic())
        try:
            async with limit:
                await self._steps()
        except TimeoutError as error:
            late = f"the demo did not end within {self._options.seconds_max:g} s"
            self._problems.append(late if limit.expired() else str(error))
            self._problems += [client.trouble for client in self._clients if client.trouble and not client.connected]
        except (NbdError, OSError) as error:
            self._problems.append(str(error))
        finally:
            unanswered = sum(client.unanswered for client in self._clients)
            for client in (*self._clients, self._crasher):
                await client.close()
        return self._report(unanswered)

    def _fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._problems.append(f"internal error: {context['message']}: {error!r}")

    async def _steps(self) -> None:
        for client in (*self._clients, self._crasher):
            await client.open()
        await prepare(self._clients[0], self._blocks)
        restarts = await self._executioner.driver_restarts()
        self._start_load()
        for kill in self._plan:
            await self._kill(kill)
        await asyncio.sleep(self._options.calm_s[1])
        await self._drain()
        await self._verify()
        self._restarts = await self._executioner.driver_restarts() - restarts

    def _start_load(self) -> None:
        options = self._options
        for index, client in enumerate(self._clients):
            blocks = range(index * options.blocks_per_client, (index + 1) * options.blocks_per_client)
            rng = random.Random(f"{options.seed} {index}")
            self._workers.append(Worker(index, client, self._tally, self._meter, rng, blocks))
        for worker in self._workers:
            worker.start(options.depth)
        self._say(f"load: {options.clients} clients, {options.depth} requests in flight each, seed {options.seed}")

    async def _kill(self, kill: Kill) -> None:
        result = await self._executioner.execute(kill)
        self._results.append(result)
        head = f"kill {kill.number} of {len(self._plan)}: {kill}, {sum(result.in_flight)} requests in flight"
        if not result.sound:
            self._say(f"{head}; FAILED: {result.problem or 'it did not hit under load'}")
        elif kill.target is Target.HOST:
            self._say(
                f"{head}; next reply after {result.reply_ms:.0f} ms, protected again after {result.protected_ms:.0f} ms"
            )
        else:
            self._say(f"{head}; restarted, silence of {result.reply_ms:.0f} ms")

    async def _drain(self) -> None:
        self._say("load: stopping, waiting for the last answers")
        for worker in self._workers:
            worker.stop()
        limit_s = self._ending_s / 2
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.gather(*(worker.drained() for worker in self._workers))
        except TimeoutError:
            raise NbdError(f"the last requests were not answered within {limit_s:g} s: nothing was verified") from None

    async def _verify(self) -> None:
        """Every client reads what its neighbour wrote."""
        self._say(f"verify: reading {self._blocks} blocks back")
        size = self._options.blocks_per_client
        for index in range(len(self._clients)):
            blocks = range(index * size, (index + 1) * size)
            await verify(self._clients[(index + 1) % len(self._clients)], self._tally, blocks)
            self._verified += len(blocks)

    def _report(self, unanswered: int) -> Report:
        carried_out = len(self._results)
        return Report(
            seed=self._options.seed,
            seconds=time.monotonic() - self._start,
            kills=(*self._results, *map(KillResult, self._plan[carried_out:])),
            driver_restarts=self._restarts,
            done=dict(self._meter.done),
            retried=sum(client.retried for client in self._clients),
            unanswered=unanswered,
            errors=tuple(self._meter.errors),
            latency=Spread.of(self._meter.latencies),
            longest_silence_ms=round(self._meter.longest_silence * 1000, 3),
            lost=self._tally.counts[Kind.LOST],
            doubled=self._tally.counts[Kind.DOUBLED],
            corrupt=self._tally.counts[Kind.CORRUPT],
            findings=tuple(finding.text for finding in self._tally.findings),
            blocks=self._blocks,
            blocks_verified=self._verified,
            log_bytes=self._executioner.log_bytes,
            problems=tuple(self._problems),
        )
