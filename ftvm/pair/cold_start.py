# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a pair when neither side runs: whose images are the newest, by the arbiter and the notes beside them."""

from __future__ import annotations

from ftvm.arbiter.file import FileArbiter
from ftvm.config import MachineConfig
from ftvm.disk.choose import choose
from ftvm.disk.metadata import read_metadata
from ftvm.state_dir import SIDES, StateDir


def arbiter_of(config: MachineConfig, state: StateDir) -> FileArbiter:
    """The pair's arbiter."""
    return FileArbiter(state.resolve(config.pair.arbiter.argument), config.name)


def first_primary(config: MachineConfig, state: StateDir) -> str:
    """The side to start first. ColdStartRefused, in words, when the newest images cannot be known."""
    arbiter = arbiter_of(config, state)
    notes = {side: read_metadata(state.side(side)) for side in SIDES}
    if all(note is None for note in notes.values()):
        arbiter.prepare()
    newest = choose(arbiter.grants(), notes, config.name)
    return newest or SIDES[0]
