# SPDX-License-Identifier: GPL-2.0-or-later
"""Does a saved state have the form that this machine's own has? Asked before any of it is taken over.

The own state is the pattern: the same keys, the same types, and lists whose items look like the pattern's (item by item
when they are equally long, else like its first). Where the pattern's list is empty, anything may be in it: what reads
it has to look. Values are not judged here either, devices judge those that they would trip over; but numbers are
below 2**62, so that nothing that counts ever outgrows 64 bits, except under names that stand for something else.
"""

from __future__ import annotations

from typing import Any, Final

NUMBER_MAX: Final = 1 << 62
WIDE: Final = frozenset({"dma", "digest", "features", "queues", "alarm", "held", "backlog", "in_driver"})


def check_form(pattern: Any, state: Any, path: str, wide: bool = False) -> None:
    """ValueError that names the place, if `state` differs in form from `pattern`."""
    if type(pattern) is not type(state):
        raise ValueError(f"{path} is {type(state).__name__}, not {type(pattern).__name__}")
    if isinstance(pattern, int) and not wide and not -NUMBER_MAX < state < NUMBER_MAX:
        raise ValueError(f"{path} is {state}, which nothing here ever is")
    if isinstance(pattern, dict):
        if pattern.keys() != state.keys():
            names = ", ".join(sorted(str(name)[:40] for name in pattern.keys() ^ state.keys()))
            raise ValueError(f"{path}: only one of the two machines has {names}")
        for name, part in pattern.items():
            check_form(part, state[name], f"{path}.{name}", wide or name in WIDE)
    elif isinstance(pattern, list) and pattern:
        patterns = pattern if len(pattern) == len(state) else [pattern[0]] * len(state)
        for index, (part, item) in enumerate(zip(patterns, state, strict=True)):
            check_form(part, item, f"{path}[{index}]", wide)
