# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.linux.soak --seconds N`: stock Linux writes a file system in a pair whose primaries keep dying.

Each round a pair boots, formats a disk, writes, syncs and copies files; primaries are killed at random instants, also
in mid-boot. At its end the guest checks its file system and every file's sum. Rounds go on until the time is over; the
first that fails ends the soak with exit code 1, the seed to repeat its instants, and what everybody said.
"""

from __future__ import annotations

import random
import secrets
import tempfile
import time
from pathlib import Path

import click

from ftvm.pair_process import PairFailed, PairProcess
from tests.linux.stock import Stock, fetch_stock
from tests.linux.test_pair import WRITER, console, machine

FILES = 40
ROUND_S = 600


def soak_round(stock: Stock, directory: Path, chance: random.Random) -> int:
    """One pair from its boot to its power-off; returns how many primaries were killed."""
    directory.mkdir()
    file = directory / "machine.toml"
    file.write_text(machine(stock, directory, WRITER.replace("ROUNDS", str(FILES))))
    kills, end = 0, time.monotonic() + ROUND_S
    with PairProcess(file, directory / "pair") as pair:
        pair.start(60)
        due = time.monotonic() + chance.uniform(0.1, 6)
        while pair.exit_code is None:
            if time.monotonic() > end:
                raise PairFailed(f"the guest has not ended within {ROUND_S} s\n{console(pair)[-2000:]}\n{pair.log()}")
            if time.monotonic() >= due and pair.status()["protected"]:
                try:
                    pair.kill_primary()
                    kills += 1
                except ProcessLookupError:
                    continue  # the guest has just ended
                due = time.monotonic() + chance.uniform(0.1, 6)
            time.sleep(0.02)
        said = console(pair)
        once = all(said.count(f"\nsynced {n}\n") == 1 for n in range(1, FILES + 1)) and said.count("Linux version") == 1
        if pair.exit_code or "VERIFIED" not in said or not once:
            raise PairFailed(f"the guest did not verify what it wrote\n{said[-3000:]}\n{pair.log()}")
    return kills


@click.command()
@click.option("--seconds", type=click.IntRange(1), default=1800, show_default=True)
@click.option("--seed", type=int, default=None, help="Repeat the instants of an earlier soak.")
def main(seconds: int, seed: int | None) -> None:
    """Kill primaries under a stock Linux that writes, and verify every file."""
    seed = secrets.randbits(31) if seed is None else seed
    chance, stock, start = random.Random(seed), fetch_stock(), time.monotonic()
    rounds = kills = 0
    with tempfile.TemporaryDirectory(prefix="ftvm-soak-") as scratch:
        while time.monotonic() < start + seconds:
            try:
                kills += soak_round(stock, Path(scratch) / str(rounds), chance)
            except (PairFailed, TimeoutError) as failed:
                click.echo(f"seed {seed}, round {rounds + 1}: {failed}", err=True)
                raise SystemExit(1) from None
            rounds += 1
            click.echo(f"{time.monotonic() - start:6.0f} s: {rounds} rounds, {kills} primaries killed, all verified")


if __name__ == "__main__":
    main()
