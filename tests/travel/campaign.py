# SPDX-License-Identifier: GPL-2.0-or-later
"""A place of a recording is one state, however one comes to it: random recordings, walked through at random.

    recording   the timer, the driver under requests, the network's echo, or a generated guest that does anything (self-
                modifying code, page tables, traps; tests/fuzz/hostile_guest.py)
    recorder    with checkpoints, with some made afterwards, without; killed: log or checkpoints are cut at any byte
    clone       log, checkpoints and kernel are copied elsewhere, and what was recorded there is removed
    walk        to any clock, to places seen before, single steps, to breakpoints and writes; forwards and backwards,
                the latter alone or with forks
    at last     a sample of the places is visited in another process, forwards, without checkpoints

At every stop all registers, RAM, the disks, and between entries all devices are digested: the same place has to have
the same digest. What runs back have found has to be the last of its kind, by running forwards from there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgpack
import xxhash

from ftvm.board import RAM_BASE
from ftvm.checkpointing import Keep
from ftvm.config import MachineConfig
from ftvm.config_text import to_toml
from ftvm.debugger import Debugger
from ftvm.guests import catalog
from ftvm.machine import FINAL
from replay.checkpoint_file import path_of
from replay.entry import EntryFlag
from replay.errors import LogError
from replay.position import Position
from replay.timeline import Why
from tests.fuzz import hostile_guest
from tests.machine.box import config_of
from tests.travel.recorded import RecordedBox, drive

ROOT = Path(__file__).parents[2]
MOVES = 14
SAMPLE = 12
OFTEN = Keep(spacing_max=20_000, interval_s=0.0, share=1e9)
SPACING = 30_000
DISK = [{"image": "disk0.img", "size": "1 MiB"}]
Place = tuple[int, int, bool]
"""Entry, clock, whether the entry's events have been delivered."""


class Broken(Exception):
    """A property does not hold; the text says how to replay it."""


@dataclass
class Tally:
    """What a campaign did."""

    recordings: int = 0
    places: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        return f"{self.recordings:,} recordings ({kinds}), {self.places:,} places in {self.seconds:.0f} s"


# -- recordings -----------------------------------------------------------------------------------------------------


def _config(kind: str, kernel: Path, number: int) -> MachineConfig:
    if kind == "timer":
        return config_of(str(kernel), cmdline="ticks=100000 hz=1000")
    if kind == "driver":
        return config_of(str(kernel), cmdline="crash=on", disk=DISK, service={"block": {}})
    driver = {"restart": number % 4 == 0, "watchdog_ms": 100}
    return config_of(str(kernel), disk=DISK, service={"block": {}}, network=[{}], driver=driver)


def _kernel(kind: str, seed: str, directory: Path) -> Path:
    path = directory / "kernel"
    if kind == "hostile":
        path.write_bytes(hostile_guest.Generator(_number(seed)).guest().image())
    else:
        found = catalog.find("blockd" if kind == "driver" else "timer")
        assert found is not None
        shutil.copy(found.path, path)
    return path


def _number(seed: str) -> int:
    return xxhash.xxh32_intdigest(seed.encode())


def record(seed: str, kind: str, directory: Path, keep: Keep | None) -> tuple[Path, MachineConfig]:
    """The recording of a seed."""
    chance = Random(f"recording {seed}")
    config = _config(kind, _kernel(kind, seed, directory), _number(seed))
    log = directory / "guest.log"
    box = RecordedBox(config, log, keep)
    if kind == "driver":
        box.until("blockd: ready")
        drive(box, chance.randrange(5, 25), chance)
    else:
        for _ in range(chance.randrange(8, 40)):
            arrived = hostile_guest.events(chance, box) if kind == "hostile" else []
            flags = EntryFlag.DIGEST_PAGES if chance.random() < 0.2 else 0
            budget, later = chance.choice((200, 3000, 20_000, 60_000)), chance.choice((0, 0, 10, 100_000))
            result = box.run(*arrived, budget=budget, ticks=chance.choice((0, 100, 5000)), later=later, flags=flags)
            if result.reason in FINAL:
                break
    box.close()
    return log, config


