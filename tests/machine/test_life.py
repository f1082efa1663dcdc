# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's life: saved and restored, reset, rebooted, failed, restarted, stopped, and given what it cannot take."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devices.event import Event, EventKind
from ftvm.board import RAM_BASE
from ftvm.driver import RESTARTS_WITHOUT_PROGRESS_MAX
from ftvm.machine import RESET, STOP, EpochEnd
from ftvm.service.nbd import READ, VENDOR, WRITE, Errno
from replay.entry import Entry, EntryFlag
from replay.errors import LogError
from tests.ftvm.asm import Asm
from tests.machine import frames
from tests.machine.box import ENTRY, MIB, SECOND, Box, blockd_config, config_of
from tests.machine.code import DATA, Ring, firmware, keep, power_off, spin, store
from tests.machine.conftest import MakeBox


def control(command: bytes) -> Event:
    """An operator's command."""
    return Event(EventKind.CONTROL, 0, command)


# What each guest is put through. Every epoch ends with a digest of all RAM.


def live_console(box: Box) -> None:
    box.until("console: ready")
    for text in ("first\r", "second", " half\r"):
        box.type(text)
    box.run(control(RESET))
    box.type("third\r")
    box.settle()
    box.type("quit\r")


def live_netecho(box: Box) -> None:
    box.until("netecho: ready")
    for size in range(0, 1400, 200):
        assert box.packet(frames.ipv4(1, frames.ping(bytes(size))))


def live_timer(box: Box) -> None:
    box.to_the_end()


def live_compute(box: Box) -> None:
    box.to_the_end()


def live_blockd(box: Box) -> None:
    box.until("blockd: ready")
    for n in range(6):
        box.run(box.request(1, WRITE, 4096 * n, data=bytes([n + 1]) * 4096), budget=3000)
        box.run(box.request(1, READ, 4096 * n, 4096), budget=2000)
    box.settle()
    box.run(box.request(1, VENDOR, 1, 0))  # the driver dies, and what was asked is asked again
    box.run(box.request(1, READ, 0, 8192))
    box.settle()


LIVES: dict[str, tuple[Callable[[], Box], Callable[[Box], None]]] = {
    "console": (lambda: Box("console"), live_console),
    "netecho": (lambda: Box("netecho", network=[{"mac": frames.MAC.hex(":")}]), live_netecho),
    "timer": (lambda: Box("timer", cmdline="ticks=20"), live_timer),
    "compute": (lambda: Box("compute", cmdline="insns=500000"), live_compute),
    "blockd": (lambda: Box(blockd_config()), live_blockd),
}


