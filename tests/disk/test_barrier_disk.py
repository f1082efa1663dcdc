# SPDX-License-Identifier: GPL-2.0-or-later
"""FLUSH means durable, and order: on a disk that drops and tears what was not synced."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.disk.barrier import CHUNK
from ftvm.disk.errors import DiskFailure
from ftvm.disk.simulated import SimulatedDisk

SECTOR = 512
SIZE = 64 * SECTOR


def block(version: int, sectors: int = 1) -> bytes:
    """Sectors that carry a version."""
    return version.to_bytes(8, "big") * (64 * sectors)


def test_a_flush_that_is_durable_survives_a_crash() -> None:
    """And one that is not may be lost: both happen over seeds."""
    survived = set()
    for seed in range(20):
        disk = SimulatedDisk(SIZE, seed)
        disk.write(0, block(1))
        disk.flush()
        assert disk.durable(1) == 0
        disk.work()
        assert disk.durable(1) == 1
        disk.write(0, block(2))
        disk.crash()
        survived.add(disk.read(0, 8)[7])
    assert survived == {1, 2}


def test_unsynced_writes_are_torn_between_sectors() -> None:
    """The simulated disk is as unkind as it claims."""
    outcomes = set()
    for seed in range(40):
        disk = SimulatedDisk(SIZE, seed)
        disk.write(0, block(1, 2))
        disk.crash()
        outcomes.add((disk.read(0, 8)[7], disk.read(SECTOR, 8)[7]))
    assert outcomes == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_reads_see_writes_that_wait_behind_a_flush() -> None:
    """Writes, zeroes and discards, overlapping, in their order, before and after they reach the storage."""
    disk = SimulatedDisk(SIZE)
    disk.write(0, block(1, 8))
    disk.flush()
    disk.write(SECTOR, block(2, 2))
    disk.zero(2 * SECTOR, SECTOR)
    disk.write(7 * SECTOR, block(3, 2))
    disk.discard(0, SECTOR)
    expected = bytes(SECTOR) + block(2) + bytes(SECTOR) + block(1, 4) + block(3, 2)
    while True:
        assert disk.read(0, 9 * SECTOR) == expected
        assert disk.read(SECTOR, SECTOR) == block(2) and disk.read(8 * SECTOR, SECTOR) == block(3)
        if not disk.work():
            break
    assert disk.queued == 0


def test_flushes_without_writes_cost_nothing() -> None:
    """The first one syncs what an earlier owner may have left; the others find nothing to do."""
    disk = SimulatedDisk(SIZE)
    for _ in range(5):
        disk.flush()
    disk.drain()
    assert disk.storage.syncs == 1
    disk.write(0, block(1))
    for _ in range(5):
        disk.flush()
    disk.drain()
    assert disk.storage.syncs == 2


def test_durable_follows_the_oldest_pending_flush() -> None:
    """Two flushes in entries 5 and 7: durable is 4, then 6 or less, then all that was executed."""
    disk = SimulatedDisk(SIZE)
    disk.sync()
    assert disk.durable(4) == 4
    disk.write(0, block(1))
    disk.flush()  # in entry 5
    assert disk.durable(5) == 4
    assert disk.durable(6) == 4
    disk.write(0, block(2))
    disk.flush()  # in entry 7
    assert disk.durable(7) == 4
    disk.work()
    assert disk.durable(7) == 6
    disk.drain()
    assert disk.durable(7) == 7 and disk.durable(9) == 9


def test_a_failing_write_is_this_sides_failure() -> None:
    """The write raises, and so does everything after it."""
    disk = SimulatedDisk(SIZE)
    disk.storage.fail_at = 1
    with pytest.raises(DiskFailure, match="simulated"):
        disk.write(0, block(1))
    for access in (lambda: disk.read(0, SECTOR), disk.flush, disk.check, disk.sync):
        with pytest.raises(DiskFailure):
            access()


@pytest.mark.parametrize("at", [2, 3])
def test_a_failure_behind_a_flush_is_never_taken_for_durable(at: int) -> None:
    """Whether the sync fails or a write queued behind it: durable stays, and the next access says so."""
    disk = SimulatedDisk(SIZE)
    disk.write(0, block(1))
    disk.storage.fail_at = at
    disk.flush()
    disk.write(0, block(2))
    disk.flush()
    while disk.work():
        pass
    assert disk.durable(8) == 0
    with pytest.raises(DiskFailure):
        disk.read(0, SECTOR)


def test_the_queue_is_bounded() -> None:
    """A guest that writes faster than the storage syncs waits for it."""
    disk = SimulatedDisk(64 << 20)
    disk.write(0, block(1))
    disk.flush()
    for index in range(64):
        disk.write(index << 20, bytes(1 << 20))
    assert disk.queued < 20


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "write", "zero", "discard", "flush", "work", "work", "read", "crash"]),
        st.integers(0, 7),
        st.integers(1, 3),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(0, 2**32))
def test_a_crash_never_shows_later_writes_without_what_was_flushed_before_them(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """After a crash every sector holds a version from the last durable flush on, and no sector one from behind a
    pending flush unless all that was flushed before it is there."""
    disk = SimulatedDisk(SIZE, seed)
    disk.sync()
    content = [0] * 16  # version of each sector as the guest sees it
    history: list[list[list[int]]] = [[[version] for version in content]]  # since each pending flush: values written
    version = entry = flushed = 0
    for action, sector, sectors in steps:
        entry += 1
        if action in ("write", "zero", "discard"):
            version += 1
            stored = version if action == "write" else 0
            if action == "write":
                disk.write(sector * SECTOR, block(version, sectors))
            else:
                getattr(disk, action)(sector * SECTOR, sectors * SECTOR)
            for index in range(sector, sector + sectors):
                content[index] = stored
                history[-1][index].append(stored)
        elif action == "flush":
            disk.flush()
            history.append([[value] for value in content])
        elif action == "work":
            disk.work()
        elif action == "read":
            data = disk.read(sector * SECTOR, sectors * SECTOR)
            assert data == b"".join(block(content[index]) for index in range(sector, sector + sectors))
        else:
            disk.crash()
            found = [int.from_bytes(disk.read(index * SECTOR, 8), "big") for index in range(16)]
            # Some barrier was the last to be reached: everything is from the values behind it.
            reached = [
                number
                for number in range(flushed, len(history))
                if all(found[index] in history[number][index] for index in range(16))
            ]
            assert reached, f"{found} is no state between two flushes at or after flush {flushed}"
            content = found
            history, flushed = [[[value] for value in content]], 0
            disk.sync()
            continue
        if disk.durable(entry) == entry:  # every flush so far is durable
            flushed = len(history) - 1


def test_tracking_finds_every_chunk_that_changed() -> None:
    """Writes, zeroes and discards, across borders; only while tracking is on."""
    disk = SimulatedDisk(8 * CHUNK)
    disk.write(0, block(1))
    assert disk.take_dirty() == set()
    disk.start_tracking()
    disk.write(CHUNK - SECTOR, block(2, 2))
    disk.zero(4 * CHUNK, CHUNK)
    disk.discard(7 * CHUNK + SECTOR, SECTOR)
    assert disk.take_dirty() == {0, 1, 4, 7} and disk.take_dirty() == set()
    disk.flush()
    disk.write(2 * CHUNK, block(3))
    assert disk.take_dirty() == {2}
    disk.stop_tracking()
    disk.write(3 * CHUNK, block(4))
    assert disk.take_dirty() == set()


def test_a_copy_made_in_rounds_while_the_guest_writes_is_exact() -> None:
    """Chunks that hold data, then what changed meanwhile, until nothing does: the digests agree."""
    chance = random.Random(7)
    source, target = SimulatedDisk(10 * CHUNK + SECTOR), SimulatedDisk(10 * CHUNK + SECTOR)
    target.write(5 * CHUNK, block(9, 9))
    target.clear()
    source.start_tracking()
    todo = source.data_chunks()
    for round_ in range(5):
        for chunk in todo:
            target.write_chunk(chunk, source.read_chunk(chunk))
            if round_ < 4:
                source.write(chance.randrange(10 * CHUNK // SECTOR) * SECTOR, block(chance.randrange(99)))
                if chance.random() < 0.3:
                    source.flush()
        todo = sorted(source.take_dirty())
    assert not todo and source.digest() == target.digest()
    target.write(10 * CHUNK, block(1))
    assert source.digest() != target.digest()


def test_a_chunk_that_does_not_fit_is_refused() -> None:
    """Index and length."""
    disk = SimulatedDisk(CHUNK + SECTOR)
    disk.write_chunk(1, bytes(SECTOR))
    for index, data in ((2, bytes(CHUNK)), (-1, bytes(CHUNK)), (0, bytes(SECTOR)), (1, bytes(CHUNK))):
        with pytest.raises(ValueError, match="does not fit"):
            disk.write_chunk(index, data)
