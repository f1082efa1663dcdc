# SPDX-License-Identifier: GPL-2.0-or-later
"""`Box`: a whole machine on a test's bench. The test decides the entries; outputs, results and the console are kept.

    box = Box("console")
    box.until("console: ready")
    box.type("hello\r")
    box.until("hello")

Guest time moves as a live side would move it: an epoch may take as long as its budget, and when the guest idles, time
jumps to its next deadline. A box made with `swap=N` replaces its machine after every Nth epoch by another one restored
from its state, so every test that takes a box also tests that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgpack

from devices.event import Event, EventKind, Output, OutputKind
from devices.virtio.offload import frames, plain
from ftvm.board import RAM_BASE
from ftvm.config import MachineConfig, parse
from ftvm.hart import BYTES_PER_TICK
from ftvm.image import LoadedImage, load_image
from ftvm.machine import FINAL, EpochEnd, Machine
from ftvm.scratch_disk import ScratchDisk
from ftvm.service.request import encode_close, encode_request
from replay.entry import Entry, EpochResult
from tests.ftvm.asm import Asm

MIB = 1 << 20
ENTRY = RAM_BASE + 0x20_0000  # where a kernel that names no address is entered
BUDGET = 400_000
EPOCHS_MAX = 2000
SECOND = 10_000_000  # ticks


def config_of(kernel: str = "console", memory: str = "16 MiB", cmdline: str = "", **tables: object) -> MachineConfig:
    """A machine file's content; `disk`, `network`, `service` and so on as TOML would give them."""
    machine = {"kernel": kernel, "memory": memory, "cmdline": cmdline}
    return parse({"name": "box", "machine": machine, **tables}, "box")


def blockd_config(cmdline: str = "crash=on", memory: str = "16 MiB", **tables: object) -> MachineConfig:
    """The driver VM with one disk of 1 MiB."""
    disk = [{"image": "disk0.img", "size": "1 MiB"}]
    return config_of("blockd", memory, cmdline, disk=disk, service={"block": {}}, **tables)


def image_of(code: Asm) -> LoadedImage:
    """Hand-made code as all that a machine boots; no device tree."""
    return LoadedImage(code.base, 0, ((code.base, code.image()),), {"kernel": "by hand"})


