# SPDX-License-Identifier: GPL-2.0-or-later
"""Page reclaim with swap runs the same everywhere: accessed and dirty bits are no matter of a host's TLB.

Linux clears A in its page tables without sfence.vma when it looks which pages were used. Whether a later access sets
it again would depend on what the engine's TLB has kept, and that depends on its host's clock. One recording of a guest
that swaps hard is made here; other processes replay it with every digest, those of RAM included, on other cores.
"""

from __future__ import annotations

import os
import random
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftvm.hart import RAM_BASE
from ftvm.replaying import Rebuilt, rebuild
from replay.divergence import Divergence
from replay.entry import Entry, EntryFlag, EpochResult
from replay.log_reader import LogReader
from replay.replayer import replay
from tests.linux.evicting import ROOT, build, environment
from tests.linux.pressure import Load, counters, machine_under_load
from tests.linux.stock import Stock
from tests.linux.test_pair import ftvm

pytestmark = pytest.mark.timeout(1800)

LOAD = Load("pressure", rounds=1)
SEED = int(os.environ.get("FTVM_TEST_SEED") or secrets.randbits(31))
EVERY = 64  # fills between two flushes
V, R, W, X, U, A = 1, 2, 4, 8, 16, 64  # of a page table entry
NUMBER = (1 << 44) - 1  # of a page
SV39 = 8  # the mode with three levels; each further mode has one more
TAMPERED = 4
USED_MIN = 100


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording of a guest under memory pressure."""

    log: Path
    said: str


@pytest.fixture(scope="module")
def recorded(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Made once, in a process of its own."""
    directory = tmp_path_factory.mktemp("pressure")
    file, log = directory / "machine.toml", directory / "pressure.log"
    file.write_text(machine_under_load(stock, directory, LOAD))
    ran = ftvm("run", file, "--state-dir", directory / "state", "--record", log, seconds=900)
    assert ran.returncode == 0, ran.stderr
    said = (directory / "state/console.log").read_text(errors="replace").replace("\r\n", "\n")
    return Recorded(log, said)


@pytest.fixture
def busy() -> Iterator[None]:
    """Somebody else uses one of this host's processors."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    other.kill()
    other.wait()


def test_the_guest_swapped_hard_and_verified_what_it_wrote(recorded: Recorded) -> None:
    assert LOAD.verified(recorded.said), recorded.said[-3000:]
    found = counters(recorded.said)
    assert found["pgscan_kswapd"] > 20_000 and found["pgsteal_kswapd"] > 10_000, found
    assert found["pgsteal_anon"] > 20_000 and found["pswpout"] > 15_000 and found["pswpin"] > 10_000, found
    with LogReader(recorded.log) as reader:
        pages = [result.pages for _, result in reader if result.pages]
    assert len(pages) >= 3 and len(set(pages)) == len(pages), "RAM was looked at, and had changed"


def test_it_replays_in_another_process_on_a_busy_host(recorded: Recorded, busy: None) -> None:
    replayed = ftvm("replay", recorded.log, seconds=900)
    assert replayed.returncode == 0, replayed.stderr
    assert "every digest as recorded" in replayed.stdout and "poweroff" in replayed.stdout


def test_it_replays_on_a_core_whose_tlb_forgets_at_random(recorded: Recorded, tmp_path: Path) -> None:
    """What the TLB keeps is nothing that a guest can see."""
    other = environment(build(tmp_path, coherent=True), seed=SEED, every=EVERY)
    command = [sys.executable, "-P", "-m", "ftvm.cli", "replay", str(recorded.log)]
    replayed = subprocess.run(command, env=other, capture_output=True, text=True, timeout=900)
    assert replayed.returncode == 0, f"FTVM_TEST_SEED={SEED}\n{replayed.stderr}"
    assert "every digest as recorded" in replayed.stdout


@pytest.mark.parametrize("coherent", [True, False])
def test_without_the_rule_such_a_core_shows_what_its_tlb_kept(coherent: bool, tmp_path: Path) -> None:
    """The negative control: guests that change page tables without a fence, on both kinds of forgetful cores."""
    other = environment(build(tmp_path, coherent=coherent), seed=SEED, every=EVERY)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath="]
    command += [str(ROOT / "tests/ftvm/test_hart_tlb.py")]
    ran = subprocess.run(command, cwd=tmp_path, env=other, capture_output=True, text=True, timeout=300)
    assert ran.returncode == (0 if coherent else 1), f"FTVM_TEST_SEED={SEED}\n{ran.stdout[-3000:]}"
    assert ("test_a_cleared_accessed_bit_is_set_again" in ran.stdout) != coherent


class _Tampered:
    """A machine in which a few pages of a user's program lose their A, once, before RAM's digest is made."""

    def __init__(self, rebuilt: Rebuilt, after: int, chance: random.Random) -> None:
        self._rebuilt = rebuilt
        self._after = after
        self._chance = chance
        self.tampered = 0  # the entry before which it was done
        self.restore = rebuilt.restore

    def run(self, entry: Entry) -> EpochResult:
        if not self.tampered and entry.sequence > self._after and entry.flags & EntryFlag.DIGEST_PAGES:
            self._tamper(entry)
        return self._rebuilt.run(entry)

    def _tamper(self, entry: Entry) -> None:
        used, machine = self._used(), self._rebuilt.machine
        if len(used) < USED_MIN:
            return  # some other program's turn
        for at in self._chance.sample(used, TAMPERED):
            machine.hart.load_ram(at, bytes([machine.hart.ram[at] & ~A]))
        self.tampered = entry.sequence

    def _used(self) -> list[int]:
        """Where in RAM page table entries of the current program's pages with A are."""
        hart = self._rebuilt.machine.hart
        satp = hart.registers()["satp"]
        tables, found = [(satp & NUMBER, (satp >> 60) - SV39 + 2)], []
        while tables:
            page, level = tables.pop()
            start = (page << 12) - RAM_BASE
            for at in range(start, start + 4096, 8):
                pte = int.from_bytes(hart.ram[at : at + 8], "little")
                if pte & V and not pte & (R | W | X) and level:
                    tables.append((pte >> 10 & NUMBER, level - 1))
                elif pte & (V | U | A) == V | U | A and not level:
                    found.append(at)
        return found


def test_a_few_accessed_bits_that_differ_are_found(recorded: Recorded) -> None:
    """The other control: the same recording, replayed with four A bits cleared amid the swapping.

    The program may use such a page again before anybody looks, and there is no difference then; not all four.
    """
    with LogReader(recorded.log) as reader:
        third = max(entry.sequence for entry, _ in reader) // 3
    with LogReader(recorded.log) as reader:
        rebuilt = rebuild(recorded.log, reader.header)
        tampered = _Tampered(rebuilt, third, random.Random(SEED))
        try:
            with pytest.raises(Divergence) as caught:
                replay(tampered, reader, verify=True)
        finally:
            rebuilt.close()
    assert tampered.tampered, f"FTVM_TEST_SEED={SEED}: no program with many pages was ever current"
    assert caught.value.sequence >= tampered.tampered
    print(f"FTVM_TEST_SEED={SEED}: cleared before entry {tampered.tampered}; {caught.value}")
