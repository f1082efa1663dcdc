# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a pair's status in a tight loop, in a thread, and remembers what must never be seen."""

from __future__ import annotations

import threading
import time

from ftvm.pair_process import PairProcess

ANSWER_S_MAX = 1.0


class StatusWatch:
    """While it is entered: at most one side is ever called primary, and every answer comes within a second."""

    def __init__(self, pair: PairProcess) -> None:
        self._pair = pair
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self.reads = 0
        self.slowest_s = 0.0
        self.primaries: list[int] = []  # processes, in the order in which they were shown
        self.wrong: list[str] = []

    def __enter__(self) -> StatusWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        if kind is None:
            assert not self.wrong, self.wrong[:5]
            assert self.reads > 10, self.reads
            assert self.slowest_s < ANSWER_S_MAX, f"one answer took {self.slowest_s:.2f} s"

    def _run(self) -> None:
        while not self._stop.is_set():
            start = time.monotonic()
            status = self._pair.status()
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)
            self.reads += 1
            primaries = [side["pid"] for side in status["sides"].values() if side["role"] == "primary"]
            if len(primaries) > 1 or None in primaries:
                self.wrong.append(f"primaries {primaries} in {status}")
            if primaries and primaries != self.primaries[-1:]:
                self.primaries += primaries
            time.sleep(0.002)