class Box:
    """One machine and everything that came out of it."""

    def __init__(self, guest: str | MachineConfig | Asm = "console", *, swap: int = 0, **tables: object) -> None:
        """`guest`: a bundled guest's name, a whole configuration, or code for a bare machine."""
        if isinstance(guest, MachineConfig):
            self.config = guest
        else:
            self.config = config_of(guest if isinstance(guest, str) else "console", **tables)  # type: ignore[arg-type]
        self.image = image_of(guest) if isinstance(guest, Asm) else load_image(self.config)
        self.disks = [ScratchDisk(disk.size or 0) for disk in self.config.disk]
        self.swap = swap
        self.results: list[EpochResult] = []
        self.emitted: list[tuple[int, int, Output]] = []
        self.machine = self._machine()

    def boot(self, code: Asm) -> None:
        """Starts again with hand-made code in place of the configured kernel."""
        self.image = image_of(code)
        self.machine.close()
        self.machine = self._machine()

    def _machine(self) -> Machine:
        return Machine(self.config, self.image, self.disks, lambda *output: self.emitted.append(output))

    def restore(self) -> None:
        """Goes on with another machine that was given this one's state, by way of bytes."""
        sections = msgpack.unpackb(msgpack.packb(self.machine.save()), use_list=True)
        self.machine.close()
        self.machine = self._machine()
        self.machine.restore([(name, data) for name, data in sections])

    # Running

    def run(self, *events: Event, budget: int = BUDGET, ticks: int | None = None, later: int = 0, flags: int = 0
            ) -> EpochResult:  # fmt: skip
        """One epoch, `later` ticks after the last; it may take `ticks`, by default as long as its budget needs."""
        machine = self.machine
        time = machine.time + later
        span = budget // BYTES_PER_TICK + 1 if ticks is None else ticks
        entry = Entry(machine.sequence + 1, machine.clock, time, time + span, budget, events, flags)
        result = machine.run(entry)
        self.results.append(result)
        if self.swap and len(self.results) % self.swap == 0 and result.reason not in FINAL:
            self.restore()
        return result

    def wait(self) -> EpochResult:
        """One epoch; if the last one ended idle, it starts when the guest has something to do."""
        last = self.results[-1] if self.results else None
        later = 0
        if last is not None and last.reason == EpochEnd.IDLE and (deadline := self.machine.deadline) is not None:
            later = max(0, deadline - self.machine.time)
        return self.run(later=later)

    def go_on(self, done: Callable[[], bool], *, epochs: int = EPOCHS_MAX) -> None:
        """Runs until `done`; fails when the guest ends, or idles with nothing to wait for, before that."""
        for _ in range(epochs):
            if done():
                return
            result = self.wait()
            stuck = result.reason == EpochEnd.IDLE and self.machine.deadline is None
            if result.reason in FINAL or stuck:
                break
        end = EpochEnd(self.results[-1].reason).name
        assert done(), f"the guest ended its epoch {len(self.results)} with {end}; console: {self.console!r}"

    def until(self, text: str, *, epochs: int = EPOCHS_MAX) -> None:
        """Runs until the console has shown `text`."""
        self.go_on(lambda: text in self.console, epochs=epochs)

    def to_the_end(self, *, epochs: int = EPOCHS_MAX) -> EpochEnd:
        """Runs until the guest has ended for good."""
        self.go_on(lambda: bool(self.results) and self.results[-1].reason in FINAL, epochs=epochs)
        return EpochEnd(self.results[-1].reason)

    # Input

    def type(self, text: str) -> EpochResult:
        """Console input."""
        return self.run(Event(EventKind.CONSOLE_INPUT, 0, text.encode()))

    def packet(self, frame: bytes, unit: int = 0) -> list[bytes]:
        """A frame arrives; the frames that the guest sends until it idles."""
        before = len(self.outputs(OutputKind.PACKET))
        self.run(Event(EventKind.PACKET, unit, plain(frame)))
        self.settle()
        return [frame for output in self.outputs(OutputKind.PACKET)[before:] for frame in frames(output.data)]

    def settle(self) -> None:
        """Runs until an epoch has ended idle."""
        self.go_on(lambda: self.results[-1].reason == EpochEnd.IDLE)

    def request(self, connection: int, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0
                ) -> Event:  # fmt: skip
        """A client's request, as an event."""
        payload = encode_request(connection, kind, flags, offset, length or len(data), data)
        return Event(EventKind.BLOCK_REQUEST, 0, payload)

    def close_connection(self, connection: int) -> Event:
        """A client's connection has ended."""
        return Event(EventKind.BLOCK_CLOSE, 0, encode_close(connection))

    # Output

    def outputs(self, kind: OutputKind) -> list[Output]:
        """All outputs of a kind."""
        return [output for result in self.results for output in result.outputs if output.kind == kind]

    @property
    def console(self) -> str:
        """Everything on the console, every byte at its offset."""
        stream = bytearray()
        for output in self.outputs(OutputKind.CONSOLE):
            assert output.offset == len(stream), "the console's stream has a gap"
            stream += output.data
        return stream.decode(errors="replace")

    def replies(self) -> dict[int, tuple[int, bytes]]:
        """Answered requests: number -> (error, data)."""
        found: dict[int, tuple[int, bytes]] = {}
        for output in self.outputs(OutputKind.BLOCK_REPLY):
            assert output.offset not in found, f"request {output.offset} was answered twice"
            found[output.offset] = int.from_bytes(output.data[:4], "big"), output.data[4:]
        return found

    @property
    def notices(self) -> list[str]:
        """What the machine told its operator."""
        return [output.data.decode() for output in self.outputs(OutputKind.NOTICE)]

    def trace(self) -> list[tuple[object, ...]]:
        """Everything that two runs of the same entries must have in common."""
        return [(r.sequence, r.reason, r.clock, r.time, r.digest, r.pages, r.outputs) for r in self.results]

    def ram(self, address: int, length: int) -> bytes:
        """What is in RAM."""
        return bytes(self.machine.hart.ram[address - RAM_BASE : address - RAM_BASE + length])

    def words(self, address: int, count: int) -> Sequence[int]:
        """64-bit words of RAM."""
        data = self.ram(address, 8 * count)
        return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
