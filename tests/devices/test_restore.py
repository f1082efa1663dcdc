# SPDX-License-Identifier: GPL-2.0-or-later
"""A device restored from its saved state goes on exactly as the original would have."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.device import Device
from devices.event import Output
from devices.plic import CLAIM, ENABLE, THRESHOLD, Plic
from devices.rtc import Rtc
from devices.uart import Uart
from devices.virtio.console import Port
from devices.virtio.queue import Virtqueue
from tests.devices.worlds import WORLDS, Step, honest_scripts, hostile_scripts

_SETUP = ["num", "desc", "avail", "used", "ready"]
QUEUE_STATE = [*_SETUP, "_last", "_seen", "_used_idx", "_announced", "_listening", "_pushed"]


def internals(thing: Any) -> Any:
    """Every value within a device, not only what it chose to save; without what it was given from outside."""
    if isinstance(thing, Virtqueue):
        return [getattr(thing, name) for name in QUEUE_STATE]  # The rest is derived, or belongs to a batch.
    if isinstance(thing, list | tuple | deque):
        return [internals(item) for item in thing]
    if isinstance(thing, dict):
        return {key: internals(item) for key, item in thing.items() if not callable(item)}
    if isinstance(thing, Port):
        return [internals(getattr(thing, name)) for name in Port.__slots__]
    if isinstance(thing, Device):
        return internals({key: value for key, value in vars(thing).items() if key != "resets"})
    return thing if isinstance(thing, int | str | bytes | bytearray) else None


@pytest.mark.parametrize("kind", WORLDS)
@settings(max_examples=60, deadline=None)
@given(script=st.one_of(honest_scripts(), hostile_scripts()), data=st.data())
def test_a_restored_virtio_device_goes_on_as_the_original(kind: str, script: list[Step], data: st.DataObject) -> None:
    """Any script, exchanged at any point: the same RAM, outputs, interrupts, violations and state."""
    where = data.draw(st.integers(0, len(script)), label="exchange before step")
    original, twin = WORLDS[kind](), WORLDS[kind]()
    for position, step in enumerate([*script, ("ack",)]):
        if position == where:
            twin.exchange()
            assert internals(twin.device) == internals(original.device)
        original.step(step)
        twin.step(step)
    assert twin.end() == original.end()


class Chip:
    """A device without queues: register accesses, host events, and what comes out of it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.ticks = 0
        self.log: list[Any] = []
        self.device = self.make()

    def make(self) -> Device:
        line = self.log.append
        if self.kind == "plic":
            plic = Plic(line)
            self.lines = [plic.line(source) for source in (1, 2, 33, 53)]
            return plic
        if self.kind == "rtc":
            return Rtc(lambda: self.ticks, line, 10**18, lambda: self.log.append("rearmed"))
        return Uart(line, self.emit)

    def emit(self, output: Output) -> None:
        self.log.append(output)

    def outside(self, number: int) -> None:
        """The host's side of each chip."""
        device = self.device
        if isinstance(device, Plic):
            self.lines[number >> 1 & 3](bool(number & 1))
        elif isinstance(device, Rtc):
            self.ticks += number * 1000
            device.expire()
            self.log.append(device.deadline)
        elif isinstance(device, Uart):
            if number & 1:
                device.input(bytes(number))
            else:
                device.flush()

    def step(self, step: Step) -> None:
        if step[0] == "outside":
            self.outside(step[1])
        else:
            _, offset, size, value = step
            self.device.write(offset, size, value)
            self.log.append(self.device.read(offset, size))

    def exchange(self) -> None:
        state = msgpack.unpackb(msgpack.packb(self.device.save()))
        self.device = self.make()
        log = list(self.log)
        self.device.restore(state)
        self.log[:] = log  # A restored PLIC drives the hart's line once more.


_PLIC = [4, 8, 4 * 33, 4 * 53, ENABLE, ENABLE + 4, ENABLE + 8, THRESHOLD, CLAIM, CLAIM, 0x1000]
OFFSETS = {"plic": _PLIC, "rtc": list(range(0, 0x20, 4)), "uart": list(range(8))}
SIZE = {"plic": 4, "rtc": 4, "uart": 1}


@pytest.mark.parametrize("kind", OFFSETS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 100))
def test_a_restored_chip_goes_on_as_the_original(kind: str, seed: int, length: int) -> None:
    """PLIC, clock and UART: the same register values, lines and outputs."""
    draw, size = Random(seed), SIZE[kind]
    where = draw.randrange(length)
    original, twin = Chip(kind), Chip(kind)
    for position in range(length):
        step: Step = ("outside", draw.randrange(40))
        if draw.random() < 0.7:
            value = draw.choice([draw.randrange(8), draw.choice([3, 10, 0x10]), draw.getrandbits(8 * size)])
            step = ("access", draw.choice(OFFSETS[kind]), size, value)
        if position == where:
            twin.exchange()
            assert internals(twin.device) == internals(original.device)
        original.step(step)
        twin.step(step)
    assert twin.log == original.log and twin.device.save() == original.device.save()
