# SPDX-License-Identifier: GPL-2.0-or-later
"""`Finding`: where two runs part, and what differs there, for people and for scripts.

kind          what was found
entry         the inputs of an entry differ
instruction   the first instruction that does something else
memory, state RAM, or also registers, devices, disks differ where the two begin, or behind an entry
length        the runs agree as far as both go
recorder      a recording does not hold what its guest does: the recorder has computed something else
host          two replays of the same recording differ here
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replay.position import Position

if TYPE_CHECKING:
    from ftvm.disassembly import Instruction


@dataclass(slots=True)
class Finding:
    """What was found. `position` is the last place where both sides are the same, if that is in an entry."""

    kind: str
    sequence: int
    summary: str
    position: Position | None = None
    instructions: tuple[Instruction, Instruction] | None = None
    details: list[str] = field(default_factory=list)
    event: str = ""
    names: tuple[str, str] = ("A", "B")

    def words(self) -> str:
        """For people."""
        lines = [self.summary]
        if self.instructions is not None:
            one, other = self.instructions
            both = [f"instruction in {name} {insn}" for name, insn in zip(self.names, self.instructions, strict=True)]
            lines += [f"instruction {one}"] if one == other else both
        lines += [f"  {detail}" for detail in self.details]
        return "\n".join([*lines, self.event] if self.event else lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "sequence": self.sequence,
            "summary": self.summary,
            "clock": None if self.position is None else self.position.clock,
            "instructions": None if self.instructions is None else [str(each) for each in self.instructions],
            "details": self.details,
            "event": self.event or None,
        }
