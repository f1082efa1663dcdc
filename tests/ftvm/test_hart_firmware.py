# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware calls that the hart serves itself, what it passes on, and the engine it insists on."""

from __future__ import annotations

import pytest

from ftvm import hart
from ftvm.hart import RAM_BASE, EngineError, Hart, StopReason, check_engine
from tests.ftvm.asm import Asm
from tests.ftvm.guest import SBI_TIME, Guest, shutdown

BASE, IPI, RFENCE, HSM, DBCN, SRST = 0x10, 0x735049, 0x52464E43, 0x48534D, 0x4442434E, 0x53525354
MINUS = (1 << 64).__sub__
NOT_SUPPORTED, INVALID, ALREADY, FAILED = MINUS(2), MINUS(3), MINUS(6), MINUS(1)
ALL = MINUS(1)


def ask(extension: int, function: int, *args: int) -> tuple[int, int, Guest]:
    """One call; a0 and a1 after it."""
    guest = Guest()
    code = Asm(RAM_BASE)
    for number, value in enumerate((*args, *[0] * (6 - len(args)))):
        code.li(f"a{number}", value)
    code.sbi(extension, function)
    code.mv("s1", "a0")
    code.mv("s2", "a1")
    shutdown(code)
    guest.load(code)
    guest.on_call = lambda extension, function, args: (MINUS(5), 1234) if extension != 8 else (0, 0)
    guest.finish()
    guest.calls.pop()
    return guest.x(9), guest.x(18), guest


@pytest.mark.parametrize(
    ("extension", "function", "args", "error", "value"),
    [
        (BASE, 0, (), 0, 2 << 24),
        (BASE, 1, (), 0, 0x6674766D),
        (BASE, 2, (), 0, 1),
        (BASE, 3, (BASE,), 0, 1),
        (BASE, 3, (SBI_TIME,), 0, 1),
        (BASE, 3, (IPI,), 0, 1),
        (BASE, 3, (RFENCE,), 0, 1),
        (BASE, 3, (HSM,), 0, 1),
        (BASE, 3, (0,), 0, 1),
        (BASE, 4, (), 0, 0),
        (BASE, 6, (), 0, 0),
        (BASE, 7, (), NOT_SUPPORTED, 0),
        (SBI_TIME, 0, (5,), 0, 0),
        (SBI_TIME, 1, (), NOT_SUPPORTED, 0),
        (IPI, 0, (1, 0), 0, 0),
        (IPI, 0, (0, ALL), 0, 0),
        (IPI, 0, (2, 0), INVALID, 0),
        (IPI, 0, (1, 1), INVALID, 0),
        (IPI, 1, (1, 0), NOT_SUPPORTED, 0),
        (RFENCE, 0, (1, 0), 0, 0),
        (RFENCE, 1, (0, ALL, 0, ALL), 0, 0),
        (RFENCE, 2, (1, 0, 0, 4096, 1), 0, 0),
        (RFENCE, 1, (4, 0), INVALID, 0),
        (RFENCE, 3, (1, 0), NOT_SUPPORTED, 0),
        (HSM, 0, (0,), ALREADY, 0),
        (HSM, 0, (1,), INVALID, 0),
        (HSM, 1, (), FAILED, 0),
        (HSM, 2, (0,), 0, 0),
        (HSM, 2, (7,), INVALID, 0),
        (HSM, 3, (0,), NOT_SUPPORTED, 0),
    ],
)
def test_calls_served_here(extension: int, function: int, args: tuple[int, ...], error: int, value: int) -> None:
    assert ask(extension, function, *args)[:2] == (error, value)


@pytest.mark.parametrize(
    ("extension", "function"), [(DBCN, 0), (SRST, 0), (0x0A00_0000, 77), (MINUS(1), MINUS(1)), (BASE, 3)]
)
def test_other_calls_are_passed_on_with_all_arguments(extension: int, function: int) -> None:
    seen = []
    error, value, guest = ask(extension, function, DBCN if extension == BASE else 11, 12, 13, 14, 15, 16)
    seen = guest.calls
    assert seen == [(extension, function, DBCN if extension == BASE else 11)]
    assert (error, value) == (MINUS(5), 1234)


