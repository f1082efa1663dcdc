# SPDX-License-Identifier: GPL-2.0-or-later
"""`ftvm replay LOG --at POS --live`: the recorded machine goes on from a place of its past, with new inputs."""

from __future__ import annotations

from pathlib import Path

from ftvm.config import MachineConfig
from ftvm.debugger import Debugger
from ftvm.fork import copy_disks, copy_images, fork_config, free_name, new_state_dir, origin_at
from ftvm.pair.cold_start import newest
from ftvm.pair.foreground import run_foreground
from ftvm.pair.prepare import prepare
from ftvm.pair.services import open_services
from ftvm.pair.side import Options, Origin
from ftvm.say import Say
from ftvm.state_dir import SIDES, StateDir
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
    return _run(say, state, config, origin, record)


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


def _run(say: Say, state: StateDir, config: MachineConfig, origin: Origin, record: Path) -> int:
    lock = state.lock()
    try:
        state, config = prepare(config, state.path, foreground=True)
        _, last_term = newest(config, state)
        options = Options(
            SIDES[0],
            services=open_services(config, state),
            record=record.absolute(),
            open_at_once=True,
            alone=True,
            last_term=last_term,
            origin=origin,
        )
        return run_foreground(state, config, options, say)
    finally:
        lock.release()
