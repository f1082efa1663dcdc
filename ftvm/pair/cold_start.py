# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting a pair when neither side runs: whose images are the newest, by the arbiter and the notes beside them."""

from __future__ import annotations

from ftvm.arbiter.file import FileArbiter
from ftvm.config import MachineConfig
from ftvm.disk.choose import choose
from ftvm.disk.errors import ColdStartRefused
from ftvm.disk.metadata import read_metadata
from ftvm.state_dir import SIDES, StateDir


def arbiter_of(config: MachineConfig, state: StateDir) -> FileArbiter:
    """The pair's arbiter."""
    return FileArbiter(state.resolve(config.pair.arbiter.argument), config.name)


def newest(config: MachineConfig, state: StateDir) -> tuple[str | None, int]:
    """The side whose images are the newest (None: the pair is new), and the arbiter's last term, which says so.

    ColdStartRefused, in words, when the newest images cannot be known. Whoever starts on this knowledge asks for the
    term right after that one: if another side takes it meanwhile, the knowledge is old.
    """
    arbiter = arbiter_of(config, state)
    notes = {side: read_metadata(state.side(side)) for side in SIDES}
    if all(note is None for note in notes.values()):
        arbiter.prepare()
    grants = arbiter.history()
    return choose(grants, notes, config.name), max((grant.term for grant in grants), default=0)


def first_primary(config: MachineConfig, state: StateDir) -> str:
    """The side to start first. ColdStartRefused, in words, when the newest images cannot be known."""
    return newest(config, state)[0] or SIDES[0]


def last_term_for(member: str, config: MachineConfig, state: StateDir) -> int:
    """The arbiter's last term, when `member` may be the next primary; ColdStartRefused when the other side must."""
    side, term = newest(config, state)
    if side is not None and side != member:
        raise ColdStartRefused(
            f"side {side}'s images are newer than side {member}'s: start the pair with `ftvm primary --member {side}`, "
            f"then let side {member} join it with `ftvm backup --member {member} --join ADDRESS`"
        )
    return term
