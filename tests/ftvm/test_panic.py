# SPDX-License-Identifier: GPL-2.0-or-later
"""`PanicWatch`: which consoles tell of a panic, in pieces of any size, and what a kernel says after it."""

from __future__ import annotations

import pytest

from ftvm.panic import GRACE_TICKS, LINE_MAX, Panic, PanicWatch

TEXT = "Kernel panic - not syncing"
PANIC = b"[   12.345678] Kernel panic - not syncing: sysrq triggered crash\r\n"
TRACE = b"[   12.345700] Call Trace:\r\n"
END = b"[   12.345900] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n"
REBOOT = b"[   12.345900] Rebooting in 10 seconds..\r\n"


def watch(*pieces: bytes, text: str = TEXT) -> PanicWatch:
    """One that has seen these, all at time 0."""
    made = PanicWatch(text)
    for piece in pieces:
        made.see(piece, 0)
    return made


def test_a_kernel_that_hangs_is_dead_when_it_has_said_all() -> None:
    made = watch(b"boot\r\n", PANIC, TRACE)
    assert made.state is Panic.DYING and made.deadline == GRACE_TICKS
    made.see(END, 1)
    assert made.state is Panic.DEAD and made.deadline is None
    assert made.message == f"{TEXT}: sysrq triggered crash"


def test_a_kernel_that_resets_itself_says_so() -> None:
    assert watch(PANIC, TRACE, REBOOT).state is Panic.RESETTING


def test_a_kernel_that_says_no_more_is_dead_after_a_while() -> None:
    made = watch(PANIC)
    made.expire(GRACE_TICKS - 1)
    assert made.state is Panic.DYING
    made.expire(GRACE_TICKS)
    assert made.state is Panic.DEAD and made.deadline is None


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_pieces_of_any_size_say_the_same(size: int) -> None:
    """Restored after each of them."""
    made = PanicWatch(TEXT)
    stream = b"login: \r\n" + PANIC + TRACE + END
    for at in range(0, len(stream), size):
        made.see(stream[at : at + size], at)
        copy = PanicWatch(TEXT)
        copy.load(made.save())
        assert copy.save() == made.save()
        made = copy
    assert made.state is Panic.DEAD and made.message.endswith("sysrq triggered crash")


@pytest.mark.parametrize(
    "line",
    [
        b"Kernel panic - not syncing: no time stamps\n",
        b"[    0.000000][    T1] Kernel panic - not syncing: with its task\n",
        b"[    0.000000][   C0] Kernel panic - not syncing: with its processor\n",
        b"# [    1.500000] Kernel panic - not syncing: behind a prompt\n",
        b"x" * 3 * LINE_MAX + b"[    1.500000] Kernel panic - not syncing: behind a long line\n",
        b"50 %\r[    1.500000] Kernel panic - not syncing: behind a progress bar\n",
    ],
)
def test_a_panic_is_found(line: bytes) -> None:
    assert watch(*(line[at : at + 100] for at in range(0, len(line), 100))).state is Panic.DYING


@pytest.mark.parametrize(
    "line",
    [
        b"Nov 22 10:00:00 host kernel: Kernel panic - not syncing: of another day\n",
        b"grep 'Kernel panic - not syncing' log\n",
        b"[    1.000000] audit: Kernel panic - not syncing: quoted\n",
        b"[    1.000000] Kernel panic - not sync\n",
        b"x" * (LINE_MAX + 1) + b"Kernel panic - not syncing: in a long line\n",
        PANIC.rstrip(),  # not all of it yet
        END,
        REBOOT,
    ],
)
def test_what_is_no_panic_is_let_pass(line: bytes) -> None:
    assert watch(*(line[at : at + 100] for at in range(0, len(line), 100))).state is Panic.NONE


def test_another_system_says_it_in_other_words() -> None:
    assert watch(b"panic: page fault\r\n", text="panic: ").message == "panic: page fault"
    assert watch(PANIC, text="panic: ").state is Panic.NONE


def test_without_a_text_nothing_is_a_panic() -> None:
    assert watch(PANIC, END, b"\n", text="").state is Panic.NONE


def test_what_is_told_is_printable_and_short() -> None:
    made = watch(b"Kernel panic - not syncing: \x1b[2J" + b"a" * 800 + b"\n")
    assert made.message.startswith(f"{TEXT}: ?[2Ja") and made.message.isprintable() and len(made.message) <= 200


def test_after_a_reset_there_was_no_panic() -> None:
    made = watch(PANIC, b"[    1.0] Kernel pa")
    made.forget()
    made.see(b"nic - not syncing: half a line\n", 0)
    assert made.state is Panic.NONE and made.save() == PanicWatch(TEXT).save()
