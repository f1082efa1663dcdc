# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled guests by name: what each is for, and where its prebuilt image lies in the package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Guest:
    """One bundled guest; `arguments` names the boot arguments it understands."""

    name: str
    description: str
    arguments: str = ""

    @property
    def path(self) -> Path:
        """The ELF image: loaded by its physical addresses, entered in S-mode at 0x80200000."""
        return directory() / f"{self.name}.elf"


GUESTS = (
    Guest(
        "blockd",
        "driver VM: serves NBD requests on the console port 'ftvm.block' from a virtio block device",
        "crash=on",
    ),
    Guest(
        "netecho",
        "answers ARP, ping, UDP port 7 and raw frames of type 0x88b5 on a virtio network device",
        "ip=A.B.C.D",
    ),
    Guest("console", "echoes what is typed; the line 'quit' powers off, 'panic' panics"),
    Guest("compute", "a mixed loop of 1.8 G instructions, then power-off", "insns=N measure=on"),
    Guest("timer", "ticks at 1 kHz until stopped", "hz=N ticks=N"),
)


def directory() -> Path:
    """Where images, sources and the Makefile are. The package is always installed as plain files."""
    return Path(str(resources.files("ftvm.guests")))


def list() -> tuple[Guest, ...]:
    """All bundled guests, `blockd` (the default) first."""
    return GUESTS


def find(name: str) -> Guest | None:
    """The bundled guest called `name`, if there is one."""
    return next((guest for guest in GUESTS if guest.name == name), None)
