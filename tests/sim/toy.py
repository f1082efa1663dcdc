# SPDX-License-Identifier: GPL-2.0-or-later
"""A cheap deterministic machine: the real journal and supervisor around a toy driver, console and timer.

It has `Machine`'s interface as far as `Live`, `Backup` and `BackupLink` use it. The driver works on up to four requests
at once, in an order that follows from its state; work takes guest time, so requests are in flight over several epochs,
and replies may be cut in two by an epoch's end. What it can be told:

    VENDOR offset 1   the driver dies          VENDOR offset 2   it hangs until the watchdog ends it
    console 'b'       30 ms of computing       console 'e'       asks for entropy, and prints it
    console 'q'       the guest powers off     anything else     is echoed with a number
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgpack
import xxhash

from devices.event import Event, EventKind, Output, OutputKind
from ftvm.driver import Supervisor
from ftvm.machine import FINAL, STOP, Emit, EpochEnd, Sections
from ftvm.ram_snapshot import PAGE, Pages
from ftvm.service.journal import Journal
from ftvm.service.nbd import FLUSH, FUA, READ, REQUEST, TRIM, VENDOR, WRITE, WRITE_ZEROES, Errno, reply_head
from replay.entry import Entry, EpochResult
from tests.pair.toy_ram import ToyRam, ToySeries
from tests.sim.disk import SideDisk
from tests.sim.history import History, Node, note_output, note_result

BYTES_PER_TICK: Final = 30  # guest time within an epoch
BYTES_PER_SECOND: Final = 700e6  # of the host
TICKS_PER_MS: Final = 10_000
WATCHDOG: Final = 600 * TICKS_PER_MS
ALARM_EVERY: Final = 150 * TICKS_PER_MS
BURST: Final = 20_000_000
DIE, HANG = 1, 2
RAM_PAGES: Final = 24  # that are written to


class ToyMachine:
    """See above. `work(seconds)` lets the simulated host's time pass while an epoch runs."""

    def __init__(self, disk: SideDisk, history: History, node: Node, work: Callable[[float], None], pad: int) -> None:
        self.emit: Emit | None = None
        self.sequence = 0
        self.clock = 0
        self.time = 0
        self.failure = ""
        self.entropy_wanted = 0
        self.node = node
        self.corrupt = False  # a divergence was planted here
        self.supervisor = Supervisor(restart=True)
        self.journal = Journal(self._submit, self._output, self._violation, WATCHDOG)
        self._disk = disk
        self._history = history
        self._work = work
        self.ram = ToyRam(RAM_PAGES + pad // PAGE)
        self._jobs: list[list[Any]] = []  # [work left, kind, flags, number, offset, length, data]
        self._saying = b""  # a reply of which the driver has said only a part
        self._hung = False
        self._burst = 0
        self._alarm = ALARM_EVERY
        self._chance = 1
        self._typed = 0
        self._printed = 0
        self._line = ""
        self._crc = 0
        self._print_pad()
        self._final: EpochEnd | None = None
        self._outputs: list[Output] = []

    @property
    def deadline(self) -> int | None:
        """See Machine."""
        journal = self.journal.deadline()
        return self._alarm if journal is None else min(self._alarm, journal)

    @property
    def outstanding(self) -> int:
        """See Machine."""
        return self.journal.outstanding

    # -- the seam -----------------------------------------------------------------------------------------------

    def run(self, entry: Entry) -> EpochResult:
        """See Machine."""
        if entry.clock != self.clock:
            raise ValueError(f"entry {entry.sequence} starts at clock {entry.clock}, this machine's is {self.clock}")
        if not self.corrupt:
            self.node = self._history.child(self.node, entry)
        self.sequence = entry.sequence
        self._outputs, self._final = [], None
        self.time = max(self.time, entry.time)
        for event in entry.events:
            self._deliver(event)
        reason = self._final or self._execute(entry)
        self._print()
        result = EpochResult(self.sequence, int(reason), self.clock, self.time, self.digest(), 0, tuple(self._outputs))
        if not self.corrupt:
            note_result(self.node, result, reason in FINAL)
        return result

    def _execute(self, entry: Entry) -> EpochEnd:
        begin, end = self.clock, self.clock + entry.budget
        self.clock += 400
        while self.clock < end and self._turn(end - self.clock):
            self._advance(entry, begin)
        self._advance(entry, begin)
        self._work((self.clock - begin) / BYTES_PER_SECOND)
        if self._final is not None:
            return self._final
        if (number := self.journal.overdue(self.time)) is not None:
            self.supervisor.report(f"request {number} is overdue")
        if self.supervisor.pending:
            return self._bury()
        return EpochEnd.LIMIT if self.clock >= end else EpochEnd.IDLE

    def _advance(self, entry: Entry, begin: int) -> None:
        reached = min(entry.time + (self.clock - begin) // BYTES_PER_TICK, entry.time_max)
        self.time = max(self.time, reached)
        while self.time >= self._alarm:
            self._line += f"tick {self._alarm}\n"
            self._alarm += ALARM_EVERY

    def _turn(self, room: int) -> bool:
        """Work a little; False when there is nothing to do."""
        if self._hung or self.supervisor.pending or self._final is not None:
            return False
        if self._saying:
            rest, self._saying = self._saying, b""
            self.clock += 500
            self.journal.port_output(rest, self.time)
            return True
        if not self._jobs:
            step = min(room, self._burst)
            self._burst -= step
            self.clock += step
            if step and self.clock >> 22 != self.clock - step >> 22:
                self._line += "."
            return step > 0
        self._chance = self._chance * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        job = self._jobs[(self._chance >> 33) % min(4, len(self._jobs))]
        step = min(room, job[0])
        job[0] -= step
        self.clock += step
        self._use_ram()
        if not job[0]:
            self._jobs.remove(job)
            self._serve(*job[1:])
        return True

    def _print_pad(self) -> None:
        for number in range(RAM_PAGES, len(self.ram.pages)):
            self.ram.write(number, number.to_bytes(4, "little") * (PAGE // 4))

    def _use_ram(self) -> None:
        """Read a page, which shows in the digest, and write another one, now and then with zeros."""
        ram, chance = self.ram, self._chance >> 16
        self._crc = xxhash.xxh3_64_intdigest(ram.pages[chance % len(ram.pages)], self._crc)
        number = (chance >> 12) % RAM_PAGES
        ram.write(number, b"" if chance >> 24 & 3 == 0 else xxhash.xxh3_64_digest(ram.pages[number], self._crc))

    def _bury(self) -> EpochEnd:
        if not self.supervisor.take():
            self._output(Output(OutputKind.NOTICE, 0, b"the guest has failed"))
            return EpochEnd.FAILED
        self._output(Output(OutputKind.NOTICE, 0, f"driver restart {self.supervisor.restarts}".encode()))
        self.journal.died()
        self._jobs, self._saying, self._hung, self._burst = [], b"", False, 0
        self.journal.restarted(self.time)
        return EpochEnd.RESTARTED

    # -- the driver ---------------------------------------------------------------------------------------------

    def _submit(self, frame: bytes) -> None:
        _, flags, kind, number, offset, length = REQUEST.unpack_from(frame)
        work = 20_000 + (offset * 7919 + number * 104729) % 180_000
        work *= 20 if number % 7 == 0 else 1
        self._jobs.append([work, kind, flags, number, offset, length, frame[REQUEST.size :]])

    def _serve(self, kind: int, flags: int, number: int, offset: int, length: int, data: bytes) -> None:
        answer, error = b"", int(Errno.OK)
        if kind == VENDOR and offset == DIE:
            self.supervisor.report("told to die")
            return
        if kind == VENDOR and offset == HANG:
            self._hung = True
            return
        if kind == READ:
            answer = self._disk.read(offset, length)
            self._crc = xxhash.xxh3_64_intdigest(answer, self._crc)
        elif kind == WRITE:
            self._disk.write(offset, data)
        elif kind in (TRIM, WRITE_ZEROES):
            self._disk.zero(offset, length)
        elif kind != FLUSH:
            error = int(Errno.EINVAL)
        if kind == FLUSH or flags & FUA:
            self._disk.flush()
        reply = reply_head(number, error) + answer
        cut = self._chance >> 40 & 31 if number % 5 == 0 else len(reply)
        self._saying = reply[cut:]
        self.journal.port_output(reply[:cut], self.time)

    # -- events and outputs -------------------------------------------------------------------------------------

    def _deliver(self, event: Event) -> None:
        if event.kind == EventKind.BLOCK_REQUEST:
            self.journal.request(event.data, self.time)
        elif event.kind == EventKind.BLOCK_CLOSE:
            self.journal.close(event.data, self.time)
        elif event.kind == EventKind.CONSOLE_INPUT:
            self._type(event.data)
        elif event.kind == EventKind.ENTROPY:
            self.entropy_wanted = 0
            self._line += f"entropy {event.data.hex()}\n"
        elif event.kind == EventKind.CONTROL and event.data == STOP:
            self._final = EpochEnd.STOPPED
        else:
            raise ValueError(f"unknown event {event}")

    def _type(self, data: bytes) -> None:
        for key in data.decode():
            self._typed += 1
            self._line += f"{self._typed}: {key}\n"
            if key == "q":
                self._final = EpochEnd.POWEROFF
            elif key == "b":
                self._burst += BURST
            elif key == "e":
                self.entropy_wanted = 8

    def _print(self) -> None:
        if self._line:
            text, self._line = self._line.encode(), ""
            self._output(Output(OutputKind.CONSOLE, 0, text, self._printed))
            self._printed += len(text)

    def _output(self, output: Output) -> None:
        index = len(self._outputs)
        self._outputs.append(output)
        if not self.corrupt:
            note_output(self.node, index, output, self._disk.flushed)
        self._crc = xxhash.xxh3_64_intdigest(output.data, self._crc ^ output.offset)
        if output.kind == OutputKind.BLOCK_REPLY:
            self.supervisor.progress()
        if self.emit is not None:
            self.emit(self.sequence, index, output)

    def _violation(self, text: str) -> None:
        raise AssertionError(f"the toy driver never breaks the protocol: {text}")

    # -- state --------------------------------------------------------------------------------------------------

    def digest(self) -> int:
        """See Machine."""
        parts = (self._crc, self.clock, self.time, self._chance, self._typed, self.journal.digest(), len(self._jobs))
        return xxhash.xxh3_64_intdigest(repr(parts).encode())

    def plant_divergence(self) -> None:
        """From here on this replica is not what it should be."""
        self.corrupt = True
        self._chance ^= 1 << 50
        self._crc ^= 1

    def snapshots(self) -> ToySeries:
        """See Machine."""
        return self.ram.snapshots()

    def clear_ram(self) -> None:
        """See Machine."""
        self.ram.clear()

    def put_pages(self, pages: Pages) -> None:
        """See Machine."""
        self.ram.put(pages)

    def save_state(self) -> Sections:
        """See Machine."""
        fields = [
            *(self.sequence, self.clock, self.time, self.entropy_wanted, self._jobs, self._saying, self._hung),
            *(self._burst, self._alarm, self._chance, self._typed, self._printed, self._crc),
            *(self.supervisor.save(), self.journal.save()),
        ]
        tracked = [self.node.number, self._disk.submitted, self._disk.flushed]
        return [("toy", msgpack.packb(fields)), ("tracked", msgpack.packb(tracked))]

    def restore_state(self, sections: Sections) -> None:
        """See Machine."""
        named = dict(sections)
        fields = msgpack.unpackb(named["toy"], strict_map_key=False)
        (self.sequence, self.clock, self.time, self.entropy_wanted, self._jobs, self._saying, self._hung) = fields[:7]
        (self._burst, self._alarm, self._chance, self._typed, self._printed, self._crc) = fields[7:13]
        self.supervisor.load(fields[13])
        self.journal.restore(fields[14])
        number, *changes = msgpack.unpackb(named["tracked"])
        self.node = self._history.nodes[number]
        self._disk.rebase(*changes)
