# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings made on a test's bench: guest time is the test's, so they are the same in every run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from devices.event import Event
from ftvm.board import RAM_BASE
from ftvm.checkpointing import Keep
from ftvm.config import MachineConfig
from ftvm.config_text import to_toml
from ftvm.debugger import Debugger
from ftvm.hart import BYTES_PER_TICK
from ftvm.machine import FINAL
from ftvm.recording import Recording, header_of
from replay.entry import Entry, EntryFlag, EpochResult
from replay.position import Position
from tests.machine import frames
from tests.machine.box import BUDGET, Box, blockd_config, config_of

READ, WRITE = 0, 1  # NBD's commands


class RecordedBox(Box):
    """A box whose epochs are recorded."""

    def __init__(self, config: MachineConfig, log: Path, keep: Keep | None = None) -> None:
        """`keep`: with checkpoints beside the log."""
        super().__init__(config)
        self.log, self.keep = log, keep
        self.header = header_of(self.config, self.image, to_toml(self.config).encode())
        self.recording = Recording.begin(log, self.header, self.machine, self.disks, keep=keep)

    def run(self, *events: Event, budget: int = BUDGET, ticks: int | None = None, later: int = 0, flags: int = 0
            ) -> EpochResult:  # fmt: skip
        machine = self.machine
        time = machine.time + later
        span = budget // BYTES_PER_TICK + 1 if ticks is None else ticks
        entry = Entry(machine.sequence + 1, machine.clock, time, time + span, budget, events, flags)
        result = machine.run(entry)
        self.results.append(result)
        if self.recording.checkpoints is not None:
            self.recording.checkpoints.settle()  # one that began before this epoch: so their number is always the same
        self.recording.append(entry, result, 0.0)
        return result

    def flip(self, address: int, bit: int) -> None:
        """One bit of RAM, as a cosmic ray would."""
        self.machine.hart.writes(address, 1)
        self.machine.hart.ram[address - RAM_BASE] ^= 1 << bit

    def close(self) -> None:
        """The recording ends in order."""
        self.recording.close()
        self.machine.close()


def record_timer(log: Path, epochs: int = 60, keep: Keep | None = None) -> Path:
    """The timer guest: interrupts, idle epochs, a new page digest now and then."""
    box = RecordedBox(config_of("timer", cmdline="ticks=100000 hz=1000"), log, keep)
    for number in range(epochs):
        box.run(budget=200_000, later=2000, flags=EntryFlag.DIGEST_PAGES if number % 7 == 0 else 0)
    box.close()
    return log


def record_driver(log: Path, requests: int = 40, seed: int = 1, keep: Keep | None = None) -> Path:
    """The driver VM under writes and reads: a disk that changes, device interrupts, DMA."""
    box = RecordedBox(blockd_config(), log, keep)
    box.until("blockd: ready")
    drive(box, requests, random.Random(seed))
    assert len(box.replies()) > requests - 4, "the driver has answered"
    box.close()
    return log


def drive(box: RecordedBox, requests: int, chance: random.Random) -> None:
    """Writes and reads for a driver that is ready."""
    for _ in range(requests):
        offset = chance.randrange(2000) * 512
        if chance.random() < 0.6:
            data = chance.randbytes(512 * chance.randrange(1, 5))
            box.run(box.request(1, WRITE, offset, data=data))
        else:
            box.run(box.request(1, READ, offset, 512 * chance.randrange(1, 9)))
        box.wait()


def branch(log: Path, behind: int, change: Callable[[Debugger], None], into: Path) -> Path:
    """A recording that begins with the state behind an entry of another, changed, and is given the same inputs."""
    with Debugger.open(log) as debugger:
        entries = debugger.timeline.entries
        debugger.timeline.seek(Position(behind, entries[behind][1].clock))
        change(debugger)
        machine = debugger.machine
        recording = Recording.begin(into, debugger.reader.header, machine, debugger.disks)
        for entry, _ in entries.since(behind + 1):
            time = max(entry.time, machine.time)  # as a live side would go on from there
            given = replace(entry, clock=machine.clock, time=time, time_max=max(entry.time_max, time))
            result = machine.run(given)
            recording.append(given, result, 0.0)
            if result.reason in FINAL:
                break
        recording.close()
    return into


def record_network(log: Path) -> Path:
    """The guest that echoes: a question of ARP, pings, a datagram, a datagram whose text would act on a terminal."""
    network = [{"backend": "none", "mac": "52:54:00:ab:cd:ef"}]
    box = RecordedBox(config_of("netecho", cmdline="ip=10.0.2.15", network=network), log)
    box.until("netecho: ready")
    box.packet(frames.arp())
    for number in range(3):
        box.run(later=10_000)
        box.packet(frames.ipv4(1, frames.ping(b"ping %d" % number)))
    box.packet(frames.ipv4(17, frames.datagram(1024, 7, b"hello, guest")))
    box.packet(frames.ipv4(17, frames.datagram(1024, 7, b"\x1b[2J<script>alert(1)</script>\x00")))
    box.close()
    return log


def record_console(log: Path) -> Path:
    """The guest that answers lines: one of them would act on a terminal, or in a page."""
    box = RecordedBox(config_of("console"), log)
    box.until("console: ready")
    for text in ("hello\r", "\x1b]0;title\x07</script><img src=x onerror=alert(1)>\r"):
        box.type(text)
        box.settle()
    box.close()
    return log


def faulty(log: Path, behind: int, change: Callable[[Debugger], None], into: Path, spacing: int = 0) -> Path:
    """The same inputs recorded by a host that goes wrong behind an entry; with `spacing`, with its checkpoints."""

    def goes_wrong(debugger: Debugger) -> None:
        traveller = debugger.traveller
        begin = traveller.begin

        def changed(entry: Entry) -> None:
            if entry.sequence == behind + 1:
                change(debugger)
            begin(entry)

        traveller.begin = changed  # type: ignore[method-assign]

    keep = Keep(spacing_max=spacing, interval_s=0.0, share=1e9) if spacing else None
    with Debugger.open(log, checkpoints=False) as debugger:
        goes_wrong(debugger)
        machine = debugger.machine
        recording = Recording.begin(into, debugger.reader.header, machine, debugger.disks, keep=keep)
        for entry, _ in debugger.timeline.entries:
            time = max(entry.time, machine.time)
            given = replace(entry, clock=machine.clock, time=time, time_max=max(entry.time_max, time))
            debugger.traveller.begin(given)
            while debugger.traveller.advance():
                pass
            result = debugger.traveller.finish()
            if recording.checkpoints is not None:
                recording.checkpoints.settle()
            recording.append(given, result, 0.0)
            if result.reason in FINAL:
                break
        recording.close()
    return into
