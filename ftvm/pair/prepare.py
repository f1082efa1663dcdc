# SPDX-License-Identifier: GPL-2.0-or-later
"""A state directory made ready for a machine file."""

from __future__ import annotations

from pathlib import Path

from ftvm.config import MachineConfig, load
from ftvm.config_error import ConfigError
from ftvm.config_text import to_toml
from ftvm.state_dir import StateDir, default_path


def prepare(config: MachineConfig, state_dir: Path | None, foreground: bool = False) -> tuple[StateDir, MachineConfig]:
    """The state directory, and the configuration as kept there; ConfigError when the pair in it is another one.

    A side that runs in the `foreground` may have its console on the terminal.
    """
    state = StateDir(state_dir if state_dir is not None else default_path(config.name))
    state.create()
    settled = config.settled(state.path)
    if settled.console.backend.kind == "stdio" and not foreground:
        raise ConfigError(
            f'{config.name}: console.backend: "stdio" is for `ftvm run`; the sides of a pair have no terminal: '
            'write "unix:console.sock" and attach to it, or "file:console.log"'
        )
    if state.machine.exists():
        kept = load(state.machine)
        if kept.agreed() != settled.agreed():
            raise ConfigError(
                f"{state.path} holds a pair with another configuration than {config.name}'s machine file: "
                "use another --state-dir, or remove that directory with its disk images"
            )
    state.keep_machine(to_toml(settled))
    return state, load(state.machine)
