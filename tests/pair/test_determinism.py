# SPDX-License-Identifier: GPL-2.0-or-later
"""The same entries give the same run, whatever else differs between two replicas.

An author plays the live side with no sense of measure: any budget, any time, any input at any epoch. What it decided
is run again by a replica whose translations are dropped again and again, and by a chain of processes, each of which
takes the state over from the one before at a random epoch, as a joiner does. Digests, page digests of all RAM and
outputs must agree after every entry.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from devices.event import Event, EventKind
from ftvm.machine import FINAL, EpochEnd, Machine
from ftvm.scratch_disk import ScratchDisk, pack_disks
from ftvm.service.nbd import FLUSH, FUA, READ, TRIM, VENDOR, WRITE, WRITE_ZEROES
from ftvm.service.request import encode_close, encode_request
from replay.entry import Entry, EntryFlag
from tests.pair.replica import Facts, build, elsewhere, facts

EPOCHS = 150
PAGE = 4096
SECTORS = 2048
DEATHS = (1, 2, 3, 4, 5, 6)  # of blockd, see its crash.h


def machine_file(kernel: str, cmdline: str = "", **tables: object) -> dict[str, Any]:
    """A machine of 16 MiB."""
    return {"name": "twin", "machine": {"kernel": kernel, "memory": "16 MiB", "cmdline": cmdline}, **tables}


MACHINES: dict[str, dict[str, Any]] = {
    "blockd": machine_file(
        "blockd",
        "crash=on",
        disk=[{"image": "disk0.img", "size": f"{SECTORS // 2} KiB"}],
        service={"block": {}},
        driver={"watchdog_ms": 20},
    ),
    "console": machine_file("console"),
    "netecho": machine_file("netecho", network=[{"backend": "none"}]),
    "timer": machine_file("timer"),
    "compute": machine_file("compute", "insns=20000000"),
}


class Author:
    """Decides entries, from a seed and from what the machine shows."""

    def __init__(self, name: str, seed: int) -> None:
        self.tables = MACHINES[name]
        self.machine, self.disks = build(self.tables)
        self.entries: list[Entry] = []
        self.facts: list[Facts] = []
        self.restarts = 0
        self._chance = Random(seed)
        self._idle = False

    def write(self, epochs: int) -> None:
        """That many entries, or up to the guest's end."""
        for _ in range(epochs):
            entry = self._decide()
            result = self.machine.run(entry)
            self.entries.append(entry)
            self.facts.append(facts(result))
            self._idle = result.reason == EpochEnd.IDLE
            self.restarts += result.reason == EpochEnd.RESTARTED
            if result.reason in FINAL:
                return

    def _decide(self) -> Entry:
        machine, chance = self.machine, self._chance
        time = machine.time + (chance.randrange(20_000) if chance.random() < 0.3 else 0)
        if self._idle and (deadline := machine.deadline) is not None and chance.random() < 0.7:
            time = max(time, deadline)
        budget = int(10 ** chance.uniform(1, 6))
        flags = EntryFlag.DIGEST_PAGES if chance.random() < 0.2 else 0
        span = chance.choice((0, 1, 100, 50_000))
        return Entry(machine.sequence + 1, machine.clock, time, time + span, budget, tuple(self._events()), flags)

    def _events(self) -> list[Event]:
        chance, machine = self._chance, self.machine
        if machine.entropy_wanted:
            return [Event(EventKind.ENTROPY, 0, chance.randbytes(machine.entropy_wanted))]
        if chance.random() < 0.5:
            return []
        if machine.journal is not None:
            return self._requests(machine)
        if "network" in self.tables:
            return [Event(EventKind.PACKET, 0, chance.randbytes(chance.randint(14, 200)))]
        text = chance.choice((b"x", b"hello\r", b"\r\n", bytes(range(32, 64))))
        return [Event(EventKind.CONSOLE_INPUT, 0, text)]

    def _requests(self, machine: Machine) -> list[Event]:
        journal, chance = machine.journal, self._chance
        assert journal is not None
        number, connections = journal.next_number, list(journal.open_connections)
        events = []
        if connections and chance.random() < 0.05:
            events.append(Event(EventKind.BLOCK_CLOSE, 0, encode_close(connections.pop())))
        for _ in range(chance.choice((1, 1, 2, 8))):
            connection = chance.choice(connections) if connections and chance.random() < 0.9 else number
            if connection == number:
                connections.append(number)
            events.append(Event(EventKind.BLOCK_REQUEST, 0, self._request(connection)))
            number += 1
        return events

    def _request(self, connection: int) -> bytes:
        chance = self._chance
        if chance.random() < 0.04:
            return encode_request(connection, VENDOR, 0, chance.choice(DEATHS), 0, b"")
        kind = chance.choice((WRITE, WRITE, READ, READ, FLUSH, TRIM, WRITE_ZEROES))
        count = chance.randint(1, 40)
        offset = chance.randrange(SECTORS - count) * 512
        data = chance.randbytes(512 * count) if kind == WRITE else b""
        flags = FUA if kind == WRITE and chance.random() < 0.2 else 0
        return encode_request(connection, kind, flags, offset, 0 if kind == FLUSH else 512 * count, data)


