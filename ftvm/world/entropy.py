# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's randomness, handed to the guest as events: asked for once, then the same on every replica and replay."""

from __future__ import annotations

import os

from devices.event import Event, EventKind

ONCE_MAX = 4096  # a guest that wants more asks again; the log carries every byte of it


def host_entropy(count: int) -> bytes:
    """`count` random bytes, at most ONCE_MAX."""
    return os.urandom(min(count, ONCE_MAX))


def entropy_events(wanted: int) -> list[Event]:
    """What to put into the next entry when the entropy device waits for `wanted` bytes."""
    return [Event(EventKind.ENTROPY, 0, host_entropy(wanted))] if wanted > 0 else []
