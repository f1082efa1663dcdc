# SPDX-License-Identifier: GPL-2.0-or-later
"""A small RISC-V assembler, so that tests of the hart need no cross compiler.

    a = Asm(0x8000_0000)
    a.li("t0", 5)
    a.label("again")
    a.addi("t0", "t0", -1)
    a.bnez("t0", "again")
    a.ecall()
    image = a.image()

Labels may be used before they are set. Memory operands are written (rd, offset, base). `word` and `half` place data.
"""

from __future__ import annotations

from collections.abc import Callable

_NAMES = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", *(f"a{n}" for n in range(8)),
    *(f"s{n}" for n in range(2, 12)), "t3", "t4", "t5", "t6",
]  # fmt: skip
REGISTERS = {name: number for number, name in enumerate(_NAMES)}
FLOATS = {f"f{number}": number for number in range(32)}

CSRS = {
    "fcsr": 0x003, "cycle": 0xC00, "time": 0xC01, "instret": 0xC02, "sstatus": 0x100, "sie": 0x104, "stvec": 0x105,
    "scounteren": 0x106, "sscratch": 0x140, "sepc": 0x141, "scause": 0x142, "stval": 0x143, "sip": 0x144,
    "satp": 0x180, "mstatus": 0x300, "mscratch": 0x340, "misa": 0x301, "mhartid": 0xF14,
}  # fmt: skip

_LOADS = {"lb": 0, "lh": 1, "lw": 2, "ld": 3, "lbu": 4, "lhu": 5, "lwu": 6}
_STORES = {"sb": 0, "sh": 1, "sw": 2, "sd": 3}
_OPS = {
    "add": (0, 0), "sub": (0x20, 0), "sll": (0, 1), "sltu": (0, 3), "xor": (0, 4), "srl": (0, 5), "or_": (0, 6),
    "and_": (0, 7), "mul": (1, 0), "divu": (1, 5), "remu": (1, 7),
}  # fmt: skip
_OP_IMMEDIATES = {"addi": 0, "xori": 4, "ori": 6, "andi": 7}
_BRANCHES = {"beq": 0, "bne": 1, "blt": 4, "bge": 5, "bltu": 6, "bgeu": 7}
_AMOS = {"amoadd": 0, "amoswap": 1, "lr": 2, "sc": 3, "amoxor": 4, "amoor": 8, "amoand": 12}
_CSR_OPS = {"csrrw": 1, "csrrs": 2, "csrrc": 3, "csrrwi": 5, "csrrsi": 6, "csrrci": 7}
_FIXED = {
    "ecall": 0x73, "ebreak": 0x100073, "sret": 0x10200073, "mret": 0x30200073, "uret": 0x200073, "wfi": 0x10500073,
    "sfence_vma": 0x12000073, "fence_i": 0x100F, "nop": 0x13, "ret": 0x8067,
}  # fmt: skip


def _register(name: str | int) -> int:
    return name if isinstance(name, int) else REGISTERS[name]


def i_type(opcode: int, function: int, rd: int, rs1: int, immediate: int) -> int:
    assert -2048 <= immediate <= 2047 or 0 <= immediate <= 4095, immediate
    return (immediate & 0xFFF) << 20 | rs1 << 15 | function << 12 | rd << 7 | opcode


def s_type(opcode: int, function: int, rs2: int, rs1: int, immediate: int) -> int:
    assert -2048 <= immediate <= 2047, immediate
    return (immediate >> 5 & 0x7F) << 25 | rs2 << 20 | rs1 << 15 | function << 12 | (immediate & 31) << 7 | opcode


def b_type(function: int, rs1: int, rs2: int, distance: int) -> int:
    assert -4096 <= distance <= 4094 and distance % 2 == 0, distance
    high = (distance >> 12 & 1) << 31 | (distance >> 5 & 0x3F) << 25
    low = (distance >> 1 & 15) << 8 | (distance >> 11 & 1) << 7
    return high | rs2 << 20 | rs1 << 15 | function << 12 | low | 0x63


def j_type(rd: int, distance: int) -> int:
    assert -(1 << 20) <= distance < 1 << 20 and distance % 2 == 0, distance
    high = (distance >> 20 & 1) << 31 | (distance >> 1 & 0x3FF) << 21
    return high | (distance >> 11 & 1) << 20 | (distance >> 12 & 0xFF) << 12 | rd << 7 | 0x6F