@pytest.mark.parametrize("guest", LIVES)
def test_a_restored_machine_goes_on_as_the_original(guest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored after every epoch, from bytes: every result, output and digest of RAM is that of the one never saved."""
    original = Box.run

    def run(box: Box, *events: Event, **options: int) -> object:
        return original(box, *events, **options, flags=EntryFlag.DIGEST_PAGES)  # type: ignore[arg-type]

    monkeypatch.setattr(Box, "run", run)
    traces = []
    for swap in (0, 1):
        make, live = LIVES[guest]
        box = make()
        box.swap = swap
        live(box)
        traces.append(box.trace())
        box.machine.close()
    assert len(traces[0]) > 5
    assert traces[0] == traces[1]


def test_the_same_entries_give_the_same_machine_twice() -> None:
    """Also its saved state, byte by byte."""
    states = []
    for _ in range(2):
        box = Box(blockd_config())
        live_blockd(box)
        states.append((box.trace(), box.machine.save()))
        box.machine.close()
    assert states[0] == states[1]


# Memory


@pytest.mark.parametrize("memory", ["16 MiB", "1 GiB"])
def test_ram_ends_where_it_was_configured_to(memory: str) -> None:
    """The last word can be written and read, the next one is an access fault (cause 5 of a load)."""
    end = RAM_BASE + (16 * MIB if memory == "16 MiB" else 1 << 30)
    code = Asm(ENTRY)
    code.la("t0", "handler")
    code.csrw("stvec", "t0")
    code.li("s1", end)
    code.li("t1", 0x1234)
    code.sd("t1", -8, "s1")
    code.ld("s2", -8, "s1")
    keep(code, "s2", 0)
    code.ld("s2", 0, "s1")
    power_off(code)
    code.align(4)
    code.label("handler")
    code.csrr("s3", "scause")
    keep(code, "s3", 1)
    code.csrr("s3", "stval")
    keep(code, "s3", 2)
    power_off(code)
    box = Box(config_of(memory=memory))
    box.boot(code)
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert box.words(DATA, 3) == [0x1234, 5, end]


@pytest.mark.parametrize("memory", ["16 MiB", "1 GiB"])
def test_guests_run_in_any_size_of_memory(memory: str) -> None:
    box = Box("netecho", memory=memory, network=[{"mac": frames.MAC.hex(":")}])
    box.until("netecho: ready")
    box.swap = 4
    assert box.packet(frames.ipv4(1, frames.ping(b"x")))
    box.machine.close()


# Reset


def test_an_operators_reset_boots_anew_and_the_console_goes_on(make: MakeBox) -> None:
    """Offsets of the stream go on; what was typed before is gone."""
    box = make("console")
    box.until("console: ready")
    box.type("abc")
    box.run(control(RESET))
    box.settle()
    box.type("def\r")
    box.settle()
    assert box.console == "console: ready\r\nabcconsole: ready\r\ndef\r\n"
    assert box.notices == []


def test_a_guest_that_resets_itself_finds_zeroed_memory(make: MakeBox) -> None:
    """RAM is as at power-on, the clock and guest time go on."""
    code = Asm(ENTRY)
    code.li("t0", DATA)
    code.ld("s1", 0, "t0")
    code.addi("s2", "s1", 1)
    code.sd("s2", 0, "t0")
    code.li("a0", ord("0"))
    code.add("a0", "a0", "s1")
    code.sbi(1)
    store(code, 0x10_0000, 0x7777)
    spin(code)
    box = make(code)
    clocks = []
    for _ in range(4):
        assert box.run().reason == EpochEnd.RESET
        clocks.append(box.machine.clock)
    assert box.console == "0000"
    assert clocks == sorted(set(clocks))


def test_a_reset_forgets_a_violation_in_the_same_block() -> None:
    """The driver broke a rule and reset the machine before anybody looked: it was reset, not restarted."""
    ring = Ring(0, ENTRY + 0x8_0000)
    code = Asm(ENTRY)
    ring.start(code)
    store(code, ring.avail + 4, 9, "sh")
    store(code, ring.avail + 2, 1, "sh")
    code.li("s1", 0x10_0000)
    code.li("s2", 0x7777)
    ring.notify(code)
    code.sw("s2", 0, "s1")
    spin(code)
    for swap in (0, 1):
        box = Box(config_of(disk=[{"image": "d", "size": "1 MiB"}], driver={"restart": True}), swap=swap)
        box.boot(code)
        assert [box.run().reason for _ in range(3)] == [EpochEnd.RESET] * 3
        assert box.notices == []


# Failure


def test_a_panic_without_a_restart_is_the_end() -> None:
    box = Box("console")
    box.until("console: ready")
    box.type("panic\r")
    assert box.to_the_end() == EpochEnd.FAILED
    assert "panic" in box.console
    assert box.machine.failure == "the guest asked for poweroff with failure reason 1 (panic)"


def test_a_panic_with_a_restart_is_a_notice(make: MakeBox) -> None:
    box = make("console", driver={"restart": True})
    for count in (1, 2):
        box.until("console: ready\r\n" + ("" if count == 1 else "panic"))
        box.settle()
        box.type("panic\r")
        box.go_on(lambda wanted=count: len(box.notices) == wanted)  # type: ignore[misc]
        box.settle()
    assert box.console.count("console: ready") == 3
    assert box.notices[1].startswith("driver restart 2: the guest asked for poweroff with failure reason 1")


def test_a_guest_that_traps_for_ever_has_failed() -> None:
    code = Asm(ENTRY)
    code.word(0)
    box = Box(code)
    assert box.to_the_end() == EpochEnd.FAILED
    assert "trap loop" in box.machine.failure


def test_a_driver_that_is_of_no_use_is_given_up() -> None:
    """Ten restarts without one answered request."""
    code = Asm(ENTRY)
    firmware(code, 0x53525354, 0, (0, 1), 0)
    spin(code)
    box = Box(config_of(driver={"restart": True}))
    box.boot(code)
    assert box.to_the_end(epochs=50) == EpochEnd.FAILED
    assert [result.reason for result in box.results[:-1]] == [EpochEnd.RESTARTED] * RESTARTS_WITHOUT_PROGRESS_MAX
    assert len(box.notices) == RESTARTS_WITHOUT_PROGRESS_MAX + 1


def test_a_broken_device_protocol_restarts_a_driver() -> None:
    """The cause names the device and the rule."""
    ring = Ring(0, ENTRY + 0x8_0000)
    code = Asm(ENTRY)
    ring.start(code)
    ring.offer(code, [9], 1)
    spin(code)
    box = Box(config_of(disk=[{"image": "d", "size": "1 MiB"}], driver={"restart": True}))
    box.boot(code)
    assert box.run().reason == EpochEnd.RESTARTED
    assert "disk0: virtio blk: queue 0: chain 9: descriptor 9 in a table of 8" in box.notices[0]


@pytest.mark.parametrize(("command", "cause"), [(1, "panic"), (2, "overdue"), (3, "driver restart")])
def test_a_request_that_kills_the_driver_is_answered_with_an_error(make: MakeBox, command: int, cause: str) -> None:
    """It is asked twice alone, others are not harmed: panic, endless loop, overwritten queues."""
    box = make(blockd_config(driver={"watchdog_ms": 100}))
    box.until("blockd: ready")
    box.run(box.request(1, WRITE, 0, data=b"a" * 512), box.request(1, VENDOR, command))
    box.run(box.request(1, READ, 0, 512))
    for _ in range(400):
        if box.machine.outstanding == 0:
            break
        box.run(later=SECOND // 100, budget=2_000_000)
    replies = box.replies()
    assert replies[2][0] == Errno.EIO
    assert replies[3] == (0, b"a" * 512) and replies[1] == (0, b"")
    assert 2 <= len(box.notices) <= 3 and cause in box.notices[-1]


@pytest.mark.parametrize("outstanding", [True, False])
def test_a_reset_that_leaves_requests_behind_is_a_death(outstanding: bool) -> None:
    """So does a kernel after a panic; without a request it is the guest's own business."""
    code = Asm(ENTRY)
    firmware(code, 0x53525354, 0, (1, 0), 0)
    spin(code)
    box = Box(blockd_config())
    box.boot(code)
    events = [box.request(1, READ, 0, 512)] if outstanding else []
    for death in (1, 2):
        assert box.run(*events).reason == (EpochEnd.RESTARTED if outstanding else EpochEnd.RESET)
        assert box.machine.supervisor.restarts == (death if outstanding else 0)
        events = []
    assert box.replies() == ({1: (Errno.EIO, b"")} if outstanding else {}), "it was alone when the driver died twice"


def test_requests_of_one_entry_reach_the_driver_in_one_buffer() -> None:
    """Filling a buffer for each costs the driver a call and an interrupt each."""
    box = Box(blockd_config())
    box.until("blockd: ready")
    taken: list[int] = []
    port = box.machine.hardware._port
    assert port is not None
    port_input = port.input

    def spy(number: int, data: bytes) -> None:
        taken.append(len(data))
        port_input(number, data)

    port.input = spy  # type: ignore[method-assign]
    box.run(*(box.request(1, READ, 4096 * n, 512) for n in range(8)))
    assert taken == [8 * 28]
    assert len(box.replies()) == 8


# What it is given


def test_a_stop_ends_the_machine_before_it_runs() -> None:
    box = Box("compute")
    box.run()
    clock = box.machine.clock
    assert box.run(control(STOP)).reason == EpochEnd.STOPPED
    assert box.machine.clock == clock


@pytest.mark.parametrize(
    "event",
    [
        Event(EventKind.CONTROL, 0, b"dance"),
        Event(EventKind.CONTROL, 0, b""),
        Event(EventKind.PACKET, 0, bytes(60)),
        Event(EventKind.LINK, 3, b"\1"),
        Event(EventKind.BLOCK_REQUEST, 0, b"\1\0\0\1"),
        Event(EventKind.BLOCK_CLOSE, 0, b"\1"),
        Event(0, 0, b""),
        Event(99, 0, b""),
    ],
)
def test_an_event_for_what_is_not_there_is_refused(event: Event) -> None:
    """A machine without network and service."""
    with pytest.raises(ValueError, match="the log holds"):
        Box("console").run(event)


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\7", b"\5\0\0\1", b"\1\0" + b"\xff" * 20, b"\1\3\0"])
def test_a_request_that_no_host_could_have_sent_is_refused(data: bytes) -> None:
    box = Box(blockd_config())
    with pytest.raises(LogError):
        box.run(Event(EventKind.BLOCK_REQUEST, 0, data))


@pytest.mark.parametrize(
    ("field", "value"), [("clock", 1), ("time", -1), ("time_max", -11), ("budget", -100), ("clock", 1 << 64)]
)
def test_an_entry_that_does_not_fit_is_refused(field: str, value: int) -> None:
    """Another clock, time that steps back, no budget."""
    box = Box("compute")
    box.run(later=1000)
    machine = box.machine
    fields = {"clock": machine.clock, "time": machine.time, "time_max": machine.time + 10, "budget": 100}
    fields[field] += value
    with pytest.raises(ValueError, match=r"clock|epoch from time"):
        machine.run(Entry(2, **fields))
    assert box.run().reason == EpochEnd.LIMIT
