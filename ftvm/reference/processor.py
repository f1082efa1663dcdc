# SPDX-License-Identifier: GPL-2.0-or-later
"""The hart on the reference page: instruction set, control and status registers, time, and how a kernel finds it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from ftvm import board
from ftvm.config_values import format_size
from ftvm.hardware import RTC_BASE_NS
from ftvm.hart import BARREN_TRAPS_MAX, BYTES_PER_TICK, ENGINE_VERSION
from ftvm.image import LoadedImage
from ftvm.reference.markdown import address, code, items, table, text

_PROGRESS = "bytes of retired code plus one per synchronous trap"
_COUNTER = f"the clock: {_PROGRESS}"
CSRS: Final[tuple[tuple[int, str, str], ...]] = (
    (0x001, "fflags", ""),
    (0x002, "frm", ""),
    (0x003, "fcsr", ""),
    (0x100, "sstatus", "UXL reads as 0, although XLEN is 64"),
    (0x104, "sie", ""),
    (0x105, "stvec", "direct and vectored"),
    (0x106, "scounteren", "whether user mode may read cycle, time and instret"),
    (0x140, "sscratch", ""),
    (0x141, "sepc", ""),
    (0x142, "scause", ""),
    (0x143, "stval", "the address of a fault, the bits of an illegal instruction"),
    (0x144, "sip", "SSIP, STIP and SEIP; a guest can change SSIP"),
    (0x180, "satp", "bare and Sv39; Sv48 and Sv57 work, too, but are not advertised"),
    (0xC00, "cycle", _COUNTER),
    (0xC01, "time", "guest time"),
    (0xC02, "instret", _COUNTER),
)
"""Everything that supervisor mode can read; any other number is an illegal instruction (a test tries all 4096)."""


def processor(registers: dict[str, int]) -> list[str]:
    """The hart. `registers`: as they are at reset."""
    return [
        "## Processor",
        "",
        *text(
            "One hart, number 0. It starts in supervisor mode; there is no machine mode, its part is done by the host.",
            f"The engine is Unicorn {ENGINE_VERSION}.",
        ),
        *table(
            ("property", "value"),
            (
                (code("riscv,isa"), code(board.ISA)),
                (code("riscv,isa-base"), code(board.ISA_BASE)),
                (code("riscv,isa-extensions"), " ".join(map(code, board.ISA_EXTENSIONS))),
                (code("mmu-type"), code(board.MMU)),
                ("misaligned loads and stores", "done, except by atomic instructions"),
                ("A and D bits of page table entries", "set by the hart"),
                ("timebase", f"{board.TIMEBASE_HZ:,} Hz: one tick is {1_000_000_000 // board.TIMEBASE_HZ} ns"),
            ),
        ),
        "### Control and status registers",
        "",
        *table(("number", "name", "notes"), _csr_rows()),
        *text("Any other number is an illegal instruction."),
        *_time(),
        *_reset(registers),
    ]


def _csr_rows() -> list[tuple[str, str, str]]:
    return [(f"0x{number:03x}", code(name), notes) for number, name, notes in CSRS]


def _time() -> list[str]:
    start = datetime.fromtimestamp(RTC_BASE_NS // 1_000_000_000, UTC)
    return [
        "### Time",
        "",
        *items(
            f"The clock, by which both sides of a pair count, is progress and not time: {_PROGRESS}.",
            f"Guest time advances by one tick for every {BYTES_PER_TICK} units of the clock, but in each epoch only up "
            "to a limit that keeps it with the host's time, and jumps ahead while the guest idles. It never goes "
            "back, not across a failover either.",
            "The timer is due by guest time, at the next block of code.",
            f"The real-time clock shows {start:%Y-%m-%d %H:%M} UTC at guest time 0.",
            f"{BARREN_TRAPS_MAX:,} traps in a row without one retired instruction are a trap loop, a failed guest.",
        ),
    ]


def _reset(registers: dict[str, int]) -> list[str]:
    shown = {"pc": "the kernel's entry", "x10": "0, the hart's number", "x11": "the device tree's address"}
    rows = [(code(name), shown.get(name, _value(name, registers))) for name in _SHOWN]
    return [
        "### At power-on, and at a reset",
        "",
        *table(("register", "value"), rows),
        *text(
            "All other registers are 0. RAM holds the images and the device tree and is 0 elsewhere, each time;",
            "devices are as at power-on. Clock and guest time go on.",
        ),
    ]


_SHOWN = ("pc", "priv", "x10", "x11", "sstatus", "sie", "satp", "stvec", "scounteren")
_PRIVILEGES = {0: "user", 1: "supervisor"}


def _value(name: str, registers: dict[str, int]) -> str:
    return _PRIVILEGES[registers[name]] if name == "priv" else f"{registers[name]:#x}"


def images(image: LoadedImage, memory: int) -> list[str]:
    """Where a kernel and what goes with it are put."""
    end = board.RAM_BASE + memory
    return [
        "## Images",
        "",
        *text(f"RAM is {format_size(board.MEMORY_MIN)} to {format_size(board.MEMORY_MAX)}."),
        *table(
            ("what", "where"),
            (
                ("ELF file", "its segments at their physical addresses, entered at its entry"),
                ("RISC-V Image, also gzipped", "at the offset in RAM that its header asks for"),
                ("any other flat binary", f"at {address(board.RAM_BASE + board.KERNEL_OFFSET)}, and entered there"),
                ("device tree", f"the last pages of RAM; with {format_size(memory)} at {address(image.dtb_address)}"),
                ("initrd", "the pages below the device tree"),
            ),
        ),
        *text(f"(RAM ends at {address(end)} then.) Nothing else is in RAM, and none of it is kept from the guest."),
    ]
