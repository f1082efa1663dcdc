# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal: each request answered exactly once, whatever becomes of driver and clients."""

from __future__ import annotations

import msgpack
import pytest

from devices.event import Output, OutputKind
from ftvm.service.journal import WINDOW_BYTES, WINDOW_REQUESTS, Journal
from ftvm.service.nbd import FLUSH, READ, REQUEST, VENDOR, WRITE, WRITE_ZEROES, Errno, reply_head
from ftvm.service.request import encode_close, encode_request
from replay.errors import LogError

WATCHDOG = 100
BOOT = 700


class Rig:
    """A journal with its three outlets recorded."""

    def __init__(self, boot: int = 0) -> None:
        self.boot = boot
        self.frames: list[bytes] = []
        self.outputs: list[Output] = []
        self.violations: list[str] = []
        self.journal = self.make()
        self.number = 0

    def make(self) -> Journal:
        return Journal(self.frames.append, self.outputs.append, self.violations.append, WATCHDOG, self.boot)

    def ask(self, connection: int = 1, kind: int = WRITE, flags: int = 0, length: int = 512, time: int = 0) -> int:
        """Journal a request; its number."""
        self.number += 1
        data = b"w" * length if kind == WRITE else b""
        event = encode_request(connection, kind, flags, 512 * self.number, length, data)
        self.journal.request(event, time)
        return self.number

    def answer(self, number: int, data: bytes = b"", error: int = 0, time: int = 0) -> None:
        """The driver answers."""
        self.journal.port_output(reply_head(number, error) + data, time)

    def close(self, connection: int, time: int = 0) -> None:
        """A connection ends."""
        self.journal.close(encode_close(connection), time)

    def kill(self, time: int = 0) -> None:
        """The driver dies and boots again."""
        self.journal.died()
        self.journal.restarted(time)

    def submitted(self) -> list[int]:
        """Numbers of the frames since the last call."""
        numbers = [REQUEST.unpack_from(frame)[3] for frame in self.frames]
        self.frames.clear()
        return numbers

    def answered(self) -> list[tuple[int, int]]:
        """(number, error) of the outputs since the last call."""
        answers = [(output.offset, int.from_bytes(output.data[:4], "big")) for output in self.outputs]
        self.outputs.clear()
        return answers

    def reborn(self) -> None:
        """Save, and go on in another journal."""
        state = msgpack.unpackb(msgpack.packb(self.journal.save()), strict_map_key=False)
        digest = self.journal.digest()
        self.journal = self.make()
        self.journal.restore(state)
        assert self.journal.digest() == digest and self.journal.save() == state


