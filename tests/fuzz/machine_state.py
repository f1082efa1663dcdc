# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved machines that are damaged: refused in words, or taken, and then the machine runs without harm to the host.

A case is one byte that names a section and that section's bytes; the other sections are right. The C core's part (the
hart) is restored from anything too.
"""

from __future__ import annotations

import functools
import struct

import msgpack

from ftvm.hart import RAM_BASE
from replay.entry import Entry
from replay.errors import LogError
from tests.fuzz.engine import Target
from tests.machine.box import Box, blockd_config

NAMES = ("hart", "machine", "ram")
INTERESTING = tuple(
    struct.pack("<Q", value)
    for value in (0, 1, 3, RAM_BASE, RAM_BASE + (16 << 20) - 2, 8 << 60 | RAM_BASE >> 12, (1 << 64) - 1, 1 << 62, 0x222)
)


@functools.cache
def saved() -> dict[str, bytes]:
    """A driver VM in mid-life, with requests in it."""
    box = Box(blockd_config(network=[{}]))
    box.until("blockd: ready")
    box.run(*[box.request(1, 1, 512 * n, data=b"x" * 512) for n in range(5)], budget=500)
    box.run(box.request(1, 0, 0, 512), budget=100)
    sections = dict(box.machine.save())
    box.machine.close()
    return sections


@functools.cache
def bench() -> Box:
    """The machine that every case is restored into."""
    return Box(blockd_config(network=[{}]))


def state_samples() -> list[bytes]:
    return [bytes((index,)) + saved()[name] for index, name in enumerate(NAMES)]


def machine_samples() -> list[bytes]:
    return [b"\1" + saved()["machine"]]


def check_state(data: bytes) -> None:
    """ValueError in words, or a machine that runs; entries that it cannot take are refused as ever."""
    if not data:
        return
    machine = bench().machine
    sections = dict(saved())
    sections[NAMES[data[0] % len(NAMES)]] = data[1:]
    try:
        machine.restore(list(sections.items()))
    except ValueError as error:
        assert str(error).startswith("the state is damaged, or not of such a machine: ")
        return
    _ = machine.deadline, machine.entropy_wanted, machine.outstanding
    for _ in range(2):
        entry = Entry(machine.sequence + 1, machine.clock, machine.time, machine.time + 1000, 20_000)
        try:
            machine.run(entry)
        except LogError as error:
            assert str(error)
            return
    msgpack.packb(machine.save())


TARGETS = [
    Target("state", state_samples, check_state, words=INTERESTING, risky=True, seconds_max=20),
    Target("state-devices", machine_samples, check_state, packed_at=1, risky=True, seconds_max=20),
]
