# SPDX-License-Identifier: GPL-2.0-or-later
"""What a debugger may send: packets of GDB's protocol; and a whole connection, with a recorded guest behind it.

A case is the bytes of one connection, cut into pieces by its first byte. For every case the guest is taken back to the
recording's beginning; afterwards it must be where it says, with the registers that a fresh look at that place shows,
and the recording must not have changed. A run ends at the latest when the connection does.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from ftvm.debugger import Debugger
from replay.gdb.packet import ACK, INTERRUPT, NAK, PACKET_MAX, PacketReader, ProtocolError, frame
from replay.gdb.server import Connection
from replay.gdb.session import Session
from tests.fuzz.engine import Target
from tests.travel.recorded import record_timer

EPOCHS = 6
PIECES = (1, 3, 17, 200, 1 << 16)
CHECK_EVERY = 16

# -- packets ------------------------------------------------------------------------------------------------------


def check_packets(data: bytes) -> None:
    """The same items whatever the pieces; a payload survives being framed again."""
    found: list[object] = []
    for size in (len(data) or 1, 1 + len(data) % 7):
        reader, items = PacketReader(), []
        try:
            for at in range(0, len(data), size):
                items += reader.feed(data[at : at + size])
        except ProtocolError as error:
            assert str(error)
            items.append((b"", False))
        found.append(items)
        for item, is_packet in items:
            assert is_packet or item in (ACK, NAK, INTERRUPT, b"")
            assert len(item) <= PACKET_MAX
            if is_packet and item != NAK:
                assert PacketReader().feed(frame(item)) == [(item, True)]
    whole, pieces = found
    assert isinstance(whole, list) and isinstance(pieces, list)
    if (b"", False) not in whole + pieces:
        assert whole == pieces


# -- a session ----------------------------------------------------------------------------------------------------

COMMANDS = [
    "when", "where", "refresh", "events 3", "checkpoints", "digest", "last-write $sp 8", "last-write 0x80200000 4",
    "help", "seek end", "seek 3:200100", "seek +100", "seek entry 2", "seek 1ms", "seek output console -1",
    "seek next event",
]  # fmt: skip
ASKED = [
    "qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+", "?", "g", "p20", "p1041", "m80200000,40", "qC", "Hg0",
    "vCont?", "vCont;c", "vCont;s:1", "vCont;r80200000,80200040:1", "c", "s", "bc", "bs", "Z0,80200004,4",
    "z0,80200004,4", "Z1,80200010,2", "Z2,80206000,8", "Z3,80206008,4", "Z4,80206000,1", "z2,80206000,8",
    "Qqemu.PhyMemMode:1",
    "qqemu.PhyMemMode", "qXfer:features:read:target.xml:0,ffb", "qXfer:exec-file:read:1:0,100", "vFile:setfs:0",
    "vFile:open:2f6775657374,0,0", "vFile:fstat:3", "vFile:pread:3,1000,0", "vFile:close:3", "G00", "P5=00",
    "M80200000,1:00", "X80200000,0:", "D", "k", "vKill;1", "vMustReplyEmpty", "QStartNoAckMode", "T1", "qfThreadInfo",
    *(f"qRcmd,{command.encode().hex()}" for command in COMMANDS),
]  # fmt: skip


def session_samples() -> list[bytes]:
    rows = [ASKED[n : n + 6] for n in range(0, len(ASKED), 6)]
    rows += [["Z0,8020010c,4", "c", "bs", "bc"], ["c", "bc", "?"], ["Z2,80206000,40", "c", "c", "bc"]]
    return [bytes([4]) + b"+".join(frame(packet.encode()) for packet in row) for row in rows] + [
        bytes([64]) + frame(b"c") + b"\3" + frame(b"s"),
        bytes([65]) + frame(b"s") + frame(b"c") + b"\3+\3" + frame(b"bc"),
    ]


class Wire:
    """The debugger's end of a connection, as the server sees it. Eager ones send while the guest still runs."""

    def __init__(self, data: bytes) -> None:
        size = PIECES[data[0] % len(PIECES)] if data else 1
        self._pieces = [data[at : at + size] for at in range(1, len(data), size)][::-1]
        self._ready = _event(int(bool(data and data[0] & 64)))
        self.sent = 0

    def setsockopt(self, *_: object) -> None: ...

    def fileno(self) -> int:
        return self._ready

    def recv(self, _: int) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    def sendall(self, data: bytes) -> None:
        self.sent += len(data)


@cache
def _event(ready: int) -> int:
    return os.eventfd(ready)


class Recorded:
    """The recording and its debugger, made once a process."""

    def __init__(self) -> None:
        directory = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        self.log = record_timer(directory / "timer.log", EPOCHS)
        self.content = self.log.read_bytes()
        self.debugger, self.fresh = Debugger.open(self.log), Debugger.open(self.log)
        self.cases = 0


@cache
def recorded() -> Recorded:
    return Recorded()


def check_session(data: bytes) -> None:
    """One connection, from its first byte to its end."""
    there = recorded()
    debugger = there.debugger
    timeline = debugger.timeline
    timeline.seek(timeline.start)
    wire: Any = Wire(data)
    words = Connection(wire, debugger).serve()
    assert not words or words.startswith(": ")
    assert Session(debugger).handle(b"?").startswith(b"T05")
    there.cases += 1
    if there.cases % CHECK_EVERY:
        return
    place = timeline.position
    assert there.fresh.timeline.seek(place) == place
    assert there.fresh.registers() == debugger.registers()
    assert there.fresh.hart.ram == debugger.hart.ram
    assert there.log.read_bytes() == there.content, "the recording has changed"
    assert {path.name for path in there.log.parent.iterdir()} == {there.log.name}, "something was written beside it"


WORDS = (
    tuple(f"{packet}".encode() for packet in ASKED) + tuple(frame(packet.encode()) for packet in ASKED) + (INTERRUPT,)
)

TARGETS = [
    Target("rsp-packets", session_samples, check_packets, words=WORDS),
    Target("rsp", session_samples, check_session, seconds_max=20.0, words=WORDS, risky=True),
]
