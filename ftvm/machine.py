# SPDX-License-Identifier: GPL-2.0-or-later
"""The deterministic machine: `run(entry) -> EpochResult`. Same entries from the same state: same outputs, same state.

    entry -> [events delivered] -> [hart runs one epoch] -> [supervisor] -> result with digest
                 |                      |  MMIO -> bus -> devices -> outputs (emitted at once, and in the result)
                 v                      v
              devices, journal       disks (each replica does its own I/O)

Nothing here may read a clock, a socket or a random number: a test enforces it by imports. Outputs are handed to
`emit(sequence, index, output)` at the very moment that the guest makes them, so that the live side can let them go
inside the epoch. An epoch in which devices have done too much, or outputs have become too many, ends at the next block
entry: a few instructions can ask for gigabytes, and neither time nor memory of the host may depend on the guest's will.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final

import msgpack
import xxhash

from devices.event import Event, EventKind, Output, OutputKind
from devices.memory import GuestMemory
from devices.virtio.blk import BlockBackend
from ftvm.board import RAM_BASE
from ftvm.config import MachineConfig
from ftvm.driver import Supervisor
from ftvm.hardware import Hardware
from ftvm.hart import ENGINE_VERSION, Hart, StopReason
from ftvm.image import LoadedImage
from ftvm.pages import PageDigest, pages_of
from ftvm.panic import Panic, PanicWatch
from ftvm.ram_image import pack_ram, unpack_ram
from ftvm.ram_snapshot import Pages, SnapshotSeries
from ftvm.sbi import Sbi
from ftvm.service.journal import Journal
from ftvm.state_form import check_form
from replay.entry import Entry, EntryFlag, EpochResult

STATE_VERSION: Final = 3
CORE_VERSION: Final = 5  # raised when the same entries would give another run
ENGINE: Final = f"unicorn {ENGINE_VERSION}, core {CORE_VERSION}"
EPOCH_WORK_MAX: Final = 1 << 16  # of devices (`GuestMemory.work`): some 256 MiB moved, or 50 ms
EPOCH_OUTPUT_MAX: Final = 16 << 20  # bytes
STOP: Final = b"stop"
RESET: Final = b"reset"

Emit = Callable[[int, int, Output], None]
Sections = list[tuple[str, bytes]]


class EpochEnd(IntEnum):
    """Why an epoch ended; part of the result, so both replicas must agree on it."""

    LIMIT = 0  # the clock reached start + budget
    IDLE = 1  # wfi with nothing pending
    RESTARTED = 2  # the driver died and was restarted
    RESET = 3  # the guest (or an operator) reset the machine
    POWEROFF = 4  # the guest switched itself off: final
    STOPPED = 5  # an operator stopped the machine by a control entry: final
    FAILED = 6  # the guest cannot go on and is not to be restarted: final


FINAL: Final = frozenset({EpochEnd.POWEROFF, EpochEnd.STOPPED, EpochEnd.FAILED})


class Machine:
    """One guest: hart, RAM, devices, and the replicated half of the block service."""

    def __init__(
        self,
        config: MachineConfig,
        image: LoadedImage,
        disks: Sequence[BlockBackend],
        emit: Emit | None = None,
        *,
        debug: bool = False,
    ) -> None:
        """With `debug`, `advance` may pause inside an epoch; `hart` has what a debugger needs."""
        self.config = config
        self.image = image
        self.emit = emit
        self.sequence = 0
        self.failure = ""
        self._outputs: list[Output] = []
        self._output_crc = 0
        self._output_bytes = 0  # in this epoch
        self._power: tuple[str, int] | None = None
        self._entry: Entry | None = None  # of the epoch that has begun and is not finished
        self._stop = False  # an event of it stops the machine
        self._stopped: StopReason | None = None  # why the hart returned last, in it
        self.hart = Hart(config.machine.memory, self._mmio_read, self._mmio_write, self._sbi, debug=debug)
        self.memory = GuestMemory(self.hart.ram, RAM_BASE, self.hart.writes)
        self.supervisor = Supervisor(restart=config.driver_restart)
        self._panic = PanicWatch(config.driver.panic)
        self.hardware = Hardware(config, self, disks)
        self._bus = self.hardware.bus
        self.sbi = Sbi(self.hardware.uart, self.memory.read, self.memory.write, self.power)
        self.journal: Journal | None = None
        if config.service_block is not None:
            self.journal = Journal(
                self.hardware.to_driver, self.output, self.violation, config.watchdog_ticks, config.boot_ticks
            )
        self._pages = PageDigest(self.hart.ram)
        self._boot()

    # -- what the guest's world reads ---------------------------------------------------------------------------

    @property
    def clock(self) -> int:
        """Guest progress: bytes of retired code plus one per synchronous trap."""
        return self.hart.clock

    @property
    def time(self) -> int:
        """Guest time in ticks of 100 ns."""
        return self.hart.time

    @property
    def deadline(self) -> int | None:
        """Guest time at which the machine has something to do although no event arrives; None for never."""
        due = [self.hart.deadline, self.hardware.deadline, self._panic.deadline]
        due.append(self.journal.deadline() if self.journal else None)
        return min((ticks for ticks in due if ticks is not None), default=None)

    @property
    def outstanding(self) -> int:
        """Client requests that the driver has not answered."""
        return self.journal.outstanding if self.journal else 0

    @property
    def entropy_wanted(self) -> int:
        """Random bytes that the guest waits for."""
        return self.hardware.entropy_wanted

    def made(self, kind: int) -> int:
        """Outputs of a kind in the present epoch until now; of the console, its bytes ever."""
        if kind == OutputKind.CONSOLE:
            return self.hardware.uart.written
        return sum(output.kind == kind for output in self._outputs)

    # -- the seam -----------------------------------------------------------------------------------------------

    def run(self, entry: Entry) -> EpochResult:
        """Run one epoch; `entry` is all that is not determined by the machine's state."""
        self.begin(entry)
        while self.advance():
            pass
        return self.finish()

    def begin(self, entry: Entry) -> None:
        """The first third of `run`: deliver the entry's events."""
        if entry.clock != self.hart.clock:
            raise ValueError(f"entry {entry.sequence} starts at clock {entry.clock}, this machine's is {self.clock}")
        self.sequence = entry.sequence
        self._entry = entry
        self._outputs = []
        self._output_bytes = self.memory.work = 0
        self._power = None
        self._stopped = None
        self._stop = False
        for event in entry.events:
            self._stop = self._deliver(event, entry.time) or self._stop
        self.hardware.push()

    def advance(self) -> bool:
        """Run the hart to the epoch's end; True where a debugger has it pause before that: then call this again."""
        entry = self._entry
        assert entry is not None, "no epoch has begun"
        if self._stop:
            return False
        if self._stopped == StopReason.PAUSED:
            self._stopped = self.hart.resume()
        else:
            self._stopped = self.hart.run(entry.time, entry.time_max, entry.budget)
        return self._stopped == StopReason.PAUSED

    def finish(self) -> EpochResult:
        """The last third of `run`: what the supervisor does between epochs, and the result. A pause is the end."""
        entry = self._entry
        assert entry is not None, "no epoch has begun"
        if self._stopped == StopReason.PAUSED:
            self.hart.cut()
        reason = EpochEnd.STOPPED if self._stop else self._conclude()
        self._entry = None
        self.hardware.flush()
        pages = self._digest_pages() if entry.flags & EntryFlag.DIGEST_PAGES else 0
        return EpochResult(
            sequence=entry.sequence,
            reason=int(reason),
            clock=self.hart.clock,
            time=max(self.hart.time, entry.time),
            digest=self.digest(),
            pages=pages,
            outputs=tuple(self._outputs),
        )

    def _conclude(self) -> EpochEnd:
        stopped = self._stopped
        rang = self.hardware.expire()
        self.hardware.flush()  # so that a panic is noticed in the epoch in which it was said
        self._panic.expire(self.hart.time)
        self._look_for_panic()
        if stopped == StopReason.GUEST_ERROR:
            self.supervisor.report(self.hart.error)
        if self._power is not None:
            action, reason = self._power
            if reason:
                self.supervisor.report(f"the guest asked for {action} with failure reason {reason} (panic)")
            elif action == "reset" and self.config.driver_restart and self.journal and self.journal.in_driver:
                # As a kernel does after a panic: whatever it was busy with counts as what killed it.
                self.supervisor.report(f"the guest reset the machine and left {self.journal.in_driver} requests")
            else:
                return self._power_request(action)
        if self.journal is not None and (number := self.journal.overdue(self.hart.time)) is not None:
            self.supervisor.report(f"request {number} is overdue")
        if self.supervisor.pending:
            return self._bury()
        return EpochEnd.IDLE if stopped == StopReason.IDLE and not rang else EpochEnd.LIMIT

    def _look_for_panic(self) -> None:
        """A kernel that panicked is dead; also one that would reset itself, unless that is left to it."""
        state = self._panic.state
        resets = state is Panic.RESETTING or (state is Panic.DYING and self._power is not None)
        if state is Panic.DEAD or (resets and self.supervisor.restart):
            self._power = None
            self.supervisor.report(f"the guest panicked: {self._panic.message}")

    def _power_request(self, action: str) -> EpochEnd:
        if action == "poweroff":
            return EpochEnd.POWEROFF
        if self._panic.state is not Panic.NONE:
            text = f"the guest panicked, and has reset itself: {self._panic.message}"
            self.output(Output(OutputKind.NOTICE, 0, text.encode()))
        self._reboot()
        return EpochEnd.RESET

    def _bury(self) -> EpochEnd:
        """The driver has died: restart it, or give up."""
        if not self.supervisor.take():
            self.failure = self.supervisor.cause
            self.output(Output(OutputKind.NOTICE, 0, f"the guest has failed: {self.failure}".encode()))
            return EpochEnd.FAILED
        text = f"driver restart {self.supervisor.restarts}: {self.supervisor.cause}"
        self.output(Output(OutputKind.NOTICE, 0, text.encode()))
        if self.journal is not None:
            self.journal.died()
        self._reboot()
        return EpochEnd.RESTARTED

    def _reboot(self) -> None:
        self.hardware.flush()
        self.hardware.reset()
        self.supervisor.forget()
        self._panic.forget()
        self._boot()
        if self.journal is not None:
            self.journal.restarted(self.hart.time)
            self.hardware.push()

    def _boot(self) -> None:
        """Power-on state: zeroed RAM, images loaded, hart at the kernel's entry."""
        self._zero_ram()
        for address, content in self.image.segments:
            self.hart.load_ram(address - RAM_BASE, content)
        self.hart.reset(self.image.entry, 0, self.image.dtb_address)

    def _zero_ram(self) -> None:
        """All of RAM is zero and known to be: only what is written from here on has to be digested."""
        self.hart.zero_ram()
        self.hart.clear_dirty()
        self._pages.zeroed()

    # -- callbacks from the engine and from devices -------------------------------------------------------------

    def _mmio_read(self, address: int, size: int) -> int:
        return self._bus.read(address, size)

    def _mmio_write(self, address: int, size: int, value: int) -> None:
        self._bus.write(address, size, value)
        if self.memory.work > EPOCH_WORK_MAX:
            self.hart.stop()

    def _sbi(self, extension: int, function: int, args: tuple[int, ...]) -> tuple[int, int]:
        return self.sbi.call(extension, function, args)

    def power(self, action: str, reason: int) -> None:
        """The guest asked for 'poweroff' or 'reset'; a reason other than 0 is a failure."""
        if self._power is None:
            self._power = (action, reason)
        self.hart.stop()

    def violation(self, text: str) -> None:
        """The driver broke the protocol of a device or of the block service."""
        if self.config.driver_restart:
            self.supervisor.report(text)
            self.hart.stop()

    def output(self, output: Output) -> None:
        """An externally visible effect leaves the machine."""
        index = len(self._outputs)
        self._outputs.append(output)
        self._output_bytes += len(output.data)
        if self._output_bytes > EPOCH_OUTPUT_MAX:
            self.hart.stop()
        head = (output.kind << 56 | output.unit << 40 | output.offset) & (1 << 64) - 1
        self._output_crc = zlib.crc32(output.data, zlib.crc32(head.to_bytes(8, "little"), self._output_crc))
        if output.kind == OutputKind.CONSOLE:
            self._panic.see(output.data, self.hart.time)
        elif output.kind == OutputKind.BLOCK_REPLY:
            self.supervisor.progress()
        if self.emit is not None:
            self.emit(self.sequence, index, output)

    def from_driver(self, data: bytes) -> None:
        """The driver wrote to the block service's port."""
        if self.journal is not None:
            self.journal.port_output(data, self.hart.time)
            self.hardware.push()

    def driver_opened(self, opened: bool) -> None:
        """The driver opened or closed the block service's port."""
        if self.journal is not None:
            self.journal.port_opened(opened, self.hart.time)

    def _deliver(self, event: Event, time: int) -> bool:
        """Hand one event to its device; True when it stops the machine."""
        kind = event.kind
        if kind == EventKind.CONTROL:
            return self._control(event.data)
        if kind == EventKind.BLOCK_REQUEST or kind == EventKind.BLOCK_CLOSE:
            if self.journal is None:
                raise ValueError("the log holds a block request, but the machine has no block service")
            (self.journal.request if kind == EventKind.BLOCK_REQUEST else self.journal.close)(event.data, time)
            return False
        self.hardware.deliver(event)
        return False

    def _control(self, command: bytes) -> bool:
        if command == RESET:
            self._reboot()
            return False
        if command != STOP:
            raise ValueError(f"the log holds an unknown control command {command!r}")
        return True

    # -- state --------------------------------------------------------------------------------------------------

    def digest(self) -> int:
        """Registers, clock, device accesses, DMA, outputs, RAM as last looked at, journal: 64 bits in microseconds."""
        parts = (self.hart.digest(), self.memory.digest, self._output_crc, self.journal.digest() if self.journal else 0)
        return xxhash.xxh3_64_intdigest(b"".join(part.to_bytes(8, "little") for part in parts))

    def _digest_pages(self) -> int:
        """RAM's digest, also from now on a part of `digest`: sides of a pair compare only that, and not every one."""
        dirty = self.hart.dirty()
        self.hart.clear_dirty()
        pages = self._pages.update(pages_of(dirty))
        self._output_crc = zlib.crc32(pages.to_bytes(8, "little"), self._output_crc)
        return pages

    def _state(self) -> dict[str, Any]:
        """What is neither hart nor RAM, for msgpack."""
        return {
            "version": STATE_VERSION,
            "sequence": self.sequence,
            "outputs": self._output_crc,
            "dma": self.memory.digest,
            "supervisor": self.supervisor.save(),
            "panic": self._panic.save(),
            "hardware": self.hardware.save(),
            "journal": self.journal.save() if self.journal else None,
        }

    def save(self) -> Sections:
        """The whole machine at an epoch boundary, except its disks; versioned."""
        return [*self.save_state(), ("ram", pack_ram(self.hart.ram))]

    def save_state(self) -> Sections:
        """The same without RAM, which a snapshot (`snapshots`) brings."""
        machine: bytes = msgpack.packb(self._state())
        return [("hart", self.hart.save()), ("machine", machine)]

    def snapshots(self) -> SnapshotSeries:
        """A new series of snapshots of RAM."""
        return self.hart.snapshots()

    def clear_ram(self) -> None:
        """RAM becomes zero; what another machine's RAM holds follows by `put_pages`, and then its state."""
        self._zero_ram()

    def put_pages(self, pages: Pages) -> None:
        """Write pages of another machine's RAM; ValueError when one does not fit."""
        self.hart.put_pages(pages)

    def restore(self, sections: Sections) -> None:
        """Become the machine that `save` described.

        ValueError when it is another kind of machine, or damaged; this machine's own state is undefined then.
        """
        named = dict(sections)
        if "ram" not in named:
            raise ValueError("the state is damaged, or not of such a machine: it has no section 'ram'")
        self._restored(named)

    def restore_state(self, sections: Sections, *, keep_code: bool = False) -> None:
        """The same for a machine whose RAM is in its place already; for `keep_code` see `Hart.restore`."""
        self._restored(dict(sections), keep_code)

    def _restored(self, named: dict[str, bytes], keep_code: bool = False) -> None:
        try:
            self._restore(named, keep_code)
        except Exception as error:  # whatever damaged bytes make the parts of a machine stumble over
            name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            raise ValueError(f"the state is damaged, or not of such a machine: {name}{error}") from error

    def _restore(self, named: dict[str, bytes], keep_code: bool) -> None:
        if missing := [name for name in ("hart", "machine") if name not in named]:
            raise ValueError(f"it has no section {missing[0]!r}")
        try:
            state = msgpack.unpackb(named["machine"])
        except Exception as error:  # of many kinds, some without words
            raise ValueError(f"its section 'machine' is not msgpack: {error!r}") from None
        if type(state) is dict and state.get("version") != STATE_VERSION:
            raise ValueError(f"it has version {state.get('version')!r}, this ftvm reads {STATE_VERSION}")
        check_form(self._state(), state, "machine")
        if "ram" in named:
            self._zero_ram()
            for offset, content in unpack_ram(named["ram"], len(self.hart.ram)):
                self.hart.load_ram(offset, content)
        self.hardware.restore(state["hardware"])
        self.hart.restore(named["hart"], keep_code=keep_code)
        self.memory.digest = state["dma"]
        if not (0 <= state["dma"] < 1 << 64 and 0 <= state["outputs"] < 1 << 32 and state["sequence"] >= 0):
            raise ValueError("its running digests or its sequence are impossible")
        self.sequence, self._output_crc = state["sequence"], state["outputs"]
        self.supervisor.load(state["supervisor"])
        self._panic.load(state["panic"])
        if self.journal is not None:
            self.journal.restore(state["journal"])

    def close(self) -> None:
        """Release the engine; the machine cannot run afterwards."""
        self.hart.close()
