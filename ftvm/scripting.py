# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python interface to recordings: all names that a script needs, from one place.

    Recording   a log: header, statistics, epochs, inputs; outputs and interrupts by a replay
    Debugger    a recorded machine at any position: registers, memory, who wrote that
    Timeline    `Debugger.timeline`: seek, step and run, forwards and backwards
    Position    ENTRY:CLOCK, a place exact to the instruction

`docs/guides/scripting.md` shows them at work. They stay what they are within a major version; the modules that they
come from may change.
"""

from __future__ import annotations

from ftvm.config_error import ConfigError
from ftvm.debugger import Debugger
from ftvm.image import ImageError
from ftvm.records.content import (
    BlockClose,
    BlockReply,
    BlockRequest,
    ConsoleText,
    Content,
    Control,
    Entropy,
    Link,
    Notice,
    Packet,
    PortText,
    Unknown,
)
from ftvm.records.frame import Arp, Frame, Icmp, Ip, Tcp, Udp, decode_frame
from ftvm.records.happening import DiskRequest, Epoch, Happening, Input, Interrupt, Output, ReplayedEpoch
from ftvm.records.printable import printable
from ftvm.records.recording import Recording
from ftvm.records.replayed import Replay
from replay.divergence import Divergence
from replay.errors import LogDamaged, LogError
from replay.header import LogHeader
from replay.inspect import LogStat, Verdict
from replay.position import Position, parse_position
from replay.timeline import Stop, Timeline, Why

__all__ = [
    "Arp", "BlockClose", "BlockReply", "BlockRequest", "ConfigError", "ConsoleText", "Content", "Control", "Debugger",
    "DiskRequest", "Divergence", "Entropy", "Epoch", "Frame", "Happening", "Icmp", "ImageError", "Input", "Interrupt",
    "Ip", "Link", "LogDamaged", "LogError", "LogHeader", "LogStat", "Notice", "Output", "Packet", "PortText",
    "Position", "Recording", "Replay", "ReplayedEpoch", "Stop", "Tcp", "Timeline", "Udp", "Unknown", "Verdict", "Why",
    "decode_frame", "parse_position", "printable",
]  # fmt: skip
