# SPDX-License-Identifier: GPL-2.0-or-later
"""A program: atoms in a row, the registers and memory it starts with, and its bytes in a slot.

All of it follows from the seed, which names the campaign's seed and the program's number. `Program.without` gives the
same program with some atoms missing: what shrinking tries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random

from tests.isa import deviations, floats, integer, memory, paging, system
from tests.isa.chance import CORNERS, DOUBLE_CORNERS, DOUBLES, ONES, SINGLE_CORNERS, SINGLES, Chance
from tests.isa.layout import CODE, DATA, PAGE, ROOT, SLOT_SIZE, Control
from tests.isa.memory import LANDING, NOWHERE, PAGES_CODE, PAGES_DATA, VIRTUAL

RETURN, NOP = 0x8082, 0x0001  # c.jr x1, c.nop
EBREAK = 0x100073
SV39 = 8 << 60
FS_SHIFT = 13


def _simple(g: Chance) -> bytes:
    """What may stand in a loop or behind a branch."""
    return g.pick(_SIMPLE)(g)


def _anything(g: Chance) -> bytes:
    return g.pick(_USER)(g)


_SIMPLE: list[integer.Emit] = [
    *[integer.arithmetic] * 5, *[memory.access] * 4, *[floats.operation] * 3, memory.atomic, memory.conditional,
    system.illegal, system.fence, floats.control,
]  # fmt: skip


def forward(g: Chance) -> bytes:
    return integer.forward(g, _simple)


def loop(g: Chance) -> bytes:
    return integer.loop(g, _simple)


def excursion(g: Chance) -> bytes:
    return paging.excursion(g, _anything)


_USER: list[integer.Emit] = [
    *_SIMPLE, integer.number, floats.constant, forward, loop, memory.elsewhere, memory.elsewhere, paging.fetch,
    system.counter, system.counter, system.other_csr, system.plain, system.status, system.interrupt,
    system.breakpoint_, system.translation,
]  # fmt: skip

# What a program is about: atoms to draw from beside the common ones.
_THEMES: dict[str, list[integer.Emit]] = {
    "integer": [integer.arithmetic, integer.arithmetic, integer.number, forward, loop],
    "memory": [memory.access, memory.atomic, memory.conditional, memory.elsewhere, forward, loop],
    "floats": [*[floats.operation] * 6, floats.constant, floats.control, loop, forward],
    "system": [
        system.status, system.plain, system.plain, system.vector, system.translation, system.counter,
        system.other_csr, system.interrupt, system.firmware, system.breakpoint_, system.illegal, system.fence,
    ],
    "pages": [memory.elsewhere, memory.elsewhere, paging.fetch, paging.entry, excursion, system.status, paging.patch],
    "users": [excursion, excursion, system.plain, system.counter, system.interrupt],
}  # fmt: skip
_COMMON: list[integer.Emit] = [
    integer.arithmetic, memory.access, floats.operation, forward, loop, memory.atomic, memory.conditional,
    system.illegal, paging.patch, memory.elsewhere, floats.constant, integer.number,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Program:
    """One program, the same in any slot but for addresses."""

    seed: str
    theme: str
    paged: bool
    atoms: tuple[bytes, ...]
    start: int
    """Of the code, within the code pages."""

    def without(self, missing: range) -> Program:
        return replace(self, atoms=self.atoms[: missing.start] + self.atoms[missing.stop :])

    @property
    def code(self) -> bytes:
        return b"".join(self.atoms) + EBREAK.to_bytes(4, "little")

    @property
    def base(self) -> int | None:
        """Virtual address of the code pages; None where addresses are physical."""
        return VIRTUAL + PAGES_CODE * PAGE if self.paged else None

    def bytes_in(self, slot: int) -> bytes:
        """The slot at this address, before the program runs."""
        code = self.code
        assert self.start + len(code) <= 2 * PAGE, self.seed
        out = bytearray(SLOT_SIZE)
        g = Chance(f"{self.seed} state", paged=self.paged)
        _control(out, g, self, slot)
        out[CODE + self.start : CODE + self.start + len(code)] = code
        pool = _pool()
        at = g.randrange(len(pool) - 2 * PAGE) & ~7
        out[DATA : DATA + 2 * PAGE] = pool[at : at + 2 * PAGE]
        out[DATA + PAGE + LANDING : DATA + 2 * PAGE] = RETURN.to_bytes(2, "little") * ((PAGE - LANDING) // 2)
        if self.paged:
            for offset, contents in paging.tables(g, slot).items():
                out[offset : offset + PAGE] = contents
        return bytes(out)


def _control(out: bytearray, g: Chance, program: Program, slot: int) -> None:
    def put(offset: int, value: int) -> None:
        out[offset : offset + 8] = (value & ONES).to_bytes(8, "little")

    code = slot + CODE if program.base is None else program.base
    data = VIRTUAL + PAGES_DATA * PAGE if program.paged else slot + DATA
    for number in range(1, 32):
        put(Control.X + 8 * number, g.number())
    for number, address in ((2, data + 0x400), (8, data + 0x800), (9, data + PAGE)):
        put(Control.X + 8 * number, address)
    superpage = VIRTUAL + paging.SUPERPAGE + slot % paging.SUPERPAGE + DATA + 0x800
    put(Control.X + 8 * 18, superpage if program.paged else NOWHERE)
    for number in SINGLES:
        put(Control.F + 8 * number, g.single_number())
    for number in DOUBLES:
        put(Control.F + 8 * number, g.double_number())
    put(Control.FCSR, g.bits(8) if g.odds(3) else g.randrange(5) << 5 | g.bits(5))
    off = g.odds(16)
    status = system.UXL_64 | paging.SPP | (0 if off else g.randrange(1, 4)) << FS_SHIFT
    put(Control.SSTATUS, status | g.bits(2) << 18 | g.bits(1) << 5)
    put(Control.SIE, g.pick((0, 2, g.bits(10))))
    put(Control.SATP, SV39 | (slot + ROOT) >> 12 if program.paged else 0)
    put(Control.ENTRY, code + program.start)
    put(Control.SCOUNTEREN, g.bits(3))
    put(Control.END, program.start + len(program.code) - 4)
    put(Control.SSTATUS_SEEN, ONES & ~deviations.SSTATUS_UNSEEN)


@cache
def _pool() -> bytes:
    """What data pages begin with: some corner cases of every kind, and noise."""
    g = Random("data")
    corners = [*CORNERS, *DOUBLE_CORNERS, *(0xFFFF_FFFF << 32 | single for single in SINGLE_CORNERS)]
    return b"".join(
        g.choice(corners).to_bytes(8, "little") if g.random() < 0.6 else g.randbytes(8) for _ in range(8192)
    )


def generate(seed: str) -> Program:
    """The program of this seed."""
    paged = Random(f"{seed} paged").random() < 0.6
    g = Chance(seed, paged=paged)
    theme = g.pick(tuple(_THEMES))
    emits = [*_COMMON, *_THEMES[theme] * 3]
    start = PAGE - 2 * g.randrange(1, 400) if g.bits(1) else 2 * g.bits(6)
    atoms: list[bytes] = []
    at = start
    for _ in range(g.randrange(4, 44)):
        g.whole = False
        atom = g.pick(emits)(g)
        if g.whole and at < PAGE < at + len(atom):
            atoms.append(NOP.to_bytes(2, "little") * ((PAGE - at) // 2))
            at = PAGE
        atoms.append(atom)
        at += len(atom)
    return Program(seed, theme, paged, tuple(atoms), start)
