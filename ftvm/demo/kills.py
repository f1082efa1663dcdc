# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills in mid-load: the plan, the pair that suffers them, and the check that each one did what it was to do.

    host     SIGKILL of the primary's process: the backup goes live, clients reconnect, a new backup joins
    driver   a vendor request that makes the driver in the guest die: the supervisor restarts it, clients just wait

    protected, enough in flight -> kill -> it hit? -> next reply -> protected again      (each step bounded in time)

The one idea: a kill counts only when it is proved. The process must be gone, or the restart counter up and the killing
request answered with EIO; at least eight requests of two clients must be in flight in the very step of the event loop
that kills; clients must be answered afterwards, and the pair must be protected again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Protocol

from ftvm.demo.meter import Meter, Watch
from ftvm.demo.nbd_client import NbdClient, Outcome
from ftvm.demo.nbd_wire import Request, error_text
from ftvm.service.nbd import VENDOR

EIO: Final = 5
IN_FLIGHT_MIN: Final = 8
CLIENTS_MIN: Final = 2
STEP_S_MAX: Final = 20.0  # for one step of a kill
POLL_S: Final = 0.003
STATUS_POLL_S: Final = 0.05
WAYS_TO_DIE: Final = {  # the low byte of the vendor request's offset
    1: "panic",
    2: "endless loop",
    3: "overwritten queues",
    4: "trap loop",
    5: "dropped request",
    6: "malformed reply",
}
WAYS_OF_LINUX: Final = {
    1: "panic",
    2: "endless loop",
    3: "reset",
    4: "kill",
    5: "dropped request",
    6: "malformed reply",
}


class PairUnderTest(Protocol):
    """What the demo needs of a pair. All may raise OSError; all but `kill_primary` may block.

    `status` is what `ftvm status --json` shows and holds at least `driver_restarts` (deaths that the supervisor has
    answered with a restart, never falling in a pair's life) and `log_bytes` (sent by the present primary), each an int,
    or missing while no side can tell.
    `wait_protected` never believes the word of a side that is dead.
    """

    def primary_pid(self) -> int:
        """The process that is primary now."""

    def wait_protected(self, timeout_s: float) -> None:
        """Return once the pair is protected. Raises TimeoutError in words."""

    def status(self) -> dict[str, Any]:
        """The pair's status now."""

    def kill_primary(self) -> int:
        """SIGKILL the primary's process, at once, and return its pid. Raises ProcessLookupError when there is none."""


class Target(StrEnum):
    """What a kill hits."""

    HOST = "host"
    DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Kill:
    """One planned kill: after `calm_s` of undisturbed load; `mode` is the driver's way to die, 0 for a host."""

    number: int
    target: Target
    mode: int
    calm_s: float
    ways: Mapping[int, str] = field(default_factory=lambda: WAYS_TO_DIE, compare=False, repr=False)

    @property
    def way(self) -> str:
        """The mode in words; empty for a host."""
        return self.ways.get(self.mode, "")

    def __str__(self) -> str:
        return f"driver ({self.way})" if self.target is Target.DRIVER else "primary's process"


@dataclass(frozen=True, slots=True)
class KillResult:
    """What a kill did. Times in ms; None where the kill did not get that far. `problem` in words, empty when sound."""

    kill: Kill
    in_flight: tuple[int, ...] = ()  # per client, in the step that killed
    hit: bool = False
    reply_ms: float | None = None  # until the next reply (host), or the longest silence of all clients (driver)
    all_clients_ms: float | None = None  # host: until every client had been answered again
    protected: bool = False  # again, afterwards
    protected_ms: float | None = None  # host: from the kill until the pair was protected again
    problem: str = "not carried out"

    @property
    def loaded(self) -> bool:
        """Whether enough requests of enough clients were in flight."""
        return sum(self.in_flight) >= IN_FLIGHT_MIN and sum(map(bool, self.in_flight)) >= CLIENTS_MIN

    @property
    def sound(self) -> bool:
        """Whether the kill hit, under load, and was followed by a protected pair and an answered client."""
        return self.hit and self.loaded and self.protected and self.reply_ms is not None and not self.problem


def plan_kills(
    targets: tuple[Target, ...],
    count: int,
    seed: int,
    calm_s: tuple[float, float],
    ways: Mapping[int, str] = WAYS_TO_DIE,
) -> tuple[Kill, ...]:
    """`count` kills of each target in a seeded order; the driver's ways to die take turns."""
    rng = random.Random(seed)
    order = [target for target in targets for _ in range(count)]
    rng.shuffle(order)
    modes = rng.sample(sorted(ways), len(ways))
    kills: list[Kill] = []
    died = 0
    for number, target in enumerate(order, 1):
        mode = modes[died % len(modes)] if target is Target.DRIVER else 0
        died += target is Target.DRIVER
        kills.append(Kill(number, target, mode, rng.uniform(*calm_s), ways))
    return tuple(kills)


