# SPDX-License-Identifier: GPL-2.0-or-later
"""Images in files: sparse, locked, and synced by a thread of their own."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.disk.barrier import CHUNK
from ftvm.disk.errors import DiskFailure, DiskRefused
from ftvm.disk.image import DiskImage
from ftvm.disk.storage import FileStorage, copy_sparse

SIZE = 4 << 20


@pytest.fixture
def image(tmp_path: Path) -> Iterator[DiskImage]:
    """A new image."""
    image = DiskImage(tmp_path / "disk.img", SIZE)
    yield image
    image.close()


def python(code: str, *arguments: str) -> str:
    """What a program prints in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


class SlowSync:
    """Replaces a storage's sync by one that waits to be told."""

    def __init__(self, image: DiskImage) -> None:
        self.entered = threading.Event()
        self.proceed = threading.Event()
        self.error: OSError | None = None
        image._storage.sync = self  # type: ignore[method-assign]

    def __call__(self) -> None:
        self.entered.set()
        assert self.proceed.wait(5)
        if self.error is not None:
            raise self.error


def test_an_image_is_made_sparse_and_keeps_what_is_written(image: DiskImage) -> None:
    """Its size at once, its blocks only where there is data; another opening finds the data."""
    assert image.path.stat().st_size == SIZE and image.path.stat().st_blocks == 0
    assert image.read(SIZE - 512, 512) == bytes(512)
    image.write(CHUNK, b"x" * 512)
    image.sync()
    image.close()
    again = DiskImage(image.path, SIZE, create=False)
    assert again.read(CHUNK, 1024) == b"x" * 512 + bytes(512)
    assert again.data_chunks() == [1]
    again.clear()
    assert again.data_chunks() == [] and again.path.stat().st_blocks == 0
    again.close()


def test_zero_and_discard_read_as_zeroes(image: DiskImage) -> None:
    """Whatever the file system can do, also inside a block."""
    for change in (image.zero, image.discard):
        image.write(0, b"y" * 16384)
        change(512, 8192)
        assert image.read(0, 16384) == b"y" * 512 + bytes(8192) + b"y" * 7680


def test_zeroes_are_written_where_the_file_system_cannot_punch_holes(
    image: DiskImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same content, same digest."""
    image.write(0, b"y" * (3 << 20))
    image.discard(4096, 2 << 20)
    digest = image.digest()
    image.write(0, b"y" * (3 << 20))
    storage = image._storage
    assert isinstance(storage, FileStorage)
    monkeypatch.setattr(storage, "_range", lambda mode, offset, length: False)
    image.zero(4096, 2 << 20)
    assert image.digest() == digest and image.read(4096, 2 << 20) == bytes(2 << 20)


def test_a_flush_returns_before_the_sync_and_wakes_the_loop_after_it(image: DiskImage) -> None:
    """Reads see what waits; durable moves when the sync is done; the descriptor becomes readable once."""
    slow = SlowSync(image)
    image.write(0, b"1" * 512)
    image.flush()
    assert slow.entered.wait(5) and image.durable(3) == 0
    image.write(0, b"2" * 512)
    assert image.read(0, 512) == b"2" * 512 and image.path.read_bytes()[:1] == b"1"
    poller = select.poll()
    poller.register(image.fileno(), select.POLLIN)
    assert not poller.poll(0)
    slow.proceed.set()
    assert poller.poll(5000)
    image.acknowledge()
    image.drain()
    assert not poller.poll(0) and image.durable(3) == 3
    assert image.path.read_bytes()[:1] == b"2"


def test_a_sync_that_fails_is_this_sides_failure(image: DiskImage) -> None:
    """The loop is woken, nothing becomes durable, and the image can still be closed."""
    slow = SlowSync(image)
    slow.error = OSError(errno.EIO, "bad block")
    slow.proceed.set()
    image.write(0, b"1" * 512)
    image.flush()
    poller = select.poll()
    poller.register(image.fileno(), select.POLLIN)
    assert poller.poll(5000)
    with pytest.raises(DiskFailure, match="bad block"):
        image.check()
    with pytest.raises(DiskFailure):
        image.drain()
    assert image.durable(5) == 0


def test_a_worker_that_stumbles_is_this_sides_failure_and_nobody_waits_for_it(
    image: DiskImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync() -> None:
        raise OverflowError("no such number")

    monkeypatch.setattr(image._storage, "sync", sync)
    image.write(0, b"x" * 512)
    image.flush()
    with pytest.raises(DiskFailure, match="no such number"):
        image.drain()


def test_a_full_file_system_is_this_sides_failure(image: DiskImage) -> None:
    """A file that may not grow stands in for it: the kernel refuses the write."""
    code = (
        "import resource, signal, sys; from ftvm.disk.image import DiskImage\n"
        "image = DiskImage(sys.argv[1], 1 << 20)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "image.write(0, bytes(512))\n"
        "try: image.write(65536, bytes(512))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = python(code, str(image.path.with_name("other.img")))
    assert done.startswith("DiskFailure this side's disk failed") and "File too large" in done


def test_two_processes_never_write_one_image(image: DiskImage) -> None:
    """The second is refused in words, also from another process, until the first lets go."""
    with pytest.raises(DiskRefused, match="in use"):
        DiskImage(image.path, SIZE)
    code = (
        "import sys; from ftvm.disk.image import DiskImage\n"
        "try: DiskImage(sys.argv[1], int(sys.argv[2]))\n"
        "except Exception as error: print(error)\n"
    )
    assert "in use by another process" in python(code, str(image.path), str(SIZE))


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Another size, a missing file, a directory."""
    (tmp_path / "short").write_bytes(bytes(512))
    with pytest.raises(DiskRefused, match=r"has 512 bytes, the machine file says 4194304"):
        DiskImage(tmp_path / "short", SIZE)
    with pytest.raises(DiskRefused, match="cannot be opened"):
        DiskImage(tmp_path / "missing", SIZE, create=False)
    with pytest.raises(DiskRefused, match="cannot be opened"):
        DiskImage(tmp_path, SIZE)


def test_an_image_truncated_behind_our_back_is_a_failure(image: DiskImage) -> None:
    """Not an endless loop, not short data."""
    os.truncate(image.path, 512)
    with pytest.raises(DiskFailure, match="truncated"):
        image.read(0, 1024)


def test_copying_an_image_keeps_its_holes(tmp_path: Path) -> None:
    """A smaller image is extended, a bigger one refused, and the source is only read."""
    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.seek(1 << 20)
        file.write(b"s" * 1000)
    before = source.read_bytes()
    copy_sparse(source, tmp_path / "copy", SIZE)
    content = (tmp_path / "copy").read_bytes()
    assert len(content) == SIZE and content.rstrip(b"\0") == before
    assert (tmp_path / "copy").stat().st_blocks * 512 <= 65536 and source.read_bytes() == before
    with pytest.raises(DiskRefused, match="raise the size"):
        copy_sparse(source, tmp_path / "other", 1 << 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]
