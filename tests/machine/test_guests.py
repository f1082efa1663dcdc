# SPDX-License-Identifier: GPL-2.0-or-later
"""Every bundled guest on the machine, living through and restored from its state every other epoch."""

from __future__ import annotations

import pytest

from devices.event import OutputKind
from ftvm.machine import EpochEnd
from ftvm.service.nbd import FLUSH, FUA, READ, TRIM, WRITE, WRITE_ZEROES
from tests.machine import frames
from tests.machine.box import SECOND, Box, blockd_config
from tests.machine.conftest import MakeBox
from tests.machine.frames import IP, MAC, OUR_IP, OUR_MAC

NETWORK = [{"mac": MAC.hex(":")}]


def netecho(make: MakeBox) -> Box:
    """A running netecho."""
    box = make("netecho", network=NETWORK)
    box.until("netecho: ready, 10.0.2.15 at 52:54:00:ab:cd:ef")
    return box


def blockd(make: MakeBox) -> Box:
    """A running blockd."""
    box = make(blockd_config())
    box.until("blockd: ready, 2048 sectors")
    return box


def test_netecho_tells_its_address(make: MakeBox) -> None:
    (answer,) = netecho(make).packet(frames.arp())
    assert answer[:14] == OUR_MAC + MAC + b"\x08\x06"
    assert answer[14:42].endswith(MAC + IP + OUR_MAC + OUR_IP)


@pytest.mark.parametrize("size", [0, 56, 1472])
def test_netecho_answers_a_ping(make: MakeBox, size: int) -> None:
    payload = bytes(n & 0xFF for n in range(size))
    (answer,) = netecho(make).packet(frames.ipv4(1, frames.ping(payload)))
    assert answer[26:34] == IP + OUR_IP
    assert frames.checksum(answer[14:34]) == 0
    assert answer[34:] == frames.ping(payload, kind=0)


def test_netecho_sends_datagrams_and_raw_frames_back(make: MakeBox) -> None:
    box = netecho(make)
    (answer,) = box.packet(frames.ipv4(17, frames.datagram(4000, 7, b"hello")))
    assert answer[34:] == frames.datagram(7, 4000, b"hello")
    (answer,) = box.packet(frames.ethernet(0x88B5, bytes(range(200))))
    assert answer == OUR_MAC + MAC + b"\x88\xb5" + bytes(range(200))
    assert box.packet(frames.ethernet(0x88B6, bytes(60))) == []


def test_the_console_echoes_what_is_typed(make: MakeBox) -> None:
    box = make("console")
    box.until("console: ready")
    for text in ("one ", "line\r", "x" * 300, "\r"):
        box.type(text)
    box.settle()
    assert box.console == "console: ready\r\none line\r\n" + "x" * 300 + "\r\n"
    box.type("quit\r")
    assert box.to_the_end() == EpochEnd.POWEROFF


def test_compute_gets_the_same_result_as_on_other_machines() -> None:
    """The checksum is the one that the same image prints on QEMU's `virt`."""
    box = Box("compute", cmdline="insns=20000000")
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert "checksum 16f6104eb014d10f" in box.console


def test_compute_restored_in_the_middle_gets_the_same_result() -> None:
    lives = [Box("compute", cmdline="insns=1000000", swap=swap) for swap in (0, 3)]
    for box in lives:
        assert box.to_the_end() == EpochEnd.POWEROFF
    assert len(lives[1].results) > 6
    assert lives[0].console == lives[1].console
    assert "checksum" in lives[0].console


def test_timer_ticks_in_guest_time(make: MakeBox) -> None:
    """Fifty ticks of 1 ms take 50 ms and a little; while it waits the guest idles."""
    box = make("timer", cmdline="ticks=50")
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert "timer: 50 ticks" in box.console
    assert SECOND // 20 <= box.machine.time < SECOND // 20 + SECOND // 1000
    assert sum(result.reason == EpochEnd.IDLE for result in box.results) >= 45


def test_timer_ticks_at_the_rate_it_is_told(make: MakeBox) -> None:
    box = make("timer", cmdline="hz=100 ticks=5")
    assert box.to_the_end() == EpochEnd.POWEROFF
    assert SECOND // 20 <= box.machine.time < SECOND // 20 + SECOND // 1000


def test_blockd_serves_requests_that_come_as_events(make: MakeBox) -> None:
    box = blockd(make)
    data = bytes(range(256)) * 16
    box.run(box.request(1, WRITE, 8192, data=data), box.request(1, READ, 8192, 4096), box.request(1, FLUSH))
    box.run(box.request(1, WRITE_ZEROES, 8192, 1024), box.request(1, TRIM, 65536, 4096))
    box.settle()
    box.run(box.request(1, READ, 8192, 4096), box.request(1, WRITE, 0, data=data[:512], flags=FUA))
    box.settle()
    replies = box.replies()
    assert {number: error for number, (error, _) in replies.items()} == dict.fromkeys(range(1, 8), 0)
    assert len(replies[2][1]) == 4096  # it may have been read before or after the write that it came with
    assert replies[6][1] == bytes(1024) + data[1024:]
    assert box.disks[0].read(8192, 4096) == replies[6][1]
    assert box.disks[0].read(0, 512) == data[:512]
    durable = {output.offset for output in box.outputs(OutputKind.BLOCK_REPLY) if output.durable}
    assert durable == {3, 7}
    assert box.machine.outstanding == 0


def test_blockd_answers_what_is_impossible_with_an_error(make: MakeBox) -> None:
    box = blockd(make)
    box.run(box.request(1, READ, 1 << 20, 512), box.request(1, WRITE, (1 << 20) - 512, data=bytes(1024)))
    box.settle()
    assert {number: bool(error) for number, (error, _) in box.replies().items()} == {1: True, 2: True}
    assert box.notices == []


def test_many_requests_in_flight_are_each_answered_once(make: MakeBox) -> None:
    """More than the driver's window, of two connections, one of which ends in the middle."""
    box = blockd(make)
    events = [box.request(1 if n % 2 == 0 else 2, WRITE, 4096 * n, data=bytes([n + 1]) * 4096) for n in range(200)]
    for at in range(0, 200, 50):
        box.run(*events[at : at + 50], budget=20_000)
    box.run(box.close_connection(2))
    box.settle()
    replies = box.replies()
    assert set(replies) >= set(range(1, 201, 2))
    assert all(error == 0 for error, _ in replies.values())
    for n in range(0, 200, 2):
        assert box.disks[0].read(4096 * n, 4096) == bytes([n + 1]) * 4096
    assert box.machine.outstanding == 0
