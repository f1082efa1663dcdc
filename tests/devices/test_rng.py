# SPDX-License-Identifier: GPL-2.0-or-later
"""The entropy device: requests wait for events, and say how much they want."""

from __future__ import annotations

from devices.virtio.mmio import Register
from devices.virtio.rng import VirtioRng
from tests.devices.driver import Driver, Host


def bench() -> tuple[Host, VirtioRng, Driver]:
    host = Host()
    device = VirtioRng(host.memory, host.line, host.violations.append)
    driver = Driver(device, host)
    driver.start(1, 8)
    return host, device, driver


def test_a_request_waits_until_bytes_arrive() -> None:
    """`wanted` tells the world; `feed` completes the request and interrupts."""
    host, device, driver = bench()
    ring = driver.rings[0]
    assert device.wanted == 0
    head = ring.submit([], [64])
    ring.kick()
    assert device.wanted == 64 and ring.collect() == {}
    device.feed(bytes(range(64)))
    assert ring.collect() == {head: (64, [bytes(range(64))])}
    assert device.wanted == 0 and host.raised == 1


def test_a_request_gets_what_there_is_but_never_nothing_nor_more_than_64() -> None:
    """Short answers are allowed (5.4.6)."""
    _, device, driver = bench()
    ring = driver.rings[0]
    device.feed(b"a" * 70)
    assert ring.call([], [1000])[0].rstrip(b"\0") == b"a" * 64
    head = ring.submit([], [20, 20])
    ring.kick()
    assert ring.collect()[head] == (6, [b"aaaaaa".ljust(20, b"\0"), bytes(20)])


def test_a_reset_forgets_requests_and_keeps_the_pool() -> None:
    """Nobody has seen those bytes."""
    _, device, driver = bench()
    driver.rings[0].submit([], [64])
    driver.rings[0].kick()
    driver.set(Register.STATUS, 0)
    assert device.wanted == 0
    device.feed(b"xyz")
    driver.start(1, 8)
    assert driver.rings[0].call([], [3]) == [b"xyz"]


def test_a_request_without_room_is_a_violation() -> None:
    """The driver must offer at least one byte."""
    host, device, driver = bench()
    driver.rings[0].submit([b"x"])
    driver.rings[0].kick()
    device.feed(b"x")
    assert "without writable bytes" in host.violations[0] and device.wanted == 0
