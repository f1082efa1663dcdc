# SPDX-License-Identifier: GPL-2.0-or-later
"""One machine alone in a state directory, in the process of the command that was called: `ftvm run`, and forks."""

from __future__ import annotations

from pathlib import Path

from ftvm.checkpointing import SIZE_MAX
from ftvm.config import MachineConfig
from ftvm.pair.cold_start import newest
from ftvm.pair.foreground import run_foreground
from ftvm.pair.services import open_services
from ftvm.pair.side import Options, Origin
from ftvm.say import Say
from ftvm.state_dir import SIDES, StateDir


def run_alone(
    state: StateDir,
    config: MachineConfig,
    say: Say,
    *,
    record: Path | None,
    checkpoints: int = SIZE_MAX,
    origin: Origin | None = None,
) -> int:
    """Run the side whose images are the newest, until it ends; the exit code. Raises what a command tells in words."""
    lock = state.lock()
    try:
        found, last_term = newest(config, state)
        member = found or SIDES[0]
        others = [state.lock_side(side) for side in SIDES if side != member]
        options = Options(
            member,
            services=open_services(config, state),
            record=record.absolute() if record is not None else None,
            checkpoints=checkpoints,
            open_at_once=True,
            alone=True,
            last_term=last_term,
            origin=origin,
        )
        code = run_foreground(state, config, options, say)
        for other in others:
            other.release()
        return code
    finally:
        lock.release()
