# SPDX-License-Identifier: GPL-2.0-or-later
"""A timeline's stills in `LOG.ckpt`, and back: a recording that was opened once is open at once the next time.

    section       what
    still         msgpack: clock, and the recorded digest of the entry before it, which tells whether it belongs here
    hart, machine the machine's state without RAM and disks
    pages/N       pages that changed since the checkpoint before: count, number and length of each, all contents
    disk/U/N      the same for chunks of disk U

Contents are compressed one by one (ftvm/layers.py) and stay so until they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Final

import msgpack

from ftvm.hart import Hit
from ftvm.layers import Layers
from ftvm.traveller import Still, Travelling
from replay.checkpoint_file import CheckpointWriter, path_of, read_checkpoints
from replay.errors import LogError
from replay.header import LogHeader
from replay.stills import Kept
from replay.timeline import Timeline

GROUP: Final = 256  # pieces in a section
COUNT: Final = Struct("<I")
PIECE: Final = Struct("<II")


Line = Timeline[Still, Hit]


def make(
    timeline: Line, traveller: Travelling, log: Path, header: LogHeader, progress: Callable[[int], None]
) -> tuple[Path, int]:
    """Replays the whole recording and writes its checkpoints; where, and how many. Divergence, LogError."""
    done = timeline.position.sequence

    def tell() -> bool:
        nonlocal done
        progress(timeline.position.sequence - done)
        done = timeline.position.sequence
        return False

    timeline.interrupted = tell
    timeline.seek(timeline.end)
    timeline.keep()
    timeline.interrupted = lambda: False
    count = 0
    with CheckpointWriter(path_of(log), header) as writer:
        for kept in timeline.stills:
            writer.add(kept.sequence, _sections(timeline, traveller, kept))
            count += 1
    return path_of(log), count


def load(timeline: Line, traveller: Travelling, log: Path, header: LogHeader) -> int:
    """Take what checkpoints there are into the timeline, which stands at the beginning; how many. LogError."""
    path = path_of(log)
    if not path.exists():
        return 0
    count = 0
    for state in read_checkpoints(path, header):
        try:
            count += _take(timeline, traveller, state.sequence, dict(state.sections))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise LogError(f"{path}: checkpoint {state.sequence} is damaged: {error!r}; remove the file") from None
    return count


def _sections(timeline: Line, traveller: Travelling, kept: Kept[Still]) -> Iterator[tuple[str, bytes]]:
    yield "still", msgpack.packb([kept.clock, _digest_behind(timeline, kept.sequence)])
    yield from kept.state.sections
    yield from _groups("pages", traveller.pages, kept.sequence)
    for unit, layers in enumerate(traveller.chunks):
        yield from _groups(f"disk/{unit}", layers, kept.sequence)


def _digest_behind(timeline: Line, sequence: int) -> int:
    entries = timeline.entries
    return entries[sequence][1].digest if sequence >= entries.first else 0


def _groups(name: str, layers: Layers, moment: int) -> Iterator[tuple[str, bytes]]:
    pieces = sorted(layers.touched(moment).items())
    for start in range(0, len(pieces), GROUP):
        group = pieces[start : start + GROUP]
        heads = b"".join(PIECE.pack(number, len(packed)) for number, packed in group)
        yield f"{name}/{start // GROUP}", COUNT.pack(len(group)) + heads + b"".join(packed for _, packed in group)


def _take(timeline: Line, traveller: Travelling, sequence: int, sections: dict[str, bytes]) -> bool:
    """One checkpoint; False when it does not belong to this recording (any more), or is there already."""
    clock, digest = msgpack.unpackb(sections.pop("still"))
    known = timeline.entries.base <= sequence <= timeline.entries.last
    if not known or digest != _digest_behind(timeline, sequence):
        raise ValueError("it is not of this recording")
    state = [(name, sections[name]) for name in ("hart", "machine")]
    if timeline.stills.at(sequence) is not None:
        return False
    traveller.pages.put(sequence, _pieces(sections, "pages/"))
    for unit, layers in enumerate(traveller.chunks):
        layers.put(sequence, _pieces(sections, f"disk/{unit}/"))
    timeline.stills.add(sequence, clock, Still(sequence, state))
    return True


def _pieces(sections: dict[str, bytes], prefix: str) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for name, data in sections.items():
        if not name.startswith(prefix):
            continue
        (count,) = COUNT.unpack_from(data)
        at = COUNT.size + count * PIECE.size
        for number, length in PIECE.iter_unpack(data[COUNT.size : at]):
            found[number] = data[at : at + length]
            at += length
    return found