def test_legacy_calls_return_in_a0_alone() -> None:
    error, value, guest = ask(1, 99, 65, 66)
    assert guest.calls == [(1, 99, 65)]
    assert (error, value) == (1234, 66)


def test_the_legacy_timer_is_the_timer() -> None:
    error, value, guest = ask(0, 0, 5000, 66)
    assert (error, value, guest.hart.deadline) == (0, 66, 5000)


def test_a_message_to_itself_is_a_software_interrupt() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.csrrsi("zero", "sie", 2)
    code.csrrsi("zero", "sstatus", 2)
    code.li("a0", 1)
    code.li("a1", 0)
    code.sbi(IPI)
    code.addi("s2", "s2", 1)
    shutdown(code)
    code.align(4)
    code.label("handler")
    code.csrr("s1", "scause")
    code.csrrci("zero", "sip", 2)
    code.sret()
    guest.load(code)
    guest.finish()
    assert (guest.x(9), guest.x(18)) == (1 << 63 | 1, 1)


def test_a_timer_in_the_past_is_pending_at_once_and_a_new_one_takes_it_back() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.li("a0", 0)
    code.sbi(SBI_TIME)
    code.csrr("s1", "sip")
    code.li("a0", 1 << 40)
    code.sbi(SBI_TIME)
    code.csrr("s2", "sip")
    shutdown(code)
    guest.load(code)
    guest.finish()
    assert (guest.x(9), guest.x(18)) == (1 << 5, 0)


def test_a_timer_that_is_due_is_no_deadline() -> None:
    _, _, guest = ask(SBI_TIME, 0, 0)
    assert guest.hart.deadline is None
    _, _, guest = ask(SBI_TIME, 0, ALL)
    assert guest.hart.deadline is None


def test_an_answer_that_is_no_pair_is_an_error_of_ours() -> None:
    guest = Guest()
    code = Asm(RAM_BASE)
    code.sbi(DBCN)
    code.label("end")
    code.j("end")
    guest.load(code)
    guest.on_call = lambda *_: 5  # type: ignore[assignment,return-value]
    with pytest.raises(TypeError, match="must return"):
        guest.run(1000)


def test_only_the_exact_engine_is_accepted() -> None:
    check_engine("2.1.4")
    for version in ("2.1.3", "2.1.5", "2.1.4.post1", "3.0.0"):
        with pytest.raises(EngineError, match=r"exactly unicorn 2\.1\.4, found " + version.replace(".", r"\.")):
            check_engine(version)


@pytest.mark.parametrize("size", [0, 4096, (1 << 20) + 4096, 1 << 60])
def test_ram_of_odd_sizes_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="whole number of MiB"):
        Hart(size, lambda a, s: 0, lambda a, s, v: None, lambda e, f, a: (0, 0))


def test_several_harts_live_in_one_process() -> None:
    guests = [Guest() for _ in range(3)]
    for number, guest in enumerate(guests):
        code = Asm(RAM_BASE)
        code.li("s1", number)
        code.label("loop")
        code.addi("s1", "s1", 10)
        code.j("loop")
        guest.load(code)
    for _ in range(5):
        for guest in guests:
            guest.run(80)
    assert [guest.x(9) for guest in guests] == [500, 501, 502]
    guests[1].hart.close()
    guests[0].run(80)
    assert guests[0].x(9) == 600


def test_the_hart_without_its_clock_runs_until_it_is_stopped() -> None:
    guest = Guest(clock_hook=False)
    code = Asm(RAM_BASE)
    code.li("t0", 100_000)
    code.label("loop")
    code.addi("t0", "t0", -1)
    code.bnez("t0", "loop")
    shutdown(code)
    guest.load(code)
    assert guest.run(1) == StopReason.STOPPED
    assert guest.x(5) == 0


def test_the_rate_of_guest_time_is_public() -> None:
    assert hart.BYTES_PER_TICK == 120
