# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's report: figures, what went wrong in words, and the verdict.

The rule: passed only if every planned kill hit, with at least 8 requests of 2 clients in flight, was followed by a
protected pair, and nothing was lost, doubled or corrupt; nor may a request of the load end with an error or stay
unanswered, nor the final verification leave a block out. `failures` lists every breach, so it is empty exactly then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table

from ftvm.demo.kills import CLIENTS_MIN, IN_FLIGHT_MIN, KillResult, Target
from ftvm.demo.meter import Spread

SHOWN_MAX: Final = 10  # findings and errors that are shown one by one


@dataclass(frozen=True, slots=True)
class Report:
    """What the demo found. Times in the name's unit."""

    seed: int
    seconds: float = 0.0
    kills: tuple[KillResult, ...] = ()
    driver_restarts: int = 0
    done: dict[str, int] = field(default_factory=dict)  # requests answered with success, by command
    retried: int = 0  # requests sent again after a reconnect
    unanswered: int = 0  # requests without an answer at the end
    errors: tuple[str, ...] = ()
    latency: Spread = field(default_factory=lambda: Spread.of(()))
    longest_silence_ms: float = 0.0
    lost: int = 0
    doubled: int = 0
    corrupt: int = 0
    findings: tuple[str, ...] = ()
    blocks: int = 0
    blocks_verified: int = 0
    log_bytes: int = 0
    problems: tuple[str, ...] = ()  # what kept the demo from running to its end

    @property
    def failovers(self) -> int:
        """Kills of a host after which every client was answered by the successor."""
        return sum(1 for result in self._of(Target.HOST) if result.hit and result.reply_ms is not None)

    @property
    def failover(self) -> Spread:
        """From the kill of a host to the next reply."""
        return _spread(result.reply_ms for result in self._of(Target.HOST))

    @property
    def driver_restart(self) -> Spread:
        """The longest silence around each kill of the driver."""
        return _spread(result.reply_ms for result in self._of(Target.DRIVER))

    @property
    def repair(self) -> Spread:
        """From the kill of a host until the pair was protected again."""
        return _spread(result.protected_ms for result in self._of(Target.HOST))

    @property
    def passed(self) -> bool:
        """The verdict."""
        return not self.failures()

    def failures(self) -> list[str]:
        """Every breach of the rule, in words."""
        failures = list(self.problems)
        for result in self.kills:
            failures += [f"kill {result.kill.number} of the {result.kill}: {why}" for why in _flaws(result)]
        for count, what in ((self.lost, "lost"), (self.doubled, "doubled"), (self.corrupt, "corrupt")):
            if count:
                failures.append(f"{count} block version(s) {what}")
        if self.errors:
            failures.append(f"{len(self.errors)} request(s) ended with an error")
        if self.unanswered:
            failures.append(f"{self.unanswered} request(s) were never answered")
        if not sum(self.done.values()):
            failures.append("no request was done")
        if self.blocks_verified < self.blocks or not self.blocks:
            failures.append(f"only {self.blocks_verified} of {self.blocks} blocks were verified at the end")
        return failures

    def as_json(self) -> dict[str, Any]:
        """For a script; every time is in ms."""
        return {
            "passed": self.passed,
            "failures": self.failures(),
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "failovers": self.failovers,
            "driver_restarts": self.driver_restarts,
            "failover_ms": _spread_json(self.failover),
            "driver_restart_ms": _spread_json(self.driver_restart),
            "repair_ms": _spread_json(self.repair),
            "requests_done": sum(self.done.values()),
            "requests_by_command": dict(sorted(self.done.items())),
            "retried": self.retried,
            "errors": len(self.errors),
            "error_texts": list(self.errors[:SHOWN_MAX]),
            "unanswered": self.unanswered,
            "lost": self.lost,
            "doubled": self.doubled,
            "corrupt": self.corrupt,
            "findings": list(self.findings[:SHOWN_MAX]),
            "blocks": self.blocks,
            "blocks_verified": self.blocks_verified,
            "latency_ms": _spread_json(self.latency),
            "longest_silence_ms": self.longest_silence_ms,
            "log_bytes": self.log_bytes,
            "kills": [_kill_json(result) for result in self.kills],
        }

    def table(self) -> RenderableType:
        """For a reader."""
        table = Table(title="PASSED" if self.passed else "FAILED", show_header=False)
        hosts, drivers = (sum(1 for _ in self._of(target)) for target in Target)
        for name, value in (
            ("failovers", f"{self.failovers} of {hosts} kills of the primary's process"),
            ("  kill to next reply", _spread_text(self.failover)),
            ("  kill to protected again", _spread_text(self.repair)),
            ("driver restarts", f"{self.driver_restarts} from {drivers} kills of the driver"),
            ("  longest silence", _spread_text(self.driver_restart)),
            ("requests done", f"{sum(self.done.values()):,} in {self.seconds:.1f} s ({_commands_text(self.done)})"),
            ("  latency", _spread_text(self.latency)),
            ("retried", f"{self.retried:,}"),
            ("errors", f"{len(self.errors):,}"),
            ("lost", f"{self.lost:,}"),
            ("doubled", f"{self.doubled:,}"),
            ("corrupt", f"{self.corrupt:,}"),
            ("verified at the end", f"{self.blocks_verified:,} of {self.blocks:,} blocks"),
            ("log", f"{self.log_bytes:,} bytes"),
            ("seed", str(self.seed)),
        ):
            table.add_row(name, value)
        return Group(table, *self.failures(), *self.findings[:SHOWN_MAX], *self.errors[:SHOWN_MAX])

    def _of(self, target: Target) -> list[KillResult]:
        return [result for result in self.kills if result.kill.target is target]


def _flaws(result: KillResult) -> list[str]:
    flaws = [result.problem] if result.problem else []
    if not result.hit:
        flaws.append("it did not hit")
    if not result.loaded:
        counts = ", ".join(map(str, result.in_flight)) or "none"
        flaws.append(f"in flight were {counts}, not {IN_FLIGHT_MIN} of {CLIENTS_MIN} clients")
    if not result.protected:
        flaws.append("it was not followed by a protected pair")
    if result.hit and result.reply_ms is None:
        flaws.append("it was not followed by a reply")
    return flaws


def _spread(values_ms: Any) -> Spread:
    return Spread.of([value / 1000 for value in values_ms if value is not None])


def _spread_json(spread: Spread) -> dict[str, float]:
    return {"count": spread.count, "p50": spread.p50, "p99": spread.p99, "max": spread.max}


def _spread_text(spread: Spread) -> str:
    if not spread.count:
        return "not measured"
    return f"p50 {spread.p50:.1f} ms, p99 {spread.p99:.1f} ms, max {spread.max:.1f} ms"


def _commands_text(done: dict[str, int]) -> str:
    return ", ".join(f"{name.lower()} {count:,}" for name, count in sorted(done.items())) or "none"


def _kill_json(result: KillResult) -> dict[str, Any]:
    return {
        "number": result.kill.number,
        "target": result.kill.target.value,
        "mode": result.kill.way,
        "sound": result.sound,
        "hit": result.hit,
        "in_flight": list(result.in_flight),
        "reply_ms": result.reply_ms,
        "all_clients_ms": result.all_clients_ms,
        "protected": result.protected,
        "protected_ms": result.protected_ms,
        "problem": result.problem,
    }
