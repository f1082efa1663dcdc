# SPDX-License-Identifier: GPL-2.0-or-later
"""Device accesses happen exactly once, with their absolute address, whatever their callbacks ask for.

A callback that makes the bare engine stop has its access executed twice: an interrupt claim is lost, a counter of an
atomic counts two.
"""

from __future__ import annotations

import pytest

from ftvm.hart import RAM_BASE, StopReason
from tests.ftvm.asm import Asm
from tests.ftvm.guest import PLIC, UART, Guest, shutdown

FINISHER, RTC, LAST_VIRTIO = 0x10_0000, 0x10_1000, 0x1000_8000


def test_each_window_is_told_with_its_address_size_and_value() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t1", 0x1122_3344_5566_7788)
    for base in (FINISHER, RTC, PLIC, PLIC + 0x5F_F000, UART, LAST_VIRTIO):
        code.li("t0", base)
        code.sb("t1", 0, "t0")
        code.sh("t1", 2, "t0")
        code.sw("t1", 4, "t0")
        code.lbu("s1", 0, "t0")
        code.lhu("s2", 2, "t0")
        code.lw("s3", 4, "t0")
    shutdown(code)
    guest.load(code)
    guest.on_read = lambda address, size: 0x1_89AB_CDEF
    guest.finish()
    bases = (FINISHER, RTC, PLIC, PLIC + 0x5F_F000, UART, LAST_VIRTIO)
    assert guest.writes == [
        access for base in bases for access in ((base, 1, 0x88), (base + 2, 2, 0x7788), (base + 4, 4, 0x5566_7788))
    ]
    assert guest.reads == [access for base in bases for access in ((base, 1), (base + 2, 2), (base + 4, 4))]
    assert (guest.x(9), guest.x(18), guest.x(19)) == (0xEF, 0xCDEF, 0xFFFF_FFFF_89AB_CDEF)


def test_eight_bytes_are_two_accesses_of_four() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", UART)
    code.li("t1", 0x1122_3344_5566_7788)
    code.sd("t1", 8, "t0")
    code.ld("s1", 16, "t0")
    shutdown(code)
    guest.load(code)
    guest.on_read = lambda address, size: address & 0xFF
    guest.finish()
    assert guest.writes == [(UART + 8, 4, 0x5566_7788), (UART + 12, 4, 0x1122_3344)]
    assert guest.x(9) == 0x14_0000_0010


@pytest.mark.parametrize("action", ["nothing", "stop", "raise line", "lower line", "write code", "everything"])
def test_a_read_with_side_effects_happens_once(action: str) -> None:
    """Like an interrupt controller's claim: a second read would return the next number."""
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", PLIC + 0x20_1004)
    code.li("s1", 0)
    for _ in range(3):
        code.lw("t1", 0, "t0")
        code.slli("s1", "s1", 8)
        code.or_("s1", "s1", "t1")
    shutdown(code)
    guest.load(code)
    claims = iter(range(1, 100))

    def claim(address: int, size: int) -> int:
        number = next(claims)
        hart = guest.hart
        if action in ("stop", "everything"):
            hart.stop()
        if action in ("raise line", "everything"):
            hart.set_external(number % 2 == 1)
        if action in ("lower line", "everything"):
            hart.set_external(False)
        if action in ("write code", "everything"):
            hart.writes(RAM_BASE, 4096)
        return number

    guest.on_read = claim
    for _ in range(5):
        if guest.calls:
            break
        assert guest.run() == StopReason.STOPPED
    assert guest.x(9) == 0x01_0203
    assert len(guest.reads) == 3


@pytest.mark.parametrize("stop", [False, True])
def test_an_atomic_on_a_device_reads_and_writes_once(stop: bool) -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", UART)
    code.li("t1", 5)
    code.amoadd_w("s1", "t1", "t0")
    shutdown(code)
    guest.load(code)

    def read(address: int, size: int) -> int:
        if stop:
            guest.hart.stop()
        return 37

    guest.on_read = read
    guest.run()
    if not guest.calls:
        guest.run()
    assert (guest.reads, guest.writes) == ([(UART, 4)], [(UART, 4, 42)])
    assert guest.x(9) == 37


def test_an_epoch_that_ends_at_a_device_access_does_not_repeat_it() -> None:
    for budget in range(1, 60):
        guest = Guest()
        code = Asm(RAM_BASE)
        code.li("t0", UART)
        for number in range(5):
            code.li("t1", number)
            code.sw("t1", 0, "t0")
            code.lw("t2", 4, "t0")
            code.j(code.here + 4)
        shutdown(code)
        guest.load(code)
        for _ in range(100):
            if guest.run(budget) == StopReason.STOPPED:
                break
        assert guest.writes == [(UART, 4, number) for number in range(5)], f"budget {budget}"
        assert guest.reads == [(UART + 4, 4)] * 5, f"budget {budget}"


def test_all_accesses_are_in_the_digest() -> None:
    digests = set()
    for value, address, answer in ((1, UART, 0), (2, UART, 0), (1, UART + 4, 0), (1, UART, 9), (1, UART, 0)):
        guest = Guest()
        code = Asm(RAM_BASE)
        code.li("t0", address)
        code.li("t1", value)
        code.sw("t1", 0, "t0")
        code.lw("t1", 0, "t0")
        code.li("t0", 0)
        code.li("t1", 0)
        code.label("end")
        code.j("end")
        guest.load(code)
        guest.on_read = lambda _address, _size, answer=answer: answer  # type: ignore[misc]
        guest.hart.run(0, 0, 4096)
        registers = guest.registers()
        assert registers["x6"] == 0
        digests.add(registers["mmio_digest"])
    assert len(digests) == 4


def test_misaligned_accesses_get_an_answer() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", UART + 1)
    code.lw("s1", 0, "t0")
    code.sw("s1", 0, "t0")
    code.sd("s1", 2, "t0")
    shutdown(code)
    guest.load(code)
    guest.on_read = lambda address, size: 0x0403_0201 + (address & 0xFF) * 0x0101_0101
    guest.finish()
    assert guest.reads == [(UART, 4), (UART + 4, 4)]
    assert guest.x(9) == 0x0504_0302
    assert all(size == 1 for _, size, _ in guest.writes)


def test_a_callback_sees_time_and_clock_of_the_block_it_is_in() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("t0", UART)
    code.j(code.here + 4)
    code.nop()
    code.lw("t1", 0, "t0")
    shutdown(code)
    guest.load(code)
    seen = []
    guest.on_read = lambda address, size: seen.append((guest.hart.clock, guest.hart.time)) or 0
    guest.finish()
    assert seen == [(8, 0)]