@pytest.fixture(params=["kept", "restored"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """A rig whose journal is fresh, or is saved and restored before every answer and every death."""
    rig = Rig()
    if request.param == "restored":
        answer, kill = rig.answer, rig.kill

        def answer_reborn(number: int, data: bytes = b"", error: int = 0, time: int = 0) -> None:
            rig.reborn()
            answer(number, data, error, time)

        def kill_reborn(time: int = 0) -> None:
            rig.reborn()
            kill(time)

        rig.answer, rig.kill = answer_reborn, kill_reborn  # type: ignore[method-assign]
    return rig


def test_a_request_goes_to_the_driver_and_its_reply_to_the_client(rig: Rig) -> None:
    """The frame carries the journal's number, the output the connection, the number, the error and the data."""
    rig.ask(1, READ, length=1024)
    assert rig.frames == [REQUEST.pack(0x25609513, 0, READ, 1, 512, 1024)]
    rig.answer(1, b"r" * 1024)
    assert rig.outputs == [Output(OutputKind.BLOCK_REPLY, 1, bytes(4) + b"r" * 1024, 1, False)]
    assert rig.journal.outstanding == 0


@pytest.mark.parametrize(("kind", "flags", "durable"), [(FLUSH, 0, True), (WRITE, 1, True), (WRITE, 0, False)])
def test_replies_to_flush_and_fua_wait_for_the_disks(rig: Rig, kind: int, flags: int, durable: bool) -> None:
    """They are marked durable; others are not."""
    rig.ask(1, kind, flags)
    rig.answer(1)
    assert [output.durable for output in rig.outputs] == [durable]


def test_replies_come_in_any_order_and_any_pieces(rig: Rig) -> None:
    """Three requests answered backwards, byte by byte."""
    for kind in (READ, WRITE, FLUSH):
        rig.ask(1, kind)
    stream = reply_head(3, 0) + reply_head(2, 28) + reply_head(1, 0) + b"d" * 512
    for byte in stream:
        rig.journal.port_output(bytes([byte]), 0)
    assert rig.answered() == [(3, 0), (2, 28), (1, 0)] and not rig.violations


@pytest.mark.parametrize(
    ("says", "complaint"),
    [
        (b"x" * 16, "magic"),
        (reply_head(2, 0), "does not have"),
        (reply_head(0, 0), "does not have"),
        (reply_head(1, 3), "unknown error 3"),
        (reply_head(1, 0) + reply_head(1, 0), "does not have"),
        (reply_head(1, 0) + b"\0" * 16, "magic"),
    ],
)
def test_anything_but_replies_is_a_violation(rig: Rig, says: bytes, complaint: str) -> None:
    """It is reported once, and the driver is not listened to until it is restarted."""
    rig.ask(1, WRITE)
    rig.journal.port_output(says, 0)
    assert len(rig.violations) == 1 and complaint in rig.violations[0]
    rig.answered()
    rig.journal.port_output(reply_head(1, 0), 0)
    assert len(rig.violations) == 1 and not rig.answered()


def test_requests_held_back_while_the_driver_is_dead_are_not_lost(rig: Rig) -> None:
    """After a violation nothing is submitted; after the restart everything is."""
    rig.ask()
    rig.journal.port_output(b"x" * 16, 0)
    rig.ask()
    assert rig.submitted() == [1]
    rig.kill()
    assert rig.submitted() == [1]
    rig.answer(1)
    assert rig.submitted() == [2]


def test_a_partial_reply_is_void_after_a_restart(rig: Rig) -> None:
    """What the dead driver had begun to say is not mixed with what its successor says."""
    rig.ask(1, READ)
    rig.journal.port_output(reply_head(1, 0) + b"old", 0)
    rig.kill()
    rig.answer(1, b"n" * 512)
    assert rig.outputs[0].data == bytes(4) + b"n" * 512 and not rig.violations


def test_the_window_bounds_what_the_driver_holds(rig: Rig) -> None:
    """Requests and bytes; the rest follows in order as answers come."""
    for _ in range(WINDOW_REQUESTS + 3):
        rig.ask()
    assert rig.submitted() == list(range(1, WINDOW_REQUESTS + 1))
    rig.answer(5)
    rig.answer(1)
    assert rig.submitted() == [WINDOW_REQUESTS + 1, WINDOW_REQUESTS + 2]


def test_the_window_bounds_bytes_both_ways(rig: Rig) -> None:
    """Four reads and writes of a megabyte fill it; requests without payload pass only in their turn."""
    for kind in (READ, WRITE, READ, WRITE, READ, FLUSH):
        rig.ask(1, kind, length=1 << 20 if kind != FLUSH else 0)
    assert WINDOW_BYTES == 4 << 20 and rig.submitted() == [1, 2, 3, 4]
    rig.answer(2)
    assert rig.submitted() == [5, 6]


def test_after_a_death_requests_are_submitted_again_one_at_a_time(rig: Rig) -> None:
    """In arrival order; those that arrive meanwhile wait until the backlog is empty."""
    for _ in range(3):
        rig.ask()
    rig.answer(2)
    rig.submitted()
    rig.kill(10)
    assert rig.submitted() == [1]
    rig.ask()
    rig.ask()
    assert rig.submitted() == []
    rig.answer(1)
    assert rig.submitted() == [3]
    rig.answer(3)
    assert rig.submitted() == [4, 5]
    assert rig.answered() == [(2, 0), (1, 0), (3, 0)]


def test_of_64_in_flight_exactly_the_poisoned_one_fails(rig: Rig) -> None:
    """It kills the driver in company, then alone, then alone again: three deaths, one error."""
    for _ in range(64):
        rig.ask()
    deaths, queue = 0, rig.submitted()
    while queue or rig.journal.outstanding:
        if 37 in queue:
            deaths += 1
            rig.kill()
            queue = rig.submitted()
            continue
        rig.answer(queue.pop(0))
        queue += rig.submitted()
    answers = rig.answered()
    assert deaths == 3
    assert sorted(answers) == [(number, Errno.EIO if number == 37 else 0) for number in range(1, 65)]


def test_a_request_alone_from_the_start_gets_one_more_chance(rig: Rig) -> None:
    """Alone in the driver when it dies twice: an error; once is not enough."""
    rig.ask(1, FLUSH)
    rig.kill()
    assert rig.submitted() == [1, 1] and rig.answered() == []
    rig.kill()
    assert rig.outputs == [Output(OutputKind.BLOCK_REPLY, 1, b"\0\0\0\5", 1, True)]
    assert rig.journal.outstanding == 0 and rig.submitted() == []


def test_a_reset_without_a_death_counts_against_nobody(rig: Rig) -> None:
    """A guest that reboots itself gets its requests again as often as it likes."""
    rig.ask()
    for _ in range(5):
        rig.journal.restarted(0)
    assert rig.submitted() == [1] * 6
    rig.answer(1)
    assert rig.answered() == [(1, 0)]


def test_the_watchdog_counts_from_the_submission_in_guest_time(rig: Rig) -> None:
    """The oldest request in the driver decides; a restart winds the clock up again."""
    assert rig.journal.deadline() is None and rig.journal.overdue(10**9) is None
    rig.ask(time=1000)
    rig.ask(time=1050)
    assert rig.journal.deadline() == 1000 + WATCHDOG
    assert rig.journal.overdue(1000 + WATCHDOG - 1) is None and rig.journal.overdue(1000 + WATCHDOG) == 1
    rig.answer(1, time=1060)
    assert rig.journal.deadline() == 1050 + WATCHDOG
    rig.kill(5000)
    assert rig.journal.deadline() == 5000 + WATCHDOG and rig.journal.overdue(5001) is None


def test_a_driver_that_boots_has_the_time_of_a_boot() -> None:
    """At first and after each restart; from the opening of its port on, the watchdog counts."""
    rig = Rig(BOOT)
    rig.ask(time=50)
    rig.reborn()
    assert rig.journal.overdue(50 + BOOT - 1) is None and rig.journal.overdue(50 + BOOT) == 1
    rig.journal.port_opened(True, 600)
    rig.reborn()
    assert rig.journal.deadline() == 600 + WATCHDOG
    rig.answer(1, time=650)
    rig.ask(time=700)
    assert rig.journal.deadline() == 700 + WATCHDOG
    rig.kill(time=5000)
    assert rig.journal.deadline() == 5000 + BOOT
    rig.journal.port_opened(True, 5100)
    assert rig.journal.deadline() == 5100 + WATCHDOG
    rig.journal.port_opened(False, 5150)
    assert rig.journal.deadline() == 5000 + BOOT


def test_held_requests_are_not_overdue(rig: Rig) -> None:
    """A request waits for its turn as long as it takes: its time starts when the driver gets it."""
    for _ in range(WINDOW_REQUESTS + 1):
        rig.ask(time=0)
    rig.answer(1, time=90)
    for number in range(2, WINDOW_REQUESTS + 1):
        rig.answer(number, time=95)
    assert rig.journal.overdue(150) is None and rig.journal.overdue(190) == WINDOW_REQUESTS + 1


def test_replies_to_an_ended_connection_are_awaited_and_dropped(rig: Rig) -> None:
    """They are no outputs and no violation; the watchdog still waits for them."""
    rig.ask(1)
    rig.ask(1, READ)
    rig.close(1)
    assert rig.journal.outstanding == 2 and rig.journal.deadline() == WATCHDOG
    rig.answer(1)
    rig.answer(2, b"d" * 512)
    assert not rig.outputs and not rig.violations and rig.journal.outstanding == 0


def test_a_late_twin_drains_before_anything_new_is_submitted(rig: Rig) -> None:
    """A write of an ended connection is in the driver: nothing, of any connection, passes it."""
    rig.ask(1)
    rig.ask(2)
    rig.close(1)
    rig.submitted()
    rig.ask(3)
    rig.ask(2)
    assert rig.submitted() == []
    rig.answer(2)
    assert rig.submitted() == []
    rig.answer(1)
    assert rig.submitted() == [3, 4] and rig.answered() == [(2, 0)]


def test_reads_of_an_ended_connection_hold_nobody_up(rig: Rig) -> None:
    """They change nothing on the disk."""
    rig.ask(1, READ)
    rig.ask(1, FLUSH)
    rig.close(1)
    rig.ask(3)
    assert rig.submitted() == [1, 2, 3]


def test_requests_that_the_driver_never_saw_end_with_their_connection(rig: Rig) -> None:
    """Held ones and those of the backlog are dropped: nobody waits for a reply, and a twin may be on its way."""
    for _ in range(WINDOW_REQUESTS):
        rig.ask(1)
    rig.ask(1)
    rig.ask(130)
    rig.close(1)
    rig.submitted()
    for number in range(1, WINDOW_REQUESTS + 1):
        rig.answer(number)
    assert rig.submitted() == [130]
    rig.kill()
    rig.submitted()
    rig.close(130)
    rig.kill()
    assert rig.submitted() == [] and rig.journal.outstanding == 0


def test_a_restart_lifts_the_barrier(rig: Rig) -> None:
    """What a dead connection had in a dead driver is gone with both."""
    rig.ask(1)
    rig.ask(2, WRITE_ZEROES)
    rig.close(1)
    rig.ask(3)
    rig.submitted()
    rig.kill()
    assert rig.submitted() == [2]
    rig.answer(2)
    assert rig.submitted() == [3]


def test_a_killer_without_a_client_just_goes(rig: Rig) -> None:
    """No error is sent to an ended connection, and the killer does not come back."""
    rig.ask(1, VENDOR)
    rig.kill()
    rig.close(1)
    rig.kill()
    assert rig.journal.outstanding == 0 and not rig.outputs and rig.submitted() == [1, 1]


def test_names_and_numbers_go_on_for_a_successor(rig: Rig) -> None:
    """A host that goes live reads the next number and the connections to be closed."""
    rig.ask(1)
    rig.ask(2)
    rig.ask(1)
    rig.close(2)
    rig.reborn()
    assert rig.journal.next_number == 4 and rig.journal.open_connections == [1]


@pytest.mark.parametrize(
    "event",
    [
        encode_request(7, READ, 0, 0, 512, b""),
        encode_request(0, READ, 0, 0, 512, b""),
        b"",
        b"\x01",
        b"\x01\x02\x00",
        encode_request(1, WRITE, 0, 0, 511, b"x" * 511),
        encode_request(1, FLUSH, 0, 0, 0, b"") + b"x",
        encode_request(1, READ, 0, 0, 2 << 20, b""),
    ],
)
def test_events_that_no_host_sends_are_a_damaged_log(rig: Rig, event: bytes) -> None:
    """They are refused before they change anything."""
    with pytest.raises(LogError):
        rig.journal.request(event, 0)
    with pytest.raises(LogError):
        rig.close(9)
    assert rig.journal.next_number == 1 and rig.journal.digest() == 0


def test_the_digest_depends_on_everything_that_went_in() -> None:
    """Requests, data, ends, driver bytes and restarts each leave their mark."""
    digests = set()
    for variant in range(6):
        rig = Rig()
        rig.ask(1, READ)
        if variant == 1:
            rig.ask(1)
        elif variant == 2:
            rig.close(1)
        elif variant == 3:
            rig.answer(1, b"a" * 512)
        elif variant == 4:
            rig.answer(1, b"a" * 511 + b"b")
        elif variant == 5:
            rig.kill()
        digests.add(rig.journal.digest())
    assert len(digests) == 6


def test_a_state_of_another_version_is_refused() -> None:
    """In words."""
    rig = Rig()
    with pytest.raises(ValueError, match="version 99"):
        rig.journal.restore({**rig.journal.save(), "version": 99})
