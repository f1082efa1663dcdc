# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm replay LOG --at POS --live`: the recorded machine goes on from a place of its past, with new inputs."""

from __future__ import annotations

from pathlib import Path

from ftvm.config import MachineConfig
from ftvm.debugger import Debugger
from ftvm.fork import copy_disks, copy_images, fork_config, free_name, new_state_dir, origin_at
from ftvm.pair.alone import run_alone
from ftvm.pair.prepare import prepare
from ftvm.pair.side import Origin
from ftvm.say import Say
from ftvm.state_dir import StateDir
from replay.errors import LogError


def go_live(
    say: Say, log: Path, at: str, machine: Path | None, record: Path | None, state_dir: Path | None, terminal: bool
) -> int:
    """Run the fork until it ends; the exit code. Raises what a command tells in words."""
    record = free_name(log) if record is None else record
    if record.exists():
        raise LogError(f"{record}: exists; a fork's recording is a new one: give another --record")
    state = new_state_dir(state_dir or record.with_name(f"{record.name}.state"))
    with Debugger.open(log, machine) as debugger:
        origin, config = _take(say, debugger, at, state, terminal)
    say.info(f"live from {origin.notes['parent position']} of {log}; recording to {record}, state in {state.path}")
    state, config = prepare(config, state.path, foreground=True)
    return run_alone(state, config, say, record=record, origin=origin)


def _take(say: Say, debugger: Debugger, at: str, state: StateDir, terminal: bool) -> tuple[Origin, MachineConfig]:
    timeline = debugger.timeline
    try:
        place = debugger.places.parse(at)
    except ValueError as error:
        raise LogError(f"--at {at}: {error}") from None
    with say.progress(f"going to {place}", timeline.entries.base + len(timeline.entries)) as display:
        debugger.tell_progress(display.advance)
        origin = origin_at(debugger, place)
    state.create()
    copy_disks(debugger.disks, state)
    config = fork_config(debugger.machine.config, terminal=terminal)
    if debugger.images is not None:
        config = copy_images(config, debugger.images, state)
    return origin, config
