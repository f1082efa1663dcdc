# SPDX-License-Identifier: GPL-2.0-or-later
"""`Scouts`: stretches of a recording looked through at the same time, by forks of this process.

    timeline ... [stretch 4] [stretch 3] [stretch 2] [stretch 1] here
                                  |           |           |
                               waits       a fork      a fork      answers are taken in order: 1, 2, 3

A fork has the whole machine, translated code included, at the cost of what it writes to; it runs its stretch, writes
one number into a pipe, and ends. So it may do to the machine whatever it likes. No stretch is begun before it could be
needed, and whoever has found what was looked for ends the others.
"""

from __future__ import annotations

import os
import select
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from struct import Struct
from typing import Final

ANSWER: Final = Struct("<q")
POLL_S: Final = 0.05


class ScoutLost(Exception):
    """A fork ended without an answer: whatever went wrong there will go wrong here, and be told."""


class Interrupted(Exception):
    """Whoever waits does not want to wait any longer."""


def scouts_at_once() -> int:
    """How many are worth having: the processors that this process may use."""
    return len(os.sched_getaffinity(0))


class Scouts:
    """The answers to `jobs`, which are numbers of 64 bits, in their order; a context manager."""

    def __init__(self, jobs: Iterator[Callable[[], int]], count: int) -> None:
        self._jobs = jobs
        self._count = count
        self._running: deque[tuple[int, int]] = deque()  # process, pipe

    def __enter__(self) -> Scouts:
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._running:
            os.close(pipe)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        self._running.clear()

    def answers(self, interrupted: Callable[[], bool]) -> Iterator[int]:
        """One after the other; Interrupted, ScoutLost."""
        while True:
            self._fill()
            if not self._running:
                return
            process, pipe = self._running[0]
            while not select.select([pipe], [], [], POLL_S)[0]:
                if interrupted():
                    raise Interrupted
            answer = os.read(pipe, ANSWER.size)
            os.close(pipe)
            self._running.popleft()
            os.waitpid(process, 0)
            if len(answer) != ANSWER.size:
                raise ScoutLost
            yield ANSWER.unpack(answer)[0]

    def _fill(self) -> None:
        while len(self._running) < self._count and (job := next(self._jobs, None)) is not None:
            self._running.append(_fork(job))


def _fork(job: Callable[[], int]) -> tuple[int, int]:
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:  # in the fork: nothing of this process may run on, whatever happens
        os.close(reading)
        os.write(writing, ANSWER.pack(job()))
        os._exit(0)
    finally:
        os._exit(1)