class Asm:
    """Collects code for one place in memory."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self._fixups: list[tuple[int, str, Callable[[int], int]]] = []

    @property
    def here(self) -> int:
        return self.base + len(self.code)

    def label(self, name: str) -> int:
        assert name not in self.labels, name
        self.labels[name] = self.here
        return self.here

    def word(self, value: int) -> None:
        self.code += (value & 0xFFFF_FFFF).to_bytes(4, "little")

    def half(self, value: int) -> None:
        self.code += (value & 0xFFFF).to_bytes(2, "little")

    def align(self, boundary: int, fill: int = 0) -> None:
        while len(self.code) % boundary:
            self.code.append(fill)

    def at(self, address: int) -> None:
        """Go on at this address, with zeros up to it."""
        assert address >= self.here, hex(self.here)
        self.code += bytes(address - self.here)

    def image(self) -> bytes:
        for offset, name, encode in self._fixups:
            word = encode(self.labels[name] - (self.base + offset))
            self.code[offset : offset + 4] = word.to_bytes(4, "little")
        self._fixups.clear()
        return bytes(self.code)

    def _relative(self, target: str | int, encode: Callable[[int], int]) -> None:
        if isinstance(target, int):
            self.word(encode(target - self.here))
            return
        self._fixups.append((len(self.code), target, encode))
        self.word(0)

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Instructions that follow a table."""
        if name in _FIXED:
            return lambda: self.word(_FIXED[name])
        if name in _LOADS:
            return lambda rd, offset, base: self.word(
                i_type(0x03, _LOADS[name], _register(rd), _register(base), offset)
            )
        if name in _STORES:
            return lambda rs2, offset, base: self.word(
                s_type(0x23, _STORES[name], _register(rs2), _register(base), offset)
            )
        if name in _OPS:
            function7, function3 = _OPS[name]
            return lambda rd, rs1, rs2: self.word(
                function7 << 25 | _register(rs2) << 20 | i_type(0x33, function3, _register(rd), _register(rs1), 0)
            )
        if name in _OP_IMMEDIATES:
            return lambda rd, rs1, value: self.word(
                i_type(0x13, _OP_IMMEDIATES[name], _register(rd), _register(rs1), value)
            )
        if name in _BRANCHES:
            return lambda rs1, rs2, target: self._relative(
                target, lambda d: b_type(_BRANCHES[name], _register(rs1), _register(rs2), d)
            )
        if name in _CSR_OPS:
            return lambda rd, csr, source: self.word(
                i_type(0x73, _CSR_OPS[name], _register(rd), _register(source), CSRS.get(csr, csr))
            )
        atomic, _, width = name.partition("_")
        if atomic in _AMOS and width in ("w", "d"):
            return lambda rd, rs2, base: self.word(
                _AMOS[atomic] << 27
                | _register(rs2) << 20
                | i_type(0x2F, 2 if width == "w" else 3, _register(rd), _register(base), 0)
            )
        raise AttributeError(name)

    def lui(self, rd: str, value: int) -> None:
        self.word((value & 0xFFFFF) << 12 | _register(rd) << 7 | 0x37)

    def slli(self, rd: str, rs1: str, amount: int) -> None:
        self.word(i_type(0x13, 1, _register(rd), _register(rs1), amount))

    def srli(self, rd: str, rs1: str, amount: int) -> None:
        self.word(i_type(0x13, 5, _register(rd), _register(rs1), amount))

    def li(self, rd: str, value: int) -> None:
        """Any 64-bit constant."""
        value = (value + (1 << 63)) % (1 << 64) - (1 << 63)
        if -2048 <= value < 2048:
            self.addi(rd, "zero", value)
        elif -(1 << 31) <= value < 1 << 31:
            low = (value + 2048) % 4096 - 2048
            self.lui(rd, (value - low) >> 12)
            if low:
                self.word(i_type(0x1B, 0, _register(rd), _register(rd), low))  # addiw
        else:
            low = (value + 2048) % 4096 - 2048
            self.li(rd, (value - low) >> 12)
            self.slli(rd, rd, 12)
            if low:
                self.addi(rd, rd, low)

    def mv(self, rd: str, rs1: str) -> None:
        self.addi(rd, rs1, 0)

    def j(self, target: str | int) -> None:
        self._relative(target, lambda d: j_type(0, d))

    def jal(self, rd: str, target: str | int) -> None:
        self._relative(target, lambda d: j_type(_register(rd), d))

    def jalr(self, rd: str, offset: int, rs1: str) -> None:
        self.word(i_type(0x67, 0, _register(rd), _register(rs1), offset))

    def beqz(self, rs1: str, target: str | int) -> None:
        self.beq(rs1, "zero", target)

    def bnez(self, rs1: str, target: str | int) -> None:
        self.bne(rs1, "zero", target)

    def la(self, rd: str, label: str) -> None:
        """Address of a label, within 2 GiB (auipc and addi)."""
        register = _register(rd)
        self._relative(label, lambda d: (d + 2048 >> 12 & 0xFFFFF) << 12 | register << 7 | 0x17)
        self._relative(label, lambda d: i_type(0x13, 0, register, register, (d + 4 + 2048) % 4096 - 2048))

    def csrr(self, rd: str, csr: str | int) -> None:
        self.csrrs(rd, csr, "zero")

    def csrw(self, csr: str | int, rs1: str) -> None:
        self.csrrw("zero", csr, rs1)

    def csrs(self, csr: str | int, rs1: str) -> None:
        self.csrrs("zero", csr, rs1)

    def csrc(self, csr: str | int, rs1: str) -> None:
        self.csrrc("zero", csr, rs1)

    def fld(self, fd: str, offset: int, base: str) -> None:
        self.word(i_type(0x07, 3, FLOATS[fd], _register(base), offset))

    def fsd(self, fs: str, offset: int, base: str) -> None:
        self.word(s_type(0x27, 3, FLOATS[fs], _register(base), offset))

    def fmv_d_x(self, fd: str, rs1: str) -> None:
        self.word(0x79 << 25 | i_type(0x53, 0, FLOATS[fd], _register(rs1), 0))

    def sbi(self, extension: int, function: int = 0) -> None:
        self.li("a7", extension)
        self.li("a6", function)
        self.ecall()
