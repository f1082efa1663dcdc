# SPDX-License-Identifier: GPL-2.0-or-later
"""The multiport console, driven in the order in which Linux does it."""

from __future__ import annotations

import pytest

from devices.virtio.console import CONTROL, WRITE_MAX, Control, VirtioConsole
from devices.virtio.console import Feature as ConsoleFeature
from devices.virtio.mmio import Feature, Register
from tests.devices.driver import Driver, Host

CONTROL_RX, CONTROL_TX = 2, 3
PORT = 1
RX, TX = 4, 5


class Bench:
    """Ports 0 (plain) and 1 ("ftvm.block")."""

    def __init__(
        self, without: int = 0, names: tuple[str | None, ...] = ("", "ftvm.block"), ram: int = 1 << 20
    ) -> None:
        self.host = Host(ram)
        self.output: list[tuple[int, bytes]] = []
        self.opened: list[tuple[int, bool]] = []
        self.device = VirtioConsole(
            self.host.memory,
            self.host.line,
            self.host.violations.append,
            names,
            lambda port, data: self.output.append((port, data)),
            lambda port, opened: self.opened.append((port, opened)),
            consoles=(2,),
        )
        self.driver = Driver(self.device, self.host)
        self.driver.start(2 * len(names) + 2, 16, without)
        self.rings = self.driver.rings

    def say(self, port: int, event: int, value: int = 1) -> None:
        """The driver sends a control message."""
        self.rings[CONTROL_TX].call([CONTROL.pack(port, event, value)])

    def heard(self) -> list[tuple[int, int, int, bytes]]:
        """Control messages from the device: (port, event, value, text)."""
        messages = []
        for written, parts in self.rings[CONTROL_RX].collect().values():
            messages.append((*CONTROL.unpack_from(parts[0]), parts[0][CONTROL.size : written]))
        return messages

    def offer_control(self, count: int = 8) -> None:
        """The driver gives buffers for control messages."""
        for _ in range(count):
            self.rings[CONTROL_RX].submit([], [64])
        self.rings[CONTROL_RX].kick()

    def bring_up(self, port: int = PORT) -> None:
        """The whole handshake, and the port opened."""
        self.offer_control()
        self.say(0xFFFFFFFF, Control.DEVICE_READY)
        self.say(port, Control.PORT_READY)
        self.say(port, Control.PORT_OPEN)
        self.heard()

    def received(self, queue: int = RX) -> bytes:
        """What is in the port's receive buffers."""
        return b"".join(parts[0][:written] for written, parts in self.rings[queue].collect().values())


