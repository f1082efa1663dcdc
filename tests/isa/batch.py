# SPDX-License-Identifier: GPL-2.0-or-later
"""A batch: programs side by side in RAM, and the two runners that run the same RAM to its end.

Both runners take the pieces that RAM begins with and give back the slots. What a runner cannot finish is a `Stuck`: it
names the slot that was running.
"""

from __future__ import annotations

import mmap
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftvm.hart import StopReason
from tests.ftvm.guest import Guest
from tests.guests.tools import need
from tests.isa.harness import harness, shim
from tests.isa.layout import (
    HARNESS,
    HEADER,
    HEADER_COUNT,
    HEADER_RUNNING,
    RAM_BASE,
    SLOT_SIZE,
    SLOTS,
    ram_size,
    slot_address,
)
from tests.isa.program import Program

# What ftvm's hart has, and no more; sstatus and the others as in version 1.11 of the privileged specification.
CPU = "rv64,priv_spec=v1.11.0,h=off,zba=off,zbb=off,zbc=off,zbs=off,sstc=off,pmu-num=0"
# With one hart only, QEMU takes atomic instructions apart, and their faults are those of a load.
REFERENCE_SECONDS_MAX = 90
BUDGET = 1 << 28  # bytes of code; programs end by themselves, after some thousand
NOT_SUPPORTED = -2


class Stuck(Exception):
    """A runner did not come to the end of a batch."""

    def __init__(self, side: str, slot: int, why: str) -> None:
        super().__init__(f"{side} got stuck in slot {slot}: {why}")
        self.slot = slot


@dataclass(frozen=True, slots=True)
class Batch:
    """Programs in neighbouring slots, from the slot `first` on."""

    programs: Sequence[Program]
    first: int = 0

    @property
    def ram_size(self) -> int:
        return ram_size(self.first + len(self.programs))

    def pieces(self) -> list[tuple[int, bytes]]:
        """What RAM holds at the start: (offset, bytes)."""
        header = bytearray(16)
        header[HEADER_COUNT : HEADER_COUNT + 8] = len(self.programs).to_bytes(8, "little")
        header[HEADER_RUNNING : HEADER_RUNNING + 8] = slot_address(self.first).to_bytes(8, "little")
        slots = b"".join(
            program.bytes_in(slot_address(index)) for index, program in enumerate(self.programs, self.first)
        )
        return [
            (0, shim()), (HARNESS - RAM_BASE, harness()), (HEADER - RAM_BASE, bytes(header)),
            (slot_address(self.first) - RAM_BASE, slots),
        ]  # fmt: skip

    def slots(self, ram: bytes | bytearray | memoryview | mmap.mmap) -> list[bytes]:
        """The slots of these programs in all of RAM."""
        start = slot_address(self.first) - RAM_BASE
        return [bytes(ram[start + i * SLOT_SIZE : start + (i + 1) * SLOT_SIZE]) for i in range(len(self.programs))]


def _running(ram: bytes | memoryview | mmap.mmap) -> int:
    at = HEADER - RAM_BASE + HEADER_RUNNING
    return (int.from_bytes(ram[at : at + 8], "little") - SLOTS) // SLOT_SIZE


def run_hart(batch: Batch, pieces: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """The slots after ftvm's hart ran the batch."""
    guest = Guest(ram=batch.ram_size)
    guest.on_call = lambda extension, function, args: (NOT_SUPPORTED, 0)
    for offset, data in pieces:
        guest.hart.load_ram(offset, data)
    guest.hart.reset(HARNESS, 0, 0)
    reason = guest.run(BUDGET)
    slots, running = batch.slots(guest.hart.ram), _running(guest.hart.ram)
    error = guest.hart.error
    guest.hart.close()
    if reason != StopReason.STOPPED:
        raise Stuck("ftvm's hart", running, f"{reason.name} {error}")
    return slots


def run_reference(batch: Batch, pieces: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """The slots after QEMU ran the batch: its RAM is a file that is mapped here, too."""
    qemu = need("qemu-system-riscv64", "qemu-system-misc")
    size = batch.ram_size
    with tempfile.TemporaryDirectory(prefix="ftvm-isa-") as directory:
        path = Path(directory) / "ram"
        with path.open("w+b") as file:
            file.truncate(size)
            for offset, data in pieces:
                file.seek(offset)
                file.write(data)
            file.flush()
            command = [
                qemu, "-nodefaults", "-display", "none", "-bios", "none", "-cpu", CPU, "-accel", "tcg,thread=multi",
                "-smp", "2", "-m", f"{size >> 20}M", "-M", "virt,memory-backend=ram",
                "-object", f"memory-backend-file,id=ram,size={size},mem-path={path},share=on",
            ]  # fmt: skip
            problem = ""
            try:
                ended = subprocess.run(command, capture_output=True, text=True, timeout=REFERENCE_SECONDS_MAX)
                if ended.returncode or ended.stderr:
                    problem = f"exit {ended.returncode} {ended.stderr.strip()}"
            except subprocess.TimeoutExpired:
                problem = f"no end in {REFERENCE_SECONDS_MAX} s"
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as ram:
                if problem:
                    raise Stuck("the reference", _running(ram), problem)
                return batch.slots(ram)