def compare(expected: list[Facts], found: list[Facts], how: str) -> None:
    """All epochs are alike; the first that is not is told."""
    for ours, theirs in zip(expected, found, strict=True):
        assert ours == theirs, f"entry {ours[0]} differs {how}"


def same_disks(ours: list[ScratchDisk], theirs: list[ScratchDisk]) -> bool:
    """Every byte."""
    return all(a.read(0, a.capacity) == b.read(0, b.capacity) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(
    scope="module", params=[(name, seed) for name in MACHINES for seed in (1, 2)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def author(request: pytest.FixtureRequest) -> Author:
    """A run that is finished."""
    name, seed = request.param
    author = Author(name, seed)
    author.write(EPOCHS)
    assert len(author.entries) > 20
    return author


def test_dropped_translations_change_nothing(author: Author) -> None:
    """Any page may be translated anew at any epoch."""
    chance = Random(3)
    machine, disks = build(author.tables)
    found = []
    for entry in author.entries:
        found.append(facts(machine.run(entry)))
        ram = machine.hart.ram
        for _ in range(chance.choice((0, 1, 20))):
            at = chance.randrange(len(ram) // PAGE) * PAGE
            machine.hart.load_ram(at, bytes(ram[at : at + PAGE]))
    compare(author.facts, found, "when translations are dropped")
    assert same_disks(author.disks, disks)


def test_a_joiner_in_another_process_runs_the_same(author: Author) -> None:
    """Every process takes the state over from the one before, at a random epoch; disks travel, too."""
    chance = Random(4)
    cuts = sorted(chance.sample(range(1, len(author.entries)), 2))
    state, disks, begin = None, pack_disks(()), 0
    for end in (*cuts, len(author.entries)):
        found, state, disks = elsewhere(author.tables, state, disks, author.entries[begin:end])
        compare(author.facts[begin:end], found, f"in a process that took the state over at entry {begin}")
        begin = end
    assert dict(disks) == dict(pack_disks(author.disks))
    ours = dict(author.machine.save())
    assert state is not None
    assert {name: data == ours[name] for name, data in state} == dict.fromkeys(ours, True)


def test_a_joiner_beside_the_original_runs_the_same(author: Author) -> None:
    """The original runs on, and a joiner takes its state over after every few entries."""
    original, originals_disks = build(author.tables)
    chance = Random(5)
    joiner, found = original, []
    for entry in author.entries:
        found.append(facts(joiner.run(entry)))
        if chance.random() < 0.05:
            sections = joiner.save()
            joiner.close()
            joiner, disks = build(author.tables)
            for disk, content in zip(disks, originals_disks, strict=True):
                disk.write(0, content.read(0, content.capacity))
            originals_disks = disks
            joiner.restore(sections)
    compare(author.facts, found, "in a joiner")


def test_the_runs_exercise_driver_restarts() -> None:
    """Else nothing of the above says anything about them."""
    author = Author("blockd", 1)
    author.write(EPOCHS)
    assert author.restarts >= 3


def test_one_flipped_bit_of_ram_is_seen() -> None:
    """A comparison that finds nothing is worth something only if it would."""
    author = Author("console", 1)
    author.write(EPOCHS)
    machine, _ = build(author.tables)
    half = len(author.entries) // 2
    found = [facts(machine.run(entry)) for entry in author.entries[:half]]
    at = len(machine.hart.ram) // 2
    machine.hart.load_ram(at, bytes([machine.hart.ram[at] ^ 1]))
    found += [facts(machine.run(entry)) for entry in author.entries[half:]]
    differing = [ours for ours, theirs in zip(author.facts, found, strict=True) if ours != theirs]
    asked = [entry.sequence for entry in author.entries[half:] if entry.flags & EntryFlag.DIGEST_PAGES]
    assert differing[0][0] == asked[0], "the first page digest after the flip tells"
    assert set(asked) <= {ours[0] for ours in differing}, "and all later ones"
