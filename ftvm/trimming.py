# SPDX-License-Identifier: GPL-2.0-or-later
"""A part of a recording as a recording of its own: it starts with the machine and its disks as they were.

    recording   entry entry | entry [from] ... entry [to] entry | entry ...
    trimmed     state, disks, entry        ...            entry

Entries are whole: the part begins behind the last entry that ends at `from` or before it, and ends behind the first one
that ends at `to` or behind it. It needs nothing of its parent but the images, and names it in its header's notes.
Checkpoints in between come along: what they hold has changed since a place before the beginning, or later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ftvm.checkpoints import belonging
from ftvm.debugger import Debugger
from ftvm.packing import pack
from ftvm.scratch_disk import pack_disks
from replay.checkpoint_file import path_of
from replay.checkpoint_writer import CheckpointWriter
from replay.errors import LogError
from replay.log_writer import LogWriter
from replay.position import Position


def trim(
    debugger: Debugger, since: Position, until: Position, out: Path, progress: Callable[[int], None]
) -> tuple[int, int]:
    """Write `out`; the first and the last of its entries. LogError: it exists, or nothing is between the two.

    A part of a pack is a pack.
    """
    if debugger.images is None:
        return _trim(debugger, since, until, out, progress)
    if out.exists():
        raise LogError(f"{out} exists: remove it, or write to another file")
    loose = out.with_name(out.name + ".part-log")
    loose.unlink(missing_ok=True)
    try:
        found = _trim(debugger, since, until, loose, progress)
        pack(loose, out, images=debugger.images)
    finally:
        loose.unlink(missing_ok=True)
        path_of(loose).unlink(missing_ok=True)
    return found


def _trim(
    debugger: Debugger, since: Position, until: Position, out: Path, progress: Callable[[int], None]
) -> tuple[int, int]:
    timeline = debugger.timeline
    base, last = _behind(debugger, since), min(until.sequence, timeline.entries.last)
    if last <= base:
        raise LogError(f"{out}: nothing to write: no entry between {since} and {until}")
    debugger.tell_progress(progress)
    timeline.seek(timeline.behind(base))
    header = debugger.reader.header
    header = replace(header, notes={**header.notes, **debugger.parentage(timeline.position)})
    writer = LogWriter(out, header)
    try:
        with writer:
            sections = [*(debugger.machine.save() if base else ()), *pack_disks(debugger.disks)]
            if sections:
                writer.write_state(base, sections)
            for entry, result in timeline.entries.since(base + 1):
                if entry.sequence > last:
                    break
                writer.append(entry, result, 0.0)
        _trim_checkpoints(debugger, base, last, out)
    except BaseException:
        out.unlink(missing_ok=True)
        path_of(out).unlink(missing_ok=True)
        raise
    return base + 1, last


def _behind(debugger: Debugger, place: Position) -> int:
    """The last entry that has ended there."""
    entries = debugger.timeline.entries
    if place.sequence <= entries.base or place >= debugger.timeline.end:
        return min(max(place.sequence, entries.base), entries.last)
    return place.sequence if entries[place.sequence][1].clock <= place.clock else place.sequence - 1


def _trim_checkpoints(debugger: Debugger, base: int, last: int, out: Path) -> None:
    file = debugger.checkpoints
    if file is None:
        return
    inside = [each for each in belonging(file, debugger.timeline.entries) if base < each.mark.sequence <= last]
    if inside:
        writer = CheckpointWriter(path_of(out), debugger.reader.header)
        for checkpoint in inside:
            writer.copy(file, checkpoint)
        writer.close()
