# SPDX-License-Identifier: GPL-2.0-or-later
"""All targets by name."""

from __future__ import annotations

from tests.fuzz import clients, contents, debugger, files, logs, machine_state, rings, wire
from tests.fuzz.engine import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for group in (wire, logs, files, clients, rings, machine_state, debugger, contents)
    for target in group.TARGETS
}