def _cut(path: Path, chance: Random) -> None:
    """As a killed recorder may leave it."""
    if path.exists() and (size := path.stat().st_size):
        with path.open("r+b") as file:
            file.truncate(size - chance.randrange(0, size // 4))


def _cloned(log: Path, config: MachineConfig, elsewhere: Path) -> tuple[Path, Path]:
    """Log, checkpoints and kernel in another directory; nothing is left where they were."""
    home = log.parent
    shutil.copytree(home, elsewhere)
    shutil.rmtree(home)
    machine = elsewhere / "machine.toml"
    text = to_toml(config)
    assert str(home / "kernel") in text
    machine.write_text(text.replace(str(home / "kernel"), str(elsewhere / "kernel")))
    return elsewhere / log.name, machine


# -- places ---------------------------------------------------------------------------------------------------------


def look(debugger: Debugger) -> str:
    """A digest of all there is where the debugger stands."""
    digest = xxhash.xxh3_128()
    digest.update(msgpack.packb(list(debugger.hart.registers().items())))
    digest.update(debugger.hart.ram)
    for disk in debugger.disks:
        for index in disk.data_chunks():
            chunk = disk.read_chunk(index)
            if any(chunk):
                digest.update(index.to_bytes(8, "little") + chunk)
    if not debugger.timeline.inside:
        digest.update(dict(debugger.machine.save_state())["machine"])
    return digest.hexdigest()


def place_of(debugger: Debugger) -> Place:
    """Where it stands."""
    position = debugger.timeline.position
    return position.sequence, position.clock, debugger.timeline.inside


def visit(log: Path, machine: Path | None, places: Iterable[tuple[int, int]]) -> list[tuple[Place, str]]:
    """These places in this order, from the beginning and without checkpoints."""
    with Debugger.open(log, machine, checkpoints=False) as debugger:
        found = []
        for sequence, clock in places:
            debugger.timeline.seek(Position(sequence, clock))
            found.append((place_of(debugger), look(debugger)))
        return found


class Walk:
    """Through one recording, remembering what every place was."""

    def __init__(self, debugger: Debugger, chance: Random, fail: Callable[[str], Broken]) -> None:
        self.debugger = debugger
        self.timeline = debugger.timeline
        self.seen: dict[Place, str] = {}
        self._chance = chance
        self._fail = fail
        self._pcs: list[int] = []
        self._track: list[str] = []

    def go(self, moves: int) -> None:
        """So many moves."""
        every = (self._to_a_clock, self._to_a_place, self._steps, self._steps_back, self._breakpoint, self._write)
        for _ in range(moves):
            move = self._chance.choice(every)
            self._track.append(f"{move.__name__.strip('_')} from {self.timeline.position}")
            move()
            self._note()

    def _note(self) -> None:
        place, digest = place_of(self.debugger), look(self.debugger)
        if self.seen.setdefault(place, digest) != digest:
            raise self._broken(f"{place} is another state than before")
        self._pcs.append(self.debugger.registers()["pc"])

    def _broken(self, text: str) -> Broken:
        return self._fail(f"{text}\nthe walk: " + "; ".join(self._track[-8:]))

    def _anywhere(self) -> Position:
        start, end = self.timeline.start.clock, self.timeline.end.clock
        return self.timeline.place_of(self._chance.randint(start, end))

    def _to_a_clock(self) -> None:
        self.timeline.seek(self._anywhere())

    def _to_a_place(self) -> None:
        if self.seen:
            sequence, clock, _ = self._chance.choice(list(self.seen))
            if self.timeline.seek(Position(sequence, clock)).clock != clock:
                raise self._broken(f"{sequence}:{clock} is not there any more")

    def _steps(self) -> None:
        for _ in range(self._chance.randint(1, 6)):
            self.timeline.step()
            self._note()

    def _steps_back(self) -> None:
        for _ in range(self._chance.randint(1, 6)):
            clock = self.timeline.position.clock
            if not self.timeline.step_back():
                return
            self._note()
            here = self.timeline.position
            if here.clock == clock:  # from the beginning of the first entry: there is no instruction between
                return
            self.timeline.step()
            if self.timeline.position.clock != clock:
                raise self._broken(f"a step from {here} leads to {self.timeline.position}, not back to {clock}")
            self._note()
            self.timeline.seek(here)

    def _breakpoint(self) -> None:
        pc = self._chance.choice(self._pcs) if self._pcs else 0
        self.timeline.set_breakpoints([pc])
        origin = self.timeline.position
        try:
            back = self._chance.random() < 0.6
            stop = self.timeline.run_back() if back else self.timeline.run()
            here = self.timeline.position
            if stop.why is Why.BREAKPOINT and self.debugger.registers()["pc"] != pc:
                raise self._broken(f"a breakpoint at {pc:#x} was met at {here}, elsewhere")
            if back and origin > here:
                self._note()
                if (again := self.timeline.run(until=origin)).why is Why.BREAKPOINT and again.position < origin:
                    raise self._broken(f"back from {origin} to {pc:#x} passed over {again.position}, to {here}")
                self.timeline.seek(here)
        finally:
            self.timeline.set_breakpoints([])

    def _write(self) -> None:
        """The last write to a word: there is none behind it."""
        ram = len(self.debugger.hart.ram)
        around = self.debugger.to_physical(self.debugger.registers()[self._chance.choice(("x2", "x8", "x10", "pc"))])
        at = RAM_BASE + 0x20_0000 + self._chance.randrange(0, 0x1_0000, 8) if around is None else around & ~7
        at = min(at, RAM_BASE + ram - 8)
        origin = self.timeline.position
        stop = self.debugger.last_write(at, 8)
        if stop is not None:
            self._note()
        else:
            self.timeline.seek(self.timeline.start)
        self.timeline.set_watched([(at, 8, 2)])
        try:
            for _ in range(8):  # an instruction may write twice, and a device when it was asked to once
                again = self.timeline.run(until=origin)
                if again.why is not Why.WATCH or again.position > origin:
                    break
                known = () if stop is None or stop.hit is None else (stop.position.clock, stop.hit.clock)
                if again.hit is None or again.hit.clock not in known:
                    raise self._broken(f"before {origin}, {at:#x} was written last at {stop}, and again at {again}")
        finally:
            self.timeline.set_watched([])
        self.timeline.seek(origin)


# -- a campaign -----------------------------------------------------------------------------------------------------


def run_one(seed: str, directory: Path) -> tuple[str, int]:
    """Everything about the recording of a seed; its kind, and how many places were looked at. Raises Broken."""

    def fail(text: str) -> Broken:
        campaign_seed, _, number = seed.rpartition(":")
        return Broken(f"{text}\nreplay: python -m tests.travel {campaign_seed} --first {number} --recordings 1")

    chance = Random(f"travel {seed}")
    kind = chance.choice(("timer", "driver", "hostile", "hostile"))
    home = directory / "home"
    home.mkdir()
    kept = chance.choice(("none", "while", "while", "afterwards"))
    log, config = record(seed, kind, home, OFTEN if kept == "while" else None)
    if chance.random() < 0.3:
        _cut(log, chance)
    if kept == "while" and chance.random() < 0.3:
        _cut(path_of(log), chance)
    machine = None
    if chance.random() < 0.5:
        log, machine = _cloned(log, config, directory / "elsewhere")
    try:
        if kept == "afterwards":
            with Debugger.open(log, machine, checkpoints=False) as debugger:
                debugger.timeline._spacing = SPACING
                debugger.make_checkpoints()
        with Debugger.open(log, machine) as debugger:
            if chance.random() < 0.3:
                debugger.timeline.scouts, debugger.timeline.scout_from = 2, 0
            walk = Walk(debugger, chance, fail)
            walk.go(MOVES)
    except LogError as error:
        if "header" in str(error) or "empty" in str(error) or "cut" in str(error):
            return kind, 0  # nothing whole is left of it
        raise fail(str(error)) from error
    sample = sorted(chance.sample(sorted(walk.seen), min(SAMPLE, len(walk.seen))))
    for place, digest in elsewhere(log, machine, sample):
        if place in walk.seen and walk.seen[place] != digest:
            raise fail(f"{place} is another state in another process")
    return kind, len(walk.seen)


def elsewhere(log: Path, machine: Path | None, places: list[Place]) -> list[tuple[Place, str]]:
    """The same places in a process of its own."""
    asked = json.dumps({"log": str(log), "machine": machine and str(machine), "places": places})
    command = [sys.executable, "-m", "tests.travel", "--visit"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise Broken(f"{log}: {done.stderr[-2000:]}")
    return [((sequence, clock, inside), digest) for (sequence, clock, inside), digest in json.loads(done.stdout)]


def campaign(
    seed: str,
    recordings: int,
    directory: Path,
    *,
    first: int = 0,
    seconds: float = float("inf"),
    say: Callable[[str], None] = lambda text: None,
) -> Tally:
    """Recordings `first` and on of a seed, until so many are done or so many seconds are over. Raises Broken."""
    tally, began = Tally(), time.monotonic()
    for number in range(first, first + recordings):
        if time.monotonic() - began > seconds:
            break
        place = directory / str(number)
        place.mkdir()
        kind, places = run_one(f"{seed}:{number}", place)
        shutil.rmtree(place)
        tally.recordings += 1
        tally.places += places
        tally.kinds[kind] += 1
        say(f"{number}: {kind}, {places} places")
    tally.seconds = time.monotonic() - began
    return tally
