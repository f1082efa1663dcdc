# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers that GDB sees, and the target description that tells it of them (GDB manual, appendix G.5.13).

    number    register
    0-31      x0-x31 by their ABI names
    32        pc
    33-64     f0-f31
    65 + n    control and status register n; GDB counts them like that itself
    4161      priv, the privilege
    4162...   the machine's own: clock, time (ticks of 100 ns), entry

All are 64 bits but fflags, frm and fcsr, which are 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_X: Final = (
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7",
    "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
)  # fmt: skip
_F: Final = (
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5",
    "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10",
    "ft11",
)  # fmt: skip
_CSRS: Final = {
    "sstatus": 0x100, "sie": 0x104, "stvec": 0x105, "scounteren": 0x106, "sscratch": 0x140, "sepc": 0x141,
    "scause": 0x142, "stval": 0x143, "sip": 0x144, "satp": 0x180,
}  # fmt: skip
_FP_CSRS: Final = {"fflags": 1, "frm": 2, "fcsr": 3}
_FIRST_CSR: Final = 65
_PRIV: Final = _FIRST_CSR + 4096
PC: Final = 32


@dataclass(frozen=True, slots=True)
class Register:
    """One of them. `source` is its name in what the machine tells."""

    number: int
    name: str
    source: str
    bits: int
    kind: str = "int"

    def of(self, values: Mapping[str, int]) -> bytes:
        """Its bytes."""
        value = values.get(self.source, 0)
        if self.name == "fflags":
            value &= 31
        elif self.name == "frm":
            value >>= 5
        return (value & ((1 << self.bits) - 1)).to_bytes(self.bits // 8, "little")

    def element(self) -> str:
        """Its line in the description."""
        return f'<reg name="{self.name}" bitsize="{self.bits}" type="{self.kind}" regnum="{self.number}"/>'


def _features() -> dict[str, list[Register]]:
    cpu = [Register(n, name, f"x{n}", 64, _kind_of(name)) for n, name in enumerate(_X)]
    cpu.append(Register(PC, "pc", "pc", 64, "code_ptr"))
    fpu = [Register(33 + n, name, f"f{n}", 64, "riscv_double") for n, name in enumerate(_F)]
    fpu += [Register(_FIRST_CSR + csr, name, "fcsr", 32) for name, csr in _FP_CSRS.items()]
    csr = [Register(_FIRST_CSR + number, name, name, 64) for name, number in _CSRS.items()]
    own = [Register(_PRIV + 1 + n, name, name, 64) for n, name in enumerate(("clock", "time", "entry"))]
    return {
        "org.gnu.gdb.riscv.cpu": cpu,
        "org.gnu.gdb.riscv.fpu": fpu,
        "org.gnu.gdb.riscv.csr": csr,
        "org.gnu.gdb.riscv.virtual": [Register(_PRIV, "priv", "priv", 64)],
        "org.ftvm.recording": own,
    }


def _kind_of(name: str) -> str:
    return {"ra": "code_ptr", "sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr"}.get(name, "int")


FEATURES: Final = _features()
BY_NUMBER: Final = {register.number: register for group in FEATURES.values() for register in group}
GENERAL: Final = FEATURES["org.gnu.gdb.riscv.cpu"] + FEATURES["org.gnu.gdb.riscv.fpu"][:32]
"""Those of a `g` packet."""

_UNION: Final = (
    '<union id="riscv_double"><field name="float" type="ieee_single"/><field name="double" type="ieee_double"/></union>'
)


def target_xml() -> str:
    """The target description."""
    features = []
    for name, registers in FEATURES.items():
        types = _UNION if name.endswith(".fpu") else ""
        body = "".join(register.element() for register in registers)
        features.append(f'<feature name="{name}">{types}{body}</feature>')
    return (
        '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd">'
        f'<target version="1.0"><architecture>riscv:rv64</architecture>{"".join(features)}</target>'
    )