@pytest.fixture(params=[0, Feature.EVENT_IDX], ids=["event_idx", "flags"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(without=request.param)


def test_the_handshake_names_and_opens_each_port() -> None:
    """DEVICE_READY is answered by PORT_ADD, PORT_READY by what the port is (5.3.6.2)."""
    bench = Bench(names=("", "ftvm.block", "tty", None))
    assert bench.driver.config(4, 4) == 4
    bench.offer_control(10)
    bench.say(0xFFFFFFFF, Control.DEVICE_READY)
    assert bench.heard() == [(port, Control.PORT_ADD, 1, b"") for port in (0, 1, 2)]
    bench.say(0, Control.PORT_READY)
    bench.say(1, Control.PORT_READY)
    assert bench.heard() == [
        (0, Control.PORT_OPEN, 1, b""),
        (1, Control.PORT_NAME, 1, b"ftvm.block"),
        (1, Control.PORT_OPEN, 1, b""),
    ]
    bench.say(2, Control.PORT_READY)
    assert [event for _, event, _, _ in bench.heard()] == [Control.CONSOLE_PORT, Control.PORT_NAME, Control.PORT_OPEN]


def test_control_messages_wait_for_buffers(bench: Bench) -> None:
    """Linux fills the control queue before it says DEVICE_READY, others may not."""
    bench.say(0, Control.DEVICE_READY)
    bench.rings[CONTROL_RX].submit([], [64])
    assert bench.rings[CONTROL_RX].kick()
    assert [port for port, _, _, _ in bench.heard()] == [0]
    bench.offer_control(1)
    assert [port for port, _, _, _ in bench.heard()] == [1]


def test_a_question_is_answered_once(bench: Bench) -> None:
    """A driver that repeats itself without giving buffers cannot make messages pile up."""
    for _ in range(1000):
        bench.say(0, Control.DEVICE_READY)
        bench.say(1, Control.PORT_READY)
    assert len(bench.device.save()["messages"]) == 4


def test_unknown_ports_and_events_are_ignored(bench: Bench) -> None:
    """Also failures that the driver reports (value 0)."""
    bench.offer_control()
    bench.say(0, Control.DEVICE_READY, 0)
    bench.say(1, Control.PORT_READY, 0)
    for port, event in ((7, Control.PORT_READY), (1, 99), (0xFFFFFFFF, Control.PORT_OPEN)):
        bench.say(port, event)
    assert bench.heard() == [] and bench.opened == [] and not bench.host.violations


def test_opening_and_closing_is_told(bench: Bench) -> None:
    """Once for each change; a reset closes."""
    bench.bring_up()
    assert bench.opened == [(1, True)] and bench.device.guest_open(1)
    bench.say(1, Control.PORT_OPEN)
    bench.say(1, Control.PORT_OPEN, 0)
    assert bench.opened[1:] == [(1, False)] and not bench.device.guest_open(1)
    bench.say(1, Control.PORT_OPEN)
    bench.driver.set(Register.STATUS, 0)
    assert bench.opened[2:] == [(1, True), (1, False)] and not bench.device.guest_open(1)


def test_what_the_guest_writes_comes_out_in_order(bench: Bench) -> None:
    """The writes of one notification are joined: a stream has no boundaries."""
    bench.bring_up()
    for text in (b"one ", b"two ", b"three"):
        bench.rings[TX].submit([text[:2], text[2:]], indirect=True)
    bench.rings[TX].kick()
    bench.rings[1].call([b"plain"])
    assert bench.output == [(1, b"one two three"), (0, b"plain")]


def test_input_waits_until_the_port_is_open(bench: Bench) -> None:
    """Linux discards what comes to a closed port, so nothing does."""
    for _ in range(4):
        bench.rings[RX].submit([], [16])
    bench.rings[RX].kick()
    bench.device.input(PORT, b"early")
    assert bench.received() == b"" and bench.device.pending(PORT) == 5
    bench.bring_up()
    assert bench.received() == b"early"
    bench.say(PORT, Control.PORT_OPEN, 0)
    bench.device.input(PORT, b"late")
    assert bench.received() == b""
    bench.device.discard_input(PORT)
    assert bench.device.pending(PORT) == 0


def test_large_input_is_split_over_buffers_as_they_come(bench: Bench) -> None:
    """Every byte arrives once, in order, and buffers are asked for only while input waits."""
    bench.bring_up()
    data = bytes(range(256)) * 40
    bench.device.input(PORT, data[:5000])
    bench.device.input(PORT, data[5000:])
    arrived = b""
    while len(arrived) < len(data):
        for size in (100, 1, 333):
            bench.rings[RX].submit([], [size])
        assert bench.rings[RX].kick()
        arrived += bench.received()
    assert arrived == data and bench.device.pending(PORT) == 0
    bench.rings[RX].submit([], [100])
    bench.rings[RX].kick()
    bench.rings[RX].submit([], [100])
    assert not bench.rings[RX].kick(), "nothing waits, so the driver need not notify"
    bench.device.input(PORT, b"more")
    assert bench.received() == b"more"


def test_without_multiport_port_0_is_simply_open() -> None:
    """Queues 0 and 1 work without any control message (5.3.2)."""
    bench = Bench(without=ConsoleFeature.MULTIPORT)
    bench.rings[1].call([b"hello"])
    bench.device.input(0, b"world")
    bench.rings[0].submit([], [10])
    assert bench.rings[0].kick()
    assert bench.received(0) == b"world" and bench.output == [(0, b"hello")] and bench.device.guest_open(0)


def test_a_callback_may_give_input_at_once(bench: Bench) -> None:
    """A service that answers while it is being written to."""
    bench.bring_up()
    bench.device._port_output = lambda port, data: bench.device.input(port, data.upper())
    bench.rings[RX].submit([], [64])
    bench.rings[RX].kick()
    bench.rings[TX].call([b"echo"])
    assert bench.received() == b"ECHO"


def test_a_callback_may_reset_the_device() -> None:
    """After the reset nothing of what the driver wrote before is handed on."""
    bench = Bench(ram=8 << 20)
    bench.bring_up()
    seen: list[int] = []

    def reset(port: int, data: bytes) -> None:
        seen.append(len(data))
        bench.device.reset()

    bench.device._port_output = reset
    for _ in range(3):
        bench.rings[TX].submit([bytes(1 << 20)])
    bench.rings[TX].kick()
    assert seen == [1 << 20]
    assert bench.driver.get(Register.STATUS) == 0 and not bench.host.violations


def test_a_write_of_absurd_size_is_a_violation() -> None:
    """A notification's work stays bounded."""
    bench = Bench(ram=16 << 20)
    bench.rings[TX].submit([bytes(WRITE_MAX)])
    bench.rings[TX].kick()
    assert [len(data) for _, data in bench.output] == [WRITE_MAX]
    bench.rings[TX].submit([bytes(WRITE_MAX + 1)])
    bench.rings[TX].kick()
    assert "more than" in bench.host.violations[0]


def test_a_receive_buffer_that_cannot_be_written_is_a_violation(bench: Bench) -> None:
    """Input has nowhere to go."""
    bench.bring_up()
    bench.rings[RX].submit([bytes(16)])
    bench.device.input(PORT, b"x")
    assert "without writable bytes" in bench.host.violations[0]


def test_a_control_buffer_too_small_for_its_message_is_a_violation(bench: Bench) -> None:
    """Messages are not split."""
    bench.rings[CONTROL_RX].submit([], [7])
    bench.rings[CONTROL_RX].kick()
    bench.rings[CONTROL_TX].submit([CONTROL.pack(0, Control.DEVICE_READY, 1)])
    bench.rings[CONTROL_TX].kick()
    assert "too small" in bench.host.violations[0]


def test_a_short_control_message_is_a_violation(bench: Bench) -> None:
    """Eight bytes are the least."""
    bench.rings[CONTROL_TX].submit([bytes(7)])
    bench.rings[CONTROL_TX].kick()
    assert "shorter than 8" in bench.host.violations[0]
