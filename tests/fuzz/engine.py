# SPDX-License-Identifier: GPL-2.0-or-later
"""The fuzzing loop: cases from a corpus, an oracle, and what counts as found.

A `Target` has samples and a `check`. Whatever escapes from `check` is a finding: the parser raised something that it
does not document, the oracle's assertion failed, a case took too long or made the process grow. A finding is written
to a file, and the command that replays it is printed.

Guidance: one case in four runs under a line tracer, and when it reaches lines of ftvm that no case reached before, it
joins the corpus. The tracer makes those cases some ten times slower, so not all of them run under it.

A target that could take the process down (`risky`: it reaches the C core) keeps the running case in a file, so that it
is at hand when the process is not any more.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from tests.fuzz.mutate import Mutator

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / name) + "/" for name in ("ftvm", "replay", "devices", "logging_channel"))
GROWTH_MAX = 512 << 20  # bytes that the process may grow by in one case
DEAD_AFTER_S = 120  # the process gives up in C code that does not come back
CORPUS_MAX = 4000
TRACE_EVERY = 4


@dataclass(frozen=True)
class Target:
    """One thing to fuzz."""

    name: str
    samples: Callable[[], Sequence[bytes]]
    check: Callable[[bytes], None]
    seconds_max: float = 5.0  # generous: the machine may be busy
    words: tuple[bytes, ...] = ()
    packed_at: int | None = None  # cases are msgpack from this byte on
    risky: bool = False


@dataclass
class Report:
    """What a campaign did."""

    cases: int = 0
    corpus: int = 0
    lines: int = 0
    seconds: float = 0.0


class Found(Exception):
    """A finding; its text says what, and how to replay it."""


class TooSlow(BaseException):
    """A case took longer than its target allows. Not an Exception, so that nothing on the way swallows it."""


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow("this case took too long")


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert growth < GROWTH_MAX, f"this case made the process grow by {growth >> 20} MiB"


class Lines:
    """Lines of ftvm reached so far."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._new = False

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call":
            return self._trace if frame.f_code.co_filename.startswith(OURS) else None
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in self.seen:
            self.seen.add(place)
            self._new = True
        return self._trace

    def new_in(self, run: Callable[[], None]) -> bool:
        """Run; did it reach a new line?"""
        self._new = False
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            run()
        finally:
            sys.settrace(before)
        return self._new


def replay_words(target: Target, path: Path) -> str:
    """The command that runs one case again."""
    return f"python -m tests.fuzz {target.name} --case {path}"


def run_case(target: Target, data: bytes) -> None:
    """Check one case, within its bounds."""
    before = signal.signal(signal.SIGALRM, _too_slow)
    try:
        with _bounded(target.seconds_max):
            target.check(data)
    finally:
        signal.signal(signal.SIGALRM, before)


def campaign(target: Target, seed: int, seconds: float, cases_max: int, directory: Path, guide: bool = True) -> Report:
    """Fuzz until time or cases are used up; Found when something was."""
    chance = Random(f"{target.name} {seed}")
    mutator = Mutator(chance, target.words, target.packed_at)
    samples = list(target.samples())
    corpus, lines, report = list(samples), Lines(), Report()
    running = directory / f"fuzz-{target.name}-{os.getpid()}-running"
    start = time.monotonic()
    queue = list(samples)  # first of all the samples themselves
    while report.cases < cases_max and time.monotonic() - start < seconds:
        data = queue.pop() if queue else mutator.new(corpus)
        if target.risky:
            running.write_bytes(data)
            faulthandler.dump_traceback_later(DEAD_AFTER_S, exit=True)
        traced = guide and report.cases % TRACE_EVERY == 0
        try:
            if not traced:
                run_case(target, data)
            elif lines.new_in(lambda data=data: run_case(target, data)) and len(corpus) < CORPUS_MAX:  # type: ignore[misc]
                corpus.append(data)
        except (Exception, TooSlow) as error:
            raise Found(_keep(target, data, seed, report.cases, directory, error)) from error
        finally:
            if target.risky:
                faulthandler.cancel_dump_traceback_later()
        report.cases += 1
    running.unlink(missing_ok=True)
    report.corpus, report.lines, report.seconds = len(corpus), len(lines.seen), time.monotonic() - start
    return report


def _keep(target: Target, data: bytes, seed: int, number: int, directory: Path, error: BaseException) -> str:
    path = directory / f"fuzz-{target.name}-{seed}-{number}.case"
    path.write_bytes(data)
    where = "".join(traceback.format_exception(error)[-12:])
    return f"{target.name}: case {number} of seed {seed}: {error!r}\n{where}replay: {replay_words(target, path)}"
