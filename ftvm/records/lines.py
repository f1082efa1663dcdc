# SPDX-License-Identifier: GPL-2.0-or-later
"""Epochs and what happened in them, as lines for people: what `ftvm log show` and `ftvm log grep` print.

          12  clock 4096 +904 of 90000  time 1.2345678 +3.0 us  idle  digest 000000ab
              <- packet 0     10.0.2.2:1024 > 10.0.2.15:7 UDP, 5 bytes [47 bytes]
              -> packet_out 0 10.0.2.15:7 > 10.0.2.2:1024 UDP, 5 bytes [47 bytes]
    12:4096   1.2345678  <- packet 0     10.0.2.2:1024 > 10.0.2.15:7 UDP, 5 bytes [47 bytes]

An arrow to the left goes into the guest; `--` happened in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ftvm.records.happening import TICKS_PER_SECOND, Epoch, Happening, Moved

ARROWS: Final = {"in": "<-", "out": "->", "cpu": "--"}
INDENT: Final = " " * 10


def epoch_lines(epoch: Epoch, happenings: Iterable[Happening] = ()) -> Iterator[str]:
    """An epoch, and below it what happened in it."""
    extra = "".join(f"  {flag}" for flag in epoch.flags)
    pages = f"  pages {epoch.pages:016x}" if epoch.pages else ""
    yield (
        f"{epoch.sequence:8}  clock {epoch.clock} +{epoch.clock_end - epoch.clock} of {epoch.budget}"
        f"  time {epoch.time / TICKS_PER_SECOND:.7f} +{(epoch.time_end - epoch.time) / 10:.1f} us"
        f"  {epoch.reason}  digest {epoch.digest:08x}{pages}{extra}"
    )
    for happening in happenings:
        yield INDENT + what(happening)


def line(happening: Happening) -> str:
    """Something that happened, with where and when."""
    return f"{happening.position!s:<16} {happening.seconds:14.7f}  {what(happening)}"


def what(happening: Happening) -> str:
    """The same without where and when."""
    unit = f" {happening.unit}" if isinstance(happening, Moved) and happening.is_packet else ""
    return f"{ARROWS[happening.direction]} {happening.kind + unit:<14} {happening.summary}"
