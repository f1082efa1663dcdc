# SPDX-License-Identifier: GPL-2.0-or-later
"""`Written`: the last write to a place in a guest's memory: where in the recording, by what, and what it changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftvm.debugger import Debugger
from ftvm.disassembly import Disassembler, Instruction
from ftvm.hart import HitKind
from replay.divergence import event_words
from replay.position import Position
from replay.timeline import When


@dataclass(frozen=True, slots=True)
class Written:
    """One write. Bytes are in memory order."""

    address: int
    position: Position
    instruction: Instruction
    symbol: str
    device: bool  # a device wrote, asked by this instruction
    old: bytes
    new: bytes
    when: When = When.INSIDE
    event: str = ""  # the one, in words, that made a device write before the entry's first instruction

    def words(self) -> str:
        """For people."""
        who = "a device, asked by" if self.device else "the instruction"
        if self.when is When.EVENTS:
            who = f"a device, on {self.event or 'an event'}, before"
        elif self.when is When.END:
            who = "a device, between two entries, behind"
        at = f" in {self.symbol}" if self.symbol else ""
        return (
            f"{self.address:#x} was written at {self.position} by {who} {self.instruction}{at}\n"
            f"  before  {self.old.hex(' ')}\n  after   {self.new.hex(' ')}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "address": self.address,
            "sequence": self.position.sequence,
            "clock": self.position.clock,
            "pc": self.instruction.pc,
            "instruction": self.instruction.words,
            "symbol": self.symbol or None,
            "device": self.device,
            "when": self.when.value,
            "event": self.event or None,
            "old": self.old.hex(),
            "new": self.new.hex(),
        }


def find_writer(
    debugger: Debugger, address: str, length: int, before: str | None = None, physical: bool = False
) -> Written:
    """The last write to an address, a number or a symbol, before a clock or position (else the end); ValueError."""
    timeline = debugger.timeline
    place = timeline.end
    if before is not None:
        place = debugger.places.parse(before)
    timeline.seek(place)
    number = debugger.symbols.address(address)
    number = int(address, 0) if number is None else number
    at = number if physical else debugger.to_physical(number)
    if at is None:
        raise ValueError(f"{number:#x} is not mapped to RAM at {timeline.position}")
    stop = debugger.last_write(at, length)
    if stop is None or stop.hit is None:
        held = debugger.read(at, length, physical=True).hex(" ")
        raise ValueError(
            f"nothing has written to {number:#x} between the recording's beginning and {place}: it holds what it held "
            f"at the beginning ({held})"
        )
    device = stop.hit.kind == HitKind.DEVICE
    pc = debugger.registers()["pc"]
    instruction = Disassembler().at(pc, debugger.read)
    old = debugger.read(at, length, physical=True)
    position = timeline.position
    event = _behind(debugger, stop.when)
    new = debugger.read(at, length, physical=True)
    return Written(number, position, instruction, debugger.symbols.name(pc), device, old, new, stop.when, event)


def _behind(debugger: Debugger, when: When) -> str:
    """Goes on until it is written; the event that did it, if it was one."""
    timeline = debugger.timeline
    if when is When.INSIDE:
        timeline.step()
        return ""
    here = timeline.position
    if when is When.END:
        timeline.seek(timeline.behind(here.sequence))
        return ""
    entry, _ = timeline.entries[here.sequence + 1]
    timeline.seek(Position(entry.sequence, entry.clock))
    return ", ".join(event_words(event) for event in entry.events)
