# SPDX-License-Identifier: GPL-2.0-or-later
"""A flipped bit in RAM that nothing has read yet: acknowledgements carry one digest, and that must show it."""

from __future__ import annotations

from ftvm.config import parse
from ftvm.image import load_image
from ftvm.machine import Machine
from replay.entry import Entry, EntryFlag, EpochResult

UNUSED = 15 << 20  # an offset in RAM that the guest does not touch


def new_machine() -> Machine:
    config = parse({"name": "ram", "machine": {"kernel": "timer", "memory": "16 MiB"}}, "ram")
    return Machine(config, load_image(config), [])


def run(machine: Machine, flags: int = 0) -> EpochResult:
    time = machine.time
    return machine.run(Entry(machine.sequence + 1, machine.clock, time, time + 10_000, 200_000, flags=flags))


def test_ram_that_differs_shows_in_the_digest_and_in_every_later_one() -> None:
    one, other = new_machine(), new_machine()
    assert run(one, EntryFlag.DIGEST_PAGES) == run(other, EntryFlag.DIGEST_PAGES)
    other.hart.load_ram(UNUSED, b"\x01")
    assert run(one).digest == run(other).digest, "nothing has looked at RAM yet"
    looked, found = run(one, EntryFlag.DIGEST_PAGES), run(other, EntryFlag.DIGEST_PAGES)
    assert looked.pages != found.pages
    assert looked.digest != found.digest
    assert run(one).digest != run(other).digest, "an acknowledgement may name a later entry only"
    one.close()
    other.close()
