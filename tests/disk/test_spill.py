# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits behind a sync outlives the process that had acknowledged it, whole and in order, but not its boot."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.disk import spill
from ftvm.disk.image import DiskImage, finish
from ftvm.disk.operation import Operation

SIZE = 1 << 20


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[DiskImage]:
    """An image whose first sync does not return before the test is over."""
    disk = DiskImage(tmp_path / "disk.img", SIZE)
    released = threading.Event()
    disk._storage.sync = released.wait  # type: ignore[method-assign, assignment]
    disk.write(0, b"before")
    disk.flush()
    yield disk
    released.set()
    disk.close()


def killed(disk: DiskImage, to: Path) -> Path:
    """The files as a SIGKILL of the disk's process would leave them."""
    to.mkdir()
    for name in (disk.path.name, disk.path.name + spill.SUFFIX):
        shutil.copy(disk.path.with_name(name), to / name)
    return to / disk.path.name


def test_waiting_changes_survive_a_kill(stuck: DiskImage, tmp_path: Path) -> None:
    """Writes, zeroes and discards behind an unfinished sync are done by the next owner, in their order."""
    stuck.write(4096, b"x" * 4096)
    stuck.zero(4096, 100)
    stuck.write(5000, b"late")
    stuck.flush()
    stuck.write(0, b"after!")
    stuck.discard(0, 3)
    expected = stuck.read(0, SIZE)
    image = killed(stuck, tmp_path / "dead")
    assert image.read_bytes() != expected
    with_next = DiskImage(image, SIZE)
    assert with_next.read(0, SIZE) == expected
    with_next.write(0, b"newest")
    with_next.close()
    assert DiskImage(image, SIZE).read(0, 6) == b"newest", "something was done twice"


def test_nothing_older_is_done_again_after_a_direct_write(tmp_path: Path) -> None:
    """Once the queue is empty, later writes go straight to the image, and a kill must not bring back what waited."""
    disk = DiskImage(tmp_path / "disk.img", SIZE)
    for round_number in range(20):
        disk.write(0, b"old %4d" % round_number)
        disk.flush()
        disk.write(0, b"mid %4d" % round_number)
        disk.drain()
        disk.write(0, b"new %4d" % round_number)
        image = killed(disk, tmp_path / f"dead{round_number}")
        copy = DiskImage(image, SIZE)
        assert copy.read(0, 8) == b"new %4d" % round_number
        copy.close()
    disk.close()


def test_a_record_cut_short_was_never_acknowledged(stuck: DiskImage, tmp_path: Path) -> None:
    """Whatever the length at which the kill cut the file, a whole prefix of the changes is done."""
    for number in range(4):
        stuck.write(number * 16, bytes([number + 1]) * 16)
    image = killed(stuck, tmp_path / "dead")
    waiting = image.with_name(image.name + spill.SUFFIX)
    whole, before = waiting.read_bytes(), image.read_bytes()
    seen = set()
    for length in range(len(whole) + 1):
        waiting.write_bytes(whole[:length])
        image.write_bytes(before)
        finish(image)
        done = image.read_bytes()[16:64]
        count = len(done.rstrip(b"\0")) // 16
        assert done == b"".join(bytes([number + 2]) * 16 for number in range(count)).ljust(48, b"\0")
        seen.add(count)
    assert seen == {0, 1, 2, 3}


def test_after_a_reboot_only_order_counts(stuck: DiskImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was never synced: one of another boot is ignored, since it may lack what came before it."""
    stuck.write(4096, b"late")
    image = killed(stuck, tmp_path / "dead")
    monkeypatch.setattr(spill, "boot_id", lambda: "another boot")
    finish(image)
    assert image.read_bytes()[4096:4100] == bytes(4)


def test_records_of_an_earlier_generation_end_the_list(tmp_path: Path) -> None:
    """The file is used from its beginning again; longer older contents behind the new ones are not done."""
    first = spill.Spill(tmp_path / "disk")
    for number in range(3):
        first.append(Operation("write", number, 1, b"o"))
    first.clear()
    first.append(Operation("write", 9, 1, b"n"))
    first.close()
    done: list[Operation] = []
    assert spill.Spill(tmp_path / "disk").recover(done.append) == 1
    assert done == [Operation("write", 9, 1, b"n")]


def test_a_full_file_makes_its_owner_wait_for_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays bounded under an endless load of writes and flushes."""
    monkeypatch.setattr(spill, "BYTES_MAX", 64 << 10)
    disk = DiskImage(tmp_path / "disk.img", SIZE)
    for number in range(200):
        disk.write(number * 4096, bytes([number]) * 4096)
        disk.flush()
    disk.drain()
    assert (tmp_path / ("disk.img" + spill.SUFFIX)).stat().st_size < 80 << 10
    assert disk.read(199 * 4096, 1) == bytes([199])
    disk.close()
