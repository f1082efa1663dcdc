# SPDX-License-Identifier: GPL-2.0-or-later
"""The virtio-mmio transport: identity, negotiation, and when a device may act."""

from __future__ import annotations

import pytest

from devices.virtio.blk import RequestType, VirtioBlk
from devices.virtio.mmio import Feature, Register, Status
from tests.devices.disk import MemoryDisk, header
from tests.devices.driver import RUNNING, Driver, Host

VERSION_1 = int(Feature.VERSION_1)


@pytest.fixture
def driver() -> Driver:
    host = Host()
    return Driver(VirtioBlk(host.memory, host.line, host.violations.append, MemoryDisk(8)), host)


def test_identity(driver: Driver) -> None:
    """Magic, version 2 and the device's type, and one queue."""
    assert [driver.get(offset) for offset in (0, 4, 8, 0x34)] == [0x74726976, 2, 2, 256]
    driver.set(Register.QUEUE_SEL, 1)
    assert driver.get(Register.QUEUE_NUM_MAX) == 0
    driver.set(Register.QUEUE_SEL, 0xFFFFFFFF)
    assert driver.get(Register.QUEUE_READY) == 0


def test_features_beyond_the_second_word_are_empty(driver: Driver) -> None:
    """Any selector is answered."""
    for word in (2, 3, 0xFFFFFFFF):
        driver.set(Register.DEVICE_FEATURES_SEL, word)
        assert driver.get(Register.DEVICE_FEATURES) == 0


@pytest.mark.parametrize("size", [1, 2, 8])
def test_control_registers_answer_only_32_bit_accesses(driver: Driver, size: int) -> None:
    """Other sizes read as zero and change nothing (4.2.2.2)."""
    assert driver.device.read(Register.MAGIC_VALUE, size) == 0
    driver.device.write(Register.STATUS, size, 1)
    assert driver.get(Register.STATUS) == 0
    assert driver.device.read(Register.MAGIC_VALUE + 1, 4) == 0


@pytest.mark.parametrize("features", [0, VERSION_1 | 1, VERSION_1 | 1 << 40, VERSION_1 | 1 << 64])
def test_features_that_were_not_offered_are_refused(driver: Driver, features: int) -> None:
    """FEATURES_OK does not stick, also when VIRTIO_F_VERSION_1 is missing."""
    assert driver.negotiate(VERSION_1)
    driver.set(Register.STATUS, 0)
    for word in range(3):
        driver.set(Register.DRIVER_FEATURES_SEL, word)
        driver.set(Register.DRIVER_FEATURES, features >> 32 * word & 0xFFFFFFFF)
    driver.set(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
    assert driver.get(Register.STATUS) == Status.ACKNOWLEDGE | Status.DRIVER


def test_features_are_frozen_by_features_ok(driver: Driver) -> None:
    """A later write changes nothing: indirect descriptors stay off."""
    driver.start(1, without=Feature.INDIRECT_DESC)
    driver.set(Register.DRIVER_FEATURES_SEL, 0)
    driver.set(Register.DRIVER_FEATURES, Feature.INDIRECT_DESC)
    driver.rings[0].submit([header(RequestType.FLUSH)], [1], indirect=True)
    driver.rings[0].kick(force=True)
    assert "not negotiated" in driver.host.violations[0]


def test_driver_ok_without_features_ok_is_a_violation(driver: Driver) -> None:
    """The order of 3.1.1 is enforced."""
    driver.set(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK)
    assert driver.host.violations == ["virtio blk: DRIVER_OK without FEATURES_OK"]
    assert driver.get(Register.STATUS) & Status.DEVICE_NEEDS_RESET


def test_nothing_is_served_before_driver_ok_and_everything_after(driver: Driver) -> None:
    """A request that waits already is found when the driver becomes ready (2.1.2)."""
    driver.negotiate(driver.offered())
    ring = driver.set_up(0, 8)
    ring.submit([header(RequestType.FLUSH)], [1])
    ring.kick(force=True)
    assert ring.collect() == {} and driver.host.raised == 0
    driver.set(Register.STATUS, RUNNING)
    assert len(ring.collect()) == 1 and driver.host.raised == 1


def test_status_bits_stay_until_reset(driver: Driver) -> None:
    """A driver that writes single bits ends in the same state as one that adds them up."""
    driver.negotiate(driver.offered())
    driver.set(Register.STATUS, Status.DRIVER_OK)
    assert driver.get(Register.STATUS) == RUNNING
    driver.set(Register.STATUS, Status.FAILED)
    assert driver.get(Register.STATUS) == RUNNING | Status.FAILED


def test_reset_forgets_queues_and_lowers_the_line(driver: Driver) -> None:
    """After status 0 everything reads as at power-on."""
    driver.start(1)
    driver.rings[0].call([header(RequestType.FLUSH)], [1])
    assert driver.host.level
    driver.set(Register.STATUS, 0)
    assert not driver.host.level
    for register in (Register.STATUS, Register.QUEUE_READY, Register.INTERRUPT_STATUS):
        assert driver.get(register) == 0


def test_notifications_of_queues_that_do_not_exist_are_ignored(driver: Driver) -> None:
    """Any value may be written."""
    driver.start(1)
    for index in (1, 2, 0x10000, 0xFFFFFFFF):
        driver.set(Register.QUEUE_NOTIFY, index)
    assert not driver.host.violations


def test_there_is_no_shared_memory(driver: Driver) -> None:
    """Length -1 says so (4.2.2)."""
    assert driver.get(Register.SHM_LEN_LOW) == driver.get(Register.SHM_LEN_HIGH) == 0xFFFFFFFF
