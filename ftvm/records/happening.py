# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened in a recording, each with its place: `Input`, `Output`, and so on; and the `Epoch` they were in.

    Epoch 17   clock 4096 -> 9120, guest time 0.0120000 -> 0.0121500 s
      Input      packet         from the log         delivered at the epoch's start
      Output     console_output from a replay        at the clock where the guest made it
      Interrupt  timer          from a replay        at the clock where the guest took it
      DiskRequest               from a replay        at the clock where the guest's driver asked its disk

Clocks count bytes of retired code, plus one for each synchronous trap. Times are guest time in ticks of 100 ns;
`seconds` is the same as a float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from devices.event import EventKind, OutputKind
from devices.virtio.offload import HEAD
from ftvm.records.content import Content, event_content, output_content
from replay.entry import Entry, EntryFlag, RecordedResult
from replay.inspect import reason_name
from replay.position import Position

TICKS_PER_SECOND: Final = 10_000_000
INPUT_KINDS: Final = {int(kind): kind.name.lower() for kind in EventKind}
OUTPUT_KINDS: Final = {
    int(OutputKind.CONSOLE): "console_output",
    int(OutputKind.PACKET): "packet_out",
    int(OutputKind.BLOCK_REPLY): "block_reply",
    int(OutputKind.PORT): "port_output",
    int(OutputKind.NOTICE): "notice",
}
INTERRUPTS: Final = {1: "software", 5: "timer", 9: "external"}  # supervisor interrupts (privileged specification 4.1.8)
INTERRUPT: Final = "interrupt"
DISK_REQUEST: Final = "disk_request"


