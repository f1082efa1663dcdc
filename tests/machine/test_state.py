# SPDX-License-Identifier: GPL-2.0-or-later
"""A saved machine that is damaged, or of another machine, is refused in words; and what is refused first is known."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from ftvm.machine import STATE_VERSION
from tests.machine.box import Box, blockd_config

Sections = dict[str, bytes]
Damage = Callable[[Sections], None]


@pytest.fixture(scope="module")
def state() -> Sections:
    """Of a driver VM with a request in it."""
    box = Box(blockd_config())
    box.until("blockd: ready")
    box.run(box.request(1, 1, 0, data=b"x" * 512), box.request(1, 0, 0, 512), budget=300)
    return dict(box.machine.save())


@pytest.fixture(scope="module")
def box() -> Box:
    """The machine that restores."""
    return Box(blockd_config())


def machine(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Damage to the devices' section."""

    def damage(sections: Sections) -> None:
        tree = msgpack.unpackb(sections["machine"])
        change(tree)
        sections["machine"] = msgpack.packb(tree)

    return damage


def hart(word: int, value: int) -> Damage:
    """Damage to a word of the hart's section, counted from the end."""

    def damage(sections: Sections) -> None:
        data = bytearray(sections["hart"])
        struct.pack_into("<Q", data, len(data) + 8 * word, value)
        sections["hart"] = bytes(data)

    return damage


def put(tree: Any, path: str, value: object) -> None:
    """Changes one value."""
    *way, last = path.split("/")
    for name in way:
        tree = tree[int(name)] if isinstance(tree, list) else tree[name]
    tree[int(last) if isinstance(tree, list) else last] = value


CASES: dict[str, tuple[Damage, str]] = {
    "no hart": (lambda sections: sections.pop("hart") and None, "it has no section 'hart'"),
    "no ram": (lambda sections: sections.pop("ram") and None, "it has no section 'ram'"),
    "cut hart": (lambda sections: sections.update(hart=sections["hart"][:-8]), "wrong size"),
    "other magic": (lambda sections: sections.update(hart=bytes(len(sections["hart"]))), "not the state of a hart"),
    "machine mode": (hart(-10, 3), "a privilege that the guest cannot have"),
    "clock": (hart(-7, 1 << 63), "a clock or a time that no guest reaches"),
    "line": (hart(-4, 2), "an interrupt line that does not exist"),
    "not msgpack": (lambda sections: sections.update(machine=b"\xc1"), "'machine' is not msgpack"),
    "an array": (lambda sections: sections.update(machine=msgpack.packb([])), "machine is list, not dict"),
    "version": (machine(lambda tree: put(tree, "version", 99)), f"version 99, this ftvm reads {STATE_VERSION}"),
    "no dma": (machine(lambda tree: tree.pop("dma")), "only one of the two machines has dma"),
    "other device": (machine(lambda tree: put(tree, "hardware/disk1", {})), "only one of the two machines has disk1"),
    "type": (machine(lambda tree: put(tree, "hardware/uart/offset", b"1")), "uart.offset is bytes, not int"),
    "queue size": (machine(lambda tree: put(tree, "hardware/disk0/queues/0/0", 3)), "not a power of two"),
    "ring": (machine(lambda tree: put(tree, "hardware/disk0/queues/0/1", 0x10)), "descriptor table .* is not in RAM"),
    "selector": (machine(lambda tree: put(tree, "hardware/disk0/selectors/0", 1 << 40)), "impossible selectors"),
    "plic": (machine(lambda tree: put(tree, "hardware/plic/priority", bytes(96))), "95 sources, this one has 53"),
    "request": (machine(lambda tree: put(tree, "journal/in_driver/0/0", "1")), "in_driver\\[0\\]|impossible request"),
    "panic": (machine(lambda tree: put(tree, "panic/2", "CALM")), "its watch for panics is damaged"),
    "panic's line": (machine(lambda tree: put(tree, "panic/0", bytes(2000))), "its watch for panics is damaged"),
    "digest": (machine(lambda tree: put(tree, "dma", -1)), "impossible"),
    "block": (lambda sections: sections.update(ram=msgpack.packb([[16, b""]])), "RAM block 16 lies outside"),
    "lz4": (lambda sections: sections.update(ram=msgpack.packb([[0, b"\xff\xff"]])), "LZ4BlockError"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_state_is_refused_in_words(case: str, state: Sections, box: Box) -> None:
    damage, words = CASES[case]
    sections = dict(state)
    damage(sections)
    with pytest.raises(ValueError, match="the state is damaged, or not of such a machine: .*" + words):
        box.machine.restore(list(sections.items()))


def test_a_machine_that_refused_a_state_can_take_a_good_one(state: Sections, box: Box) -> None:
    """And is then what it was told to be."""
    for damage, _ in CASES.values():
        sections = dict(state)
        damage(sections)
        with pytest.raises(ValueError, match="the state is damaged"):
            box.machine.restore(list(sections.items()))
    box.machine.restore(list(state.items()))
    assert dict(box.machine.save()) == state
    box.results.clear()
    box.run()
    box.settle()
    assert box.replies()[2] == (0, b"x" * 512)


@pytest.mark.parametrize("memory", ["16 MiB", "32 MiB"])
def test_a_state_of_another_size_of_memory_is_refused_or_fits(memory: str) -> None:
    """A block beyond the end of RAM is refused; RAM that was never used has none."""
    large = Box(blockd_config(memory="64 MiB"))
    large.until("blockd: ready")
    small = Box(blockd_config(memory=memory))
    with pytest.raises(ValueError, match="RAM block 63 lies outside"):
        small.machine.restore(large.machine.save())


def test_a_state_of_a_machine_with_other_devices_is_refused() -> None:
    with pytest.raises(ValueError, match="only one of the two machines has disk0"):
        Box("console").machine.restore(Box(blockd_config()).machine.save())
