# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.linux.soak --seconds N`: stock Linux under load in a pair whose primaries keep dying.

A round is one pair, from the guest's boot to its power-off. Primaries are killed at random instants, also in mid-boot.
Rounds take turns:

    files      formats a disk, writes, syncs and copies files; checks the file system and every file's sum at its end
    pressure   the same, while two programs that need more memory than there is verify theirs; most of it is in swap
    steady     files for longer, and nobody is killed: what a side's process uses must not grow

In every round nothing may diverge, no process of the pair may use more memory than its bound, and no state directory
more disk than its images and some logs. Rounds go on until the time is over; the first that fails ends the soak with
exit code 1, the seed to repeat its instants, and what everybody said.
"""

from __future__ import annotations

import random
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from ftvm.alarms import Alarms
from ftvm.pair_process import PairFailed, PairProcess
from ftvm.state_dir import read_json
from tests.linux.pressure import Load, machine_under_load
from tests.linux.stock import Stock, fetch_stock
from tests.linux.test_pair import console

MIB: Final = 1 << 20
ROUND_S: Final = 3600  # a safety net
KILL_S: Final = (0.1, 6.0)  # between protected and the next kill
LOOK_S: Final = 0.5
RSS_MAX: Final = 600 * MIB  # of a side: the guest's memory, a copy of it for a joiner, the engine's translations
GROWTH_MAX: Final = 48 * MIB  # of a side's memory, between a third of a steady round and its end
LOGS_MAX: Final = 64 * MIB  # in a state directory, beside the disks' images

FILES: Final = Load("files", files=40)
PRESSURE: Final = Load("pressure", files=8, rounds=1)
STEADY: Final = Load("steady", files=100)
SHORT: Final = (Load("files", files=10), Load("pressure", files=3, rounds=1))
LONG: Final = (FILES, PRESSURE, FILES, PRESSURE, STEADY)


@dataclass(slots=True)
class Figures:
    """What a round has measured."""

    kills: int = 0
    rss: int = 0  # the largest of any side
    log: int = 0  # bytes sent to backups, the copies of memory and disks included
    disk: int = 0  # the largest that the state directory was


class Round:
    """One pair, watched."""

    def __init__(self, pair: PairProcess, load: Load, chance: random.Random) -> None:
        self.figures = Figures()
        self._pair = pair
        self._load = load
        self._chance = chance
        self._sent: dict[int, int] = {}  # by process
        self._rss: list[int] = []

    def run(self) -> Figures:
        """Until the guest ends; PairFailed when anything is not as it should be."""
        end, look = time.monotonic() + ROUND_S, 0.0
        due = self._next_kill()
        while self._pair.exit_code is None:
            now = time.monotonic()
            if now > end:
                raise self._failed(f"the guest has not ended within {ROUND_S} s")
            if now >= look:
                self._look()
                look = now + LOOK_S
            if now >= due and self._kill():
                due = self._next_kill()
            time.sleep(0.02)
        self._check_end()
        return self.figures

    def _next_kill(self) -> float:
        return time.monotonic() + self._chance.uniform(*KILL_S)

    def _kill(self) -> bool:
        """Kill the primary if the pair is protected; False when it is not."""
        if self._load.name == STEADY.name or not self._pair.status()["protected"]:
            return False
        try:
            self._pair.kill_primary()
        except ProcessLookupError:
            return False  # the guest has just ended
        self.figures.kills += 1
        return True

    def _look(self) -> None:
        status = self._pair.status()
        if alarms := Alarms(self._pair.state.path).standing():
            raise self._failed(f"alarms: {', '.join(map(str, alarms))}")
        for name, side in status["sides"].items():
            if side["pid"] is not None:
                said = read_json(self._pair.state.status(name))
                self._look_at(side["pid"], int(said.get("log_bytes") or 0))
        self.figures.log = sum(self._sent.values())
        self.figures.disk = max(self.figures.disk, size_of(self._pair.state.path))
        if self.figures.disk > (bound := self._load.disk_bytes * 2 + LOGS_MAX):
            raise self._failed(f"the state directory has {self.figures.disk:,} bytes, more than {bound:,}")

    def _look_at(self, pid: int, sent: int) -> None:
        self._sent[pid] = max(self._sent.get(pid, 0), sent)
        rss = rss_of(pid)
        self._rss.append(rss)
        self.figures.rss = max(self.figures.rss, rss)
        if rss > RSS_MAX:
            raise self._failed(f"process {pid} uses {rss:,} bytes of memory, more than {RSS_MAX:,}")

    def _check_end(self) -> None:
        said = console(self._pair)
        if self._pair.exit_code or not self._load.verified(said):
            raise self._failed("the guest did not verify what it wrote")
        if "divergence" in self._pair.log().lower():
            raise self._failed("the sides differ")
        if self._load.name == STEADY.name:
            early = max(self._rss[: len(self._rss) // 3])
            if self.figures.rss > early + GROWTH_MAX:
                raise self._failed(f"the sides' memory grew from {early:,} to {self.figures.rss:,} bytes")

    def _failed(self, text: str) -> PairFailed:
        return PairFailed(f"{text}\n{console(self._pair)[-3000:]}\n{self._pair.log()}")


def rss_of(pid: int) -> int:
    """Bytes of memory that a process uses; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def size_of(directory: Path) -> int:
    """Bytes on disk of all files in there; what vanishes meanwhile does not count."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total


def soak_round(stock: Stock, directory: Path, load: Load, chance: random.Random) -> Figures:
    """One pair from its boot to its power-off."""
    directory.mkdir()
    file = directory / "machine.toml"
    file.write_text(machine_under_load(stock, directory, load))
    with PairProcess(file, directory / "pair") as pair:
        pair.start(300)
        return Round(pair, load, chance).run()


@click.command()
@click.option("--seconds", type=click.IntRange(1), default=1800, show_default=True)
@click.option("--seed", type=int, default=None, help="Repeat the instants of an earlier soak.")
@click.option("--short", is_flag=True, help="Small loads, at least one of each kind that is killed.")
def main(seconds: int, seed: int | None, short: bool) -> None:
    """Kill primaries under a stock Linux that writes and swaps, and verify every file."""
    seed = secrets.randbits(31) if seed is None else seed
    click.echo(f"seed {seed}")
    chance, stock, start = random.Random(seed), fetch_stock(), time.monotonic()
    loads, rounds, kills = SHORT if short else LONG, 0, 0
    with tempfile.TemporaryDirectory(prefix="ftvm-soak-") as scratch:
        while time.monotonic() < start + seconds or rounds < len(loads) * short:
            load = loads[rounds % len(loads)]
            try:
                figures = soak_round(stock, Path(scratch) / str(rounds), load, chance)
            except (PairFailed, TimeoutError) as failed:
                click.echo(f"seed {seed}, round {rounds + 1} ({load.name}): {failed}", err=True)
                raise SystemExit(1) from None
            rounds, kills = rounds + 1, kills + figures.kills
            click.echo(
                f"{time.monotonic() - start:6.0f} s: round {rounds} ({load.name}), {figures.kills} primaries killed; "
                f"a side used at most {figures.rss // MIB} MiB, {figures.log // MIB} MiB were sent to backups, "
                f"{figures.disk // MIB} MiB are on disk; all verified"
            )
    click.echo(f"{rounds} rounds, {kills} primaries killed, all verified")


if __name__ == "__main__":
    main()