class Executioner:
    """Carries out kills one at a time. `crasher` is a client of its own; `deadline` ends everything (monotonic)."""

    def __init__(
        self,
        pair: PairUnderTest,
        clients: tuple[NbdClient, ...],
        crasher: NbdClient,
        meter: Meter,
        deadline: float,
        step_s_max: float = STEP_S_MAX,
    ) -> None:
        self.log_bytes = 0
        self._pair = pair
        self._clients = clients
        self._crasher = crasher
        self._meter = meter
        self._deadline = deadline
        self._step_s_max = step_s_max
        self._log_seen = 0

    async def execute(self, kill: Kill) -> KillResult:
        """Wait for calm, kill, and see what came of it."""
        result = KillResult(kill)
        try:
            if self._deadline - time.monotonic() < kill.calm_s:
                raise TimeoutError("there was no time left for it")
            await asyncio.sleep(kill.calm_s)
            await self._protected()
            restarts = await self.driver_restarts()
            steps = self._kill_host(result) if kill.target is Target.HOST else self._kill_driver(result, restarts)
            return await steps
        except _Halted as halted:
            return halted.result
        except (TimeoutError, OSError) as error:
            return replace(result, problem=str(error) or type(error).__name__)
        finally:
            self._meter.watch = None

    async def status(self) -> dict[str, Any]:
        """The pair's status; counts the log's bytes, whose counter starts again with every new primary."""
        status = await asyncio.to_thread(self._pair.status)
        seen = status.get("log_bytes")
        if isinstance(seen, int):
            self.log_bytes += seen - self._log_seen if seen >= self._log_seen else seen
            self._log_seen = seen
        return status

    async def driver_restarts(self) -> int:
        """The supervisor's count, waiting for a side that knows it. Raises TimeoutError."""
        end = self._end()
        while not isinstance(count := (await self.status()).get("driver_restarts"), int):
            if time.monotonic() > end:
                raise TimeoutError("the pair's status does not tell driver_restarts")
            await asyncio.sleep(STATUS_POLL_S)
        return count

    async def _kill_host(self, result: KillResult) -> KillResult:
        pid = await asyncio.to_thread(self._pair.primary_pid)
        in_flight = await self._loaded()
        watch = self._watch()
        killed = self._pair.kill_primary()
        result = replace(result, in_flight=in_flight, problem="")
        result = await self._try(result, self._until(lambda: gone(killed), f"process {killed} to be gone"))
        if killed != pid:
            raise _Halted(replace(result, problem=f"process {killed} was killed, but {pid} was the primary"))
        result = replace(result, hit=True)
        result = await self._try(result, self._until(lambda: watch.failed_over, "every client to be answered again"))
        result = replace(result, reply_ms=_ms(watch.first_s), all_clients_ms=_ms(watch.all_s))
        result = await self._try(result, self._protected())
        result = replace(result, protected=True, protected_ms=_ms(time.monotonic() - watch.start))
        successor = await asyncio.to_thread(self._pair.primary_pid)
        return replace(result, problem=f"process {pid} is still called the primary") if successor == pid else result

    async def _kill_driver(self, result: KillResult, restarts: int) -> KillResult:
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        await self._until(lambda: self._crasher.connected, "the killing client to be connected")
        in_flight = await self._loaded()
        watch = self._watch()
        self._crasher.submit(Request(VENDOR, offset=result.kill.mode), answer.set_result)
        self._crasher.flush()
        result = replace(result, in_flight=in_flight, problem="")
        result = await self._try(result, self._until(answer.done, "the killing request to be answered"))
        replies = watch.replies
        if answer.result().error != EIO:
            said = error_text(answer.result().error) if answer.result().error else "success"
            raise _Halted(replace(result, problem=f"the killing request was answered with {said} instead of EIO"))
        result = await self._try(result, self._restarted(restarts))
        result = replace(result, hit=True)
        result = await self._try(result, self._until(lambda: watch.replies > replies, "a client to be answered again"))
        result = replace(result, reply_ms=_ms(watch.silence))
        result = await self._try(result, self._protected())
        return replace(result, protected=True)

    async def _try(self, result: KillResult, step: Any) -> KillResult:
        """Await a step of a kill; when it fails, the kill ends there with what is known."""
        try:
            await step
        except (TimeoutError, OSError) as error:
            raise _Halted(replace(result, problem=str(error) or type(error).__name__)) from error
        return result

    async def _loaded(self) -> tuple[int, ...]:
        """Wait until enough is in flight; returns in the step of the event loop in which it is."""
        counts: tuple[int, ...] = ()

        def enough() -> bool:
            nonlocal counts
            for client in self._clients:
                client.flush()
            counts = tuple(client.in_flight for client in self._clients)
            return sum(counts) >= IN_FLIGHT_MIN and all(counts)

        await self._until(enough, f"{IN_FLIGHT_MIN} requests of all clients to be in flight")
        return counts

    def _watch(self) -> Watch:
        self._meter.watch = Watch(time.monotonic(), tuple(client.connections for client in self._clients))
        return self._meter.watch

    async def _restarted(self, before: int) -> None:
        end = self._end()
        while await self.driver_restarts() <= before:
            if time.monotonic() > end:
                raise TimeoutError(f"the driver's restart counter stayed at {before}")
            await asyncio.sleep(STATUS_POLL_S)

    async def _protected(self) -> None:
        await asyncio.to_thread(self._pair.wait_protected, max(0.1, self._end() - time.monotonic()))

    def _end(self) -> float:
        return min(self._deadline, time.monotonic() + self._step_s_max)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        start, end = time.monotonic(), self._end()
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {time.monotonic() - start:.1f} s for {what}")
            await asyncio.sleep(POLL_S)


class _Halted(Exception):
    """A kill that went wrong half-way."""

    def __init__(self, result: KillResult) -> None:
        super().__init__(result.problem)
        self.result = result


def gone(pid: int) -> bool:
    """Whether a process has ended; one whose parent has not fetched its status yet has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
