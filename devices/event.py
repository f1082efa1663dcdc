# SPDX-License-Identifier: GPL-2.0-or-later
"""Events in, outputs out: the only two things that cross the edge of the deterministic machine.

An `Event` is one nondeterministic input (design: "One nondeterministic input: a packet received, console input,
client request bytes, entropy, a power button"). An `Output` is one externally visible effect. Both are plain
triples of small integers and bytes, so that the log can carry them without knowing what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class EventKind(IntEnum):
    """What an event's bytes mean, and which device `unit` counts."""

    CONSOLE_INPUT = 1  # bytes typed at the UART
    PACKET = 2  # one packet (devices.virtio.offload) for network device `unit`
    ENTROPY = 3  # random bytes for the entropy device's pool
    BLOCK_REQUEST = 4  # one whole request of a block client
    BLOCK_CLOSE = 5  # a block client's connection has ended
    CONTROL = 6  # power button, stop, reset, configuration
    LINK = 7  # of network device `unit`: LINK_UP, LINK_DOWN or LINK_MOVED


LINK_DOWN, LINK_UP = b"\0", b"\1"
LINK_MOVED = b"\2"  # the guest is somewhere else in the network now, which it may want to announce


@dataclass(frozen=True, slots=True)
class Event:
    """One nondeterministic input; `unit` says which device of that kind."""

    kind: int
    unit: int
    data: bytes


class OutputKind(IntEnum):
    """What an output's bytes mean."""

    CONSOLE = 1  # bytes written to the console stream
    PACKET = 2  # one packet (devices.virtio.offload) sent by network device `unit`
    BLOCK_REPLY = 3  # the reply to one block request
    PORT = 4  # bytes written to virtio-console port `unit`
    NOTICE = 5  # something an operator should read, e.g. a restart of the driver


@dataclass(frozen=True, slots=True)
class Output:
    """One externally visible effect.

    `offset` is the stream's cumulative byte offset (CONSOLE, PORT) or the journal number (BLOCK_REPLY), so that a
    sink can tell a repeated output. `durable` outputs leave only after the disks are synced up to their entry.
    """

    kind: int
    unit: int
    data: bytes
    offset: int = 0
    durable: bool = False