@dataclass(frozen=True, slots=True)
class Happening:
    """Something at a place of a recording. `index` counts among its like in the entry."""

    sequence: int
    index: int
    clock: int
    time: int
    direction: ClassVar[str] = ""  # "in": into the guest, "out": out of it, "cpu": in it

    @property
    def seconds(self) -> float:
        """Guest time."""
        return self.time / TICKS_PER_SECOND

    @property
    def position(self) -> Position:
        """For a timeline to go to: an input has just been delivered there; the rest is about to happen."""
        return Position(self.sequence, self.clock)

    @property
    def kind(self) -> str:
        """Its kind, in the words of `ftvm log grep --kind`."""
        raise NotImplementedError

    @property
    def summary(self) -> str:
        """A line for people; escaped, so that it is safe to print."""
        raise NotImplementedError

    @property
    def payload(self) -> bytes:
        """What was moved: a packet's frame, a write's data, text; without the headers that ftvm puts before it."""
        return b""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the payload in hexadecimal."""
        return {
            "position": str(self.position), "sequence": self.sequence, "index": self.index, "clock": self.clock,
            "time": self.time, "seconds": self.seconds, "direction": self.direction, "kind": self.kind,
            "summary": self.summary, **self._more(), "payload": self.payload.hex(),
        }  # fmt: skip

    def _more(self) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class Moved(Happening):
    """Bytes that went into the guest or came out of it. `code` is the kind's number, `unit` the device's."""

    code: int
    unit: int
    data: bytes

    @property
    def content(self) -> Content:
        """What the bytes mean; decoded anew each time."""
        raise NotImplementedError

    @property
    def is_packet(self) -> bool:
        """Whether it is a packet of a network device."""
        raise NotImplementedError

    @property
    def summary(self) -> str:
        """What the content says of itself."""
        return str(self.content)

    @property
    def payload(self) -> bytes:
        """See `Happening`."""
        if self.is_packet:
            return self.data[HEAD:]  # without taking it apart
        found = getattr(self.content, "data", self.data)
        assert isinstance(found, bytes)
        return found


@dataclass(frozen=True, slots=True)
class Input(Moved):
    """One event, as the log has it; kinds in `devices.event.EventKind`."""

    direction: ClassVar[str] = "in"

    @property
    def kind(self) -> str:
        """console_input, packet, entropy, block_request, block_close, control or link; kind_N for unknown ones."""
        return INPUT_KINDS.get(self.code, f"kind_{self.code}")

    @property
    def content(self) -> Content:
        """See `Moved`."""
        return event_content(self.code, self.unit, self.data)

    @property
    def is_packet(self) -> bool:
        """See `Moved`."""
        return self.code == EventKind.PACKET

    def _more(self) -> Mapping[str, Any]:
        return {"unit": self.unit}


@dataclass(frozen=True, slots=True)
class Output(Moved):
    """One visible effect, as a replay has made it again; the clock is that of the block of code which made it.

    Kinds in `devices.event.OutputKind`. `offset`: the first byte's place in the stream (console, port), or the
    request's number (reply). A `durable` one left only when the disks were synced.
    """

    offset: int
    durable: bool
    direction: ClassVar[str] = "out"

    @property
    def kind(self) -> str:
        """console_output, packet_out, block_reply, port_output or notice."""
        return OUTPUT_KINDS.get(self.code, f"output_{self.code}")

    @property
    def content(self) -> Content:
        """See `Moved`."""
        return output_content(self.code, self.unit, self.data, self.offset)

    @property
    def is_packet(self) -> bool:
        """See `Moved`."""
        return self.code == OutputKind.PACKET

    def _more(self) -> Mapping[str, Any]:
        return {"unit": self.unit, "offset": self.offset, "durable": self.durable}


@dataclass(frozen=True, slots=True)
class Interrupt(Happening):
    """The guest took an interrupt: the clock is that of the first instruction of its handler, at `handler`."""

    cause: int  # supervisor interrupt number: 1 software, 5 timer, 9 external
    handler: int
    direction: ClassVar[str] = "cpu"

    @property
    def kind(self) -> str:
        """Always the same."""
        return INTERRUPT

    @property
    def name(self) -> str:
        """timer, external or software."""
        return INTERRUPTS.get(self.cause, f"cause {self.cause}")

    @property
    def summary(self) -> str:
        """Which, and where its handler is."""
        return f"{self.name} interrupt, handler at {self.handler:#x}"

    def _more(self) -> Mapping[str, Any]:
        return {"cause": self.cause, "name": self.name, "handler": self.handler}


@dataclass(frozen=True, slots=True)
class DiskRequest(Happening):
    """The guest's driver asked its own disk for something, and had it at once: disks need no events.

    `command`: read, write, flush, discard or write_zeroes; offset and length in bytes. The clock is that of the
    block of code which asked.
    """

    unit: int
    command: str
    offset: int
    length: int
    direction: ClassVar[str] = "cpu"

    @property
    def kind(self) -> str:
        """Always the same."""
        return DISK_REQUEST

    @property
    def summary(self) -> str:
        """What was asked for."""
        place = "" if self.command == "flush" else f": {self.length} bytes at {self.offset:#x}"
        return f"{self.command} of disk {self.unit}{place}"

    def _more(self) -> Mapping[str, Any]:
        return {"unit": self.unit, "command": self.command, "offset": self.offset, "length": self.length}


@dataclass(frozen=True, slots=True)
class Epoch:
    """One entry of the log with its result: what the guest was given, and where it came to."""

    sequence: int
    clock: int  # at the start
    clock_end: int
    time: int  # at the start
    time_end: int
    time_max: int  # that the guest could have reached
    budget: int  # of the clock
    reason: str  # why it ended: "limit" (budget or time used up), "idle", ...
    digest: int  # low 32 bits, over registers, devices, outputs and DMA
    pages: int  # digest over the pages of RAM that were written; 0 when the entry did not ask for one
    flags: tuple[str, ...]  # "digest_pages", "protected"
    inputs: tuple[Input, ...]

    @property
    def seconds(self) -> float:
        """Guest time at the start."""
        return self.time / TICKS_PER_SECOND

    @property
    def start(self) -> Position:
        """Its inputs have just been delivered."""
        return Position(self.sequence, self.clock)

    @property
    def end(self) -> Position:
        """It is over; the next one's inputs have not been delivered."""
        return Position(self.sequence, self.clock_end)

    @property
    def idle(self) -> bool:
        """Whether it ended because the guest had nothing to do."""
        return self.reason == "idle"

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the inputs."""
        return {
            "sequence": self.sequence, "clock": self.clock, "clock_end": self.clock_end, "time": self.time,
            "time_end": self.time_end, "time_max": self.time_max, "seconds": self.seconds, "budget": self.budget,
            "reason": self.reason, "digest": f"{self.digest:08x}", "pages": f"{self.pages:016x}" if self.pages else "",
            "flags": list(self.flags),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReplayedEpoch:
    """An epoch with all that happened in it; of one that was not replayed, with its inputs only."""

    epoch: Epoch
    outputs: tuple[Output, ...] = ()
    interrupts: tuple[Interrupt, ...] = ()
    disk_requests: tuple[DiskRequest, ...] = ()
    next_request: int = 0
    """The number of its first block request, if there is one; replies name it. 0 where that is not known."""

    @property
    def happenings(self) -> list[Happening]:
        """Inputs, then everything else by the clock."""
        inside: list[Happening] = [*self.outputs, *self.interrupts, *self.disk_requests]
        return [*self.epoch.inputs, *sorted(inside, key=lambda happening: happening.clock)]


def epoch_of(entry: Entry, result: RecordedResult) -> Epoch:
    """An entry and its result as one object."""
    flags = tuple(flag.name.lower() for flag in EntryFlag(entry.flags) if flag.name) if entry.flags else ()
    inputs = tuple(
        Input(entry.sequence, index, entry.clock, entry.time, event.kind, event.unit, event.data)
        for index, event in enumerate(entry.events)
    )
    return Epoch(
        entry.sequence, entry.clock, result.clock, entry.time, result.time, entry.time_max, entry.budget,
        reason_name(result.reason), result.digest, result.pages, flags, inputs,
    )  # fmt: skip
