# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a backup from following becomes its failure in words; a side like that never asks to go live."""

from __future__ import annotations

from functools import partial

import lz4.block
import msgpack

from ftvm.disk.errors import DiskFailure
from ftvm.pair.backup import ANSWER_S, SHORT_EPOCH_S, BackupState
from ftvm.scratch_disk import ScratchDisk
from logging_channel.endpoint import Link
from logging_channel.frame import FrameKind
from logging_channel.messages import Ack, Goodbye, GoodbyeCode, Heartbeat, Refuse, StateChunk
from tests.pair.bench import Follower

SIZE = 1 << 20
MANIFEST: bytes = msgpack.packb([SIZE])


class BrokenDisk(ScratchDisk):
    """Takes nothing."""

    def write(self, offset: int, data: bytes) -> None:
        raise DiskFailure("this side's disk failed: no room")


class StrictDisk(ScratchDisk):
    """Says what an image says of a chunk that does not fit."""

    def write_chunk(self, index: int, data: bytes) -> None:
        raise ValueError(f"chunk {index} of {len(data)} bytes does not fit a disk of {self.capacity} bytes")


def test_it_follows_and_is_in_sync() -> None:
    side = Follower()
    side.follow()
    assert side.backup.state is BackupState.IN_SYNC
    assert (side.backup.receiver.executed, side.backup.failure) == (8, "")


def test_an_entry_that_the_machine_cannot_run_ends_it_in_words() -> None:
    side = Follower()
    side.follow()
    side.machine.refusal = "entry 9 starts at clock 5, this machine's is 0"
    side.entry(9)
    side.entry(10)
    side.backup.execute(side.now)
    assert "diverged" in side.backup.failure and side.machine.refusal in side.backup.failure
    assert side.kinds()[-2:] == [FrameKind.ACK, FrameKind.GOODBYE]
    assert Ack.decode(side.sent[-2].body).digest == 8, "the digest after the last entry that could be run"
    goodbye = Goodbye.decode(side.sent[-1].body)
    assert goodbye.code == GoodbyeCode.DIVERGED and "diverged" in goodbye.text
    assert side.backup.diverged, "its machine is to be kept"
    assert not side.backup.execute(side.now), "entry 10 must not be run on a machine that missed entry 9"
    side.now += 60.0
    assert side.backup.suspect(side.now) is None, "it is this side that is broken, not the primary"


def test_a_disk_that_fails_while_the_state_arrives_ends_it_in_words() -> None:
    side = Follower([BrokenDisk(SIZE)])
    side.join(MANIFEST)
    side.tell(FrameKind.STATE_CHUNK, StateChunk(0, "disk/0", 0, lz4.block.compress(b"x" * 65536)).encode())
    assert "no room" in side.backup.failure


def test_a_chunk_outside_the_disk_ends_it_in_words() -> None:
    side = Follower([StrictDisk(SIZE)])
    side.join(MANIFEST)
    side.tell(FrameKind.STATE_CHUNK, StateChunk(0, "disk/0", 99, lz4.block.compress(b"x")).encode())
    assert "does not fit" in side.backup.failure


def test_a_heartbeat_before_the_welcome_ends_it_in_words() -> None:
    side = Follower()
    side.backup.receive(Link.CONNECTED, side.now)
    session = side.backup.admission.session
    side.backup.receive(session.encode(FrameKind.HEARTBEAT, 0, Heartbeat(1, 1, 1, 1, False).encode()), side.now)
    assert "before the welcome" in side.backup.failure


def test_it_does_not_repeat_a_hello_that_a_slow_primary_is_about_to_answer() -> None:
    side = Follower()
    side.backup.receive(Link.CONNECTED, side.now)
    for _ in range(10):
        side.now += ANSWER_S / 20
        side.backup.tick(side.now)
    assert side.kinds() == [FrameKind.HELLO]
    side.tell(FrameKind.REFUSE, Refuse("another member joins").encode())
    side.now += 0.2
    side.backup.tick(side.now)
    assert side.kinds() == [FrameKind.HELLO, FrameKind.HELLO]
    assert side.sent[0].session != side.sent[1].session


def test_a_lost_connection_wakes_whoever_has_to_go_live() -> None:
    side = Follower()
    side.follow()
    woken: list[bool] = []
    side.backup.on_work = lambda: woken.append(True)
    side.backup.receive(Link.DISCONNECTED, side.now)
    assert woken
    assert side.backup.suspect(side.now) is not None


def test_the_execution_of_short_epochs_is_told_with_the_next_receipt_and_that_of_long_ones_at_once() -> None:
    side = Follower()
    side.follow()
    side.backup.acknowledge(side.now)
    for took, told in ((SHORT_EPOCH_S / 2, False), (SHORT_EPOCH_S * 2, True)):
        side.machine.takes = partial(side.wait, took)
        side.entry(side.machine.sequence + 1)
        sent = len(side.sent)
        assert side.backup.execute(side.now)
        assert side.backup.report() is not told
        assert (len(side.sent) > sent) is told


def test_a_primary_that_says_that_the_two_differ_makes_it_keep_its_machine() -> None:
    side = Follower()
    side.follow()
    assert not side.backup.diverged
    side.tell(FrameKind.GOODBYE, Goodbye(int(GoodbyeCode.DIVERGED), "divergence: digests differ").encode())
    assert side.backup.diverged and side.backup.goodbye is not None


def test_a_refusal_that_will_never_change_ends_it_in_words() -> None:
    """Another machine file, image or engine: whoever started it has to do something about it."""
    side = Follower()
    side.backup.receive(Link.CONNECTED, side.now)
    side.tell(FrameKind.REFUSE, Refuse("member 'b' runs engine 'x'", final=True).encode())
    side.now += 60.0
    side.backup.tick(side.now)
    assert side.kinds() == [FrameKind.HELLO], "it goes on asking"
    assert side.backup.unfit and "runs engine 'x'" in side.backup.failure
