# SPDX-License-Identifier: GPL-2.0-or-later
"""`DiskImage`: one side's copy of a replicated disk in a sparse file; a thread of its own waits for fdatasync(2).

The thread starts at the first flush that has something to do. Whoever waits for durability polls `fileno()`.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from ftvm.disk.barrier import BarrierDisk
from ftvm.disk.errors import DiskRefused
from ftvm.disk.operation import Operation
from ftvm.disk.spill import Spill
from ftvm.disk.storage import FileStorage


class DiskImage(BarrierDisk):
    """An image file of `size` bytes, made sparse when missing. DiskRefused when it is in use or of another size."""

    def __init__(self, path: Path | str, size: int, create: bool = True) -> None:
        super().__init__(FileStorage(Path(path), size, create), str(path))
        self.path = Path(path)
        self._spill = self._recovered_spill()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        self._stopping = False

    def _recovered_spill(self) -> Spill:
        """Do what a killed owner of this image had acknowledged and left waiting."""
        try:
            spill = Spill(self.path)
            spill.recover(self._apply)
        except OSError as error:
            self._storage.close()
            raise DiskRefused(f"disk image {self.path}: what waits for it cannot be written: {error}") from error
        return spill

    def fileno(self) -> int:
        """Readable after a sync has become durable or the storage has failed, until `acknowledge` is called."""
        return self._event

    def acknowledge(self) -> None:
        """What `fileno` announced has been seen."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def _enqueue(self, operation: Operation) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"sync {self.path.name}", daemon=True)
            self._thread.start()
        super()._enqueue(operation)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._stopping:
                    self._changed.wait()
                if not self._queue:
                    return
            if self._work():
                os.eventfd_write(self._event, 1)
            if self._failure is not None:
                return

    def drain(self) -> None:
        """Wait until nothing is queued. Raises DiskFailure."""
        if self._queue:
            with self._changed:
                while self._queue and self._failure is None:
                    self._changed.wait()
        self.check()

    def close(self) -> None:
        """Let the worker finish, and release the file. Closing twice is once."""
        if self._stopping:
            return
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        os.close(self._event)
        if self._spill is not None:
            if not self._queue:
                with suppress(OSError):
                    self._spill.clear()
            self._spill.close()
        self._storage.close()


def finish(path: Path) -> None:
    """Do what a killed owner of the image at `path` has left waiting. DiskRefused when the image is in use."""
    DiskImage(path, path.stat().st_size, create=False).close()
