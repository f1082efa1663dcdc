# SPDX-License-Identifier: GPL-2.0-or-later
"""A program in words: its disassembly, with the traps that were taken at each instruction."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.guests.tools import need
from tests.isa.compare import trap, trap_count
from tests.isa.layout import CODE, CODE_MASK, Control
from tests.isa.program import Program

CAUSES = {
    0: "fetch misaligned", 1: "fetch access", 2: "illegal", 3: "breakpoint", 4: "load misaligned", 5: "load access",
    6: "store misaligned", 7: "store access", 8: "call", 12: "fetch page", 13: "load page", 15: "store page",
    1 << 63 | 1: "software interrupt",
}  # fmt: skip


def disassemble(code: bytes, address: int) -> list[str]:
    objdump = need("riscv64-unknown-elf-objdump", "binutils-riscv64-unknown-elf")
    with tempfile.TemporaryDirectory(prefix="ftvm-isa-") as directory:
        path = Path(directory) / "code"
        path.write_bytes(code)
        command = [objdump, "-D", "-z", "-b", "binary", "-m", "riscv:rv64", f"--adjust-vma={address:#x}", str(path)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if line.startswith(" ")]


def _traps(slot: bytes) -> dict[int, list[str]]:
    """By the place of the instruction in the code pages."""
    found: dict[int, list[str]] = {}
    for index in range(trap_count(slot)):
        entry = trap(slot, index)
        what = f"{index}: {CAUSES.get(entry['scause'], hex(entry['scause']))} {entry['stval']:#x}"
        found.setdefault(entry["sepc"] & CODE_MASK, []).append(what)
    return found


def listing(program: Program, before: bytes, hart: bytes, reference: bytes) -> str:
    """Disassembly with the traps of both sides, and the registers that it starts with."""
    start = program.start
    ours, theirs = _traps(hart), _traps(reference)
    lines = []
    for line in disassemble(before[CODE + start : CODE + start + len(program.code)], start):
        at = int(line.split(":")[0], 16)
        notes = [f"ftvm {note}" for note in ours.get(at, [])] + [f"reference {note}" for note in theirs.get(at, [])]
        both = [note for note in ours.get(at, []) if note in theirs.get(at, [])]
        notes = [note for note in notes if note.split(" ", 1)[1] not in both] + both
        lines.append(line.expandtabs() + ("   <- " + "; ".join(notes) if notes else ""))
    word = {name: before[int(at) : int(at) + 8][::-1].hex() for name, at in Control.__members__.items()}
    state = ", ".join(
        f"{name.lower()} {word[name]}" for name in ("ENTRY", "SATP", "SSTATUS", "FCSR", "SIE", "SCOUNTEREN")
    )
    return "\n".join([f"theme {program.theme}, {state}", *lines])
