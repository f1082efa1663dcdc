# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions in words, and the memory that they mean (capstone's disassembler)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import capstone

from replay.gdb.registers import BY_NUMBER

INSN_BYTES: Final = 4
SOURCES: Final = {register.name: register.source for register in BY_NUMBER.values()} | {"s0": "x8"}
"""Names as assemblers write them, to names as the machine tells them."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of them. `base` and `offset` are those of its memory operand."""

    pc: int
    code: bytes
    words: str
    base: str = ""
    offset: int = 0

    def address(self, registers: dict[str, int]) -> int | None:
        """What it loads from or stores to, before it is executed; None when it does neither."""
        if not self.base:
            return None
        return (registers.get(SOURCES.get(self.base, self.base), 0) + self.offset) % (1 << 64)

    def __str__(self) -> str:
        return f"{self.pc:#x}: {self.code.hex()} {self.words}"


class Disassembler:
    """For rv64imafdc."""

    def __init__(self) -> None:
        self._engine: Any = capstone.Cs(capstone.CS_ARCH_RISCV, capstone.CS_MODE_RISCV64 | capstone.CS_MODE_RISCVC)
        self._engine.detail = True

    def at(self, pc: int, read: Callable[[int, int], bytes]) -> Instruction:
        """The instruction at pc. `read(address, length)` gives memory, less or none where there is none."""
        code = read(pc, 2)
        if len(code) == 2 and code[0] & 3 == 3:
            code += read(pc + 2, 2)
        for found in self._engine.disasm(code, pc, 1):
            base, offset = self._memory(found)
            return Instruction(pc, code, f"{found.mnemonic} {found.op_str}".strip(), base, offset)
        return Instruction(pc, code, "not an instruction" if code else "not mapped")

    def _memory(self, found: Any) -> tuple[str, int]:
        operands = found.operands
        for operand in operands:
            if operand.type == capstone.riscv.RISCV_OP_MEM:
                return found.reg_name(operand.mem.base), operand.mem.disp
        if found.mnemonic.startswith(("lr.", "sc.", "amo")):
            return found.reg_name(operands[-1].reg), 0
        return "", 0
