# SPDX-License-Identifier: GPL-2.0-or-later
"""`Session`: one debugger's requests, answered from a timeline. Payload in, payload out; no sockets here.

    what GDB asks            how it is done
    ? g p m                  looked up; nothing changes
    s c vCont bs bc          the timeline steps or runs, forwards or backwards (bs, bc: reverse-stepi, reverse-continue)
    Z0 Z1                    breakpoints, at virtual addresses in any address space
    Z2 Z3 Z4                 watched memory: by the physical page that the address meant when it was first asked for
    G P M X                  refused: what has been recorded cannot be changed
    qRcmd                    `monitor` commands: monitor.py
    qXfer:exec-file vFile    the guest's symbols, for a GDB that was given no file: files.py

A stop is told with its reason; at either end of the recording that is `replaylog`, which GDB knows to say as such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from replay.divergence import Divergence
from replay.gdb.files import Files
from replay.gdb.monitor import Monitor
from replay.gdb.packet import PACKET_MAX, number
from replay.gdb.registers import BY_NUMBER, GENERAL, target_xml
from replay.places import Places
from replay.timeline import Stop, Timeline, Why

READ_MAX: Final = PACKET_MAX // 2 - 16
READ_ONLY: Final = b"E.a recording cannot be changed"
UNMAPPED: Final = b"E14"
NOT_UNDERSTOOD: Final = b""
OK: Final = b"OK"
_WATCH_ACCESS: Final = {2: 2, 3: 1, 4: 3}  # Z type: accesses, as the timeline counts them
_WATCH_NAMES: Final = {2: "watch", 3: "rwatch", 4: "awatch"}


class Target(Protocol):
    """The machine and its timeline, as a debugger asks for them."""

    timeline: Timeline[Any, Any]
    places: Places

    @property
    def symbol_file(self) -> bytes: ...

    def registers(self) -> Mapping[str, int]: ...

    def read(self, address: int, length: int, *, physical: bool = False) -> bytes: ...

    def to_physical(self, address: int) -> int | None: ...

    def monitor(self, words: list[str]) -> str | None: ...


class Session:
    """One connection's state: breakpoints, watched memory, and how addresses are meant."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.timeline = target.timeline
        self.monitor = Monitor(target)
        self.acks = True
        self.ended = False
        self.talking = False
        self._physical = False
        self._breakpoints: dict[int, set[int]] = {}  # address: kinds, of Z0 and Z1
        self._files: Files | None = None
        self._told_kind = {0: "", 1: ""}  # of a breakpoint that stops the guest, when GDB wants to hear it
        self._watched: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
        self._meant: dict[int, int] = {}  # virtual page: physical page, when it was first watched
        self._stopped = b"T05thread:01;"

    def close(self) -> None:
        """Nothing of this session is left to slow the next one."""
        self.timeline.set_breakpoints(())
        self.timeline.set_watched(())

    def handle(self, payload: bytes) -> bytes:
        """The reply to a packet."""
        text = payload.decode("latin-1")
        for start, handler in _HANDLERS:
            if text.startswith(start):
                try:
                    return handler(self, text[len(start) :])
                except (ValueError, IndexError):
                    return b"E22"
        return NOT_UNDERSTOOD

    # -- looking ------------------------------------------------------------------------------------------------------

    def _why(self, _: str) -> bytes:
        return self._stopped

    def _general(self, _: str) -> bytes:
        values = self.target.registers()
        return "".join(register.of(values).hex() for register in GENERAL).encode()

    def _register(self, rest: str) -> bytes:
        register = BY_NUMBER.get(number(rest))
        return b"E45" if register is None else register.of(self.target.registers()).hex().encode()

    def _memory(self, rest: str) -> bytes:
        address, length = map(number, rest.split(","))
        found = self.target.read(address, min(length, READ_MAX), physical=self._physical)
        return found.hex().encode() if found or not length else UNMAPPED

    def _refuse(self, _: str) -> bytes:
        return READ_ONLY

    # -- moving -------------------------------------------------------------------------------------------------------

    def _step(self, _: str) -> bytes:
        return self._moving(lambda: None if self.timeline.step() else "replaylog:end")

    def _step_back(self, _: str) -> bytes:
        return self._moving(lambda: None if self.timeline.step_back() else "replaylog:begin")

    def _continue(self, _: str) -> bytes:
        return self._moving(lambda: self._reason(self.timeline.run(behind=False), "end"))

    def _continue_back(self, _: str) -> bytes:
        """GDB takes it that this architecture stops before an access, and steps over it by itself, backwards too."""
        return self._moving(lambda: self._reason(self._run_back(), "begin"))

    def _run_back(self) -> Stop[Any]:
        stop = self.timeline.run_back()
        if stop.why == Why.WATCH:
            self.timeline.step()
        return stop

    def _resume(self, rest: str) -> bytes:
        """vCont: there is one thread, so the first action counts."""
        action = rest.split(";")[0].split(":")[0]
        if action[:1] in ("c", "C"):
            return self._continue("")
        if action[:1] in ("s", "S"):
            return self._step("")
        if action[:1] == "r":
            start, end = map(number, action[1:].split(","))
            return self._moving(lambda: self._step_through(start, end))
        return b"E22"

    def _step_through(self, start: int, end: int) -> str | None:
        """Range stepping: until pc leaves the range, or a breakpoint stops it."""
        while self.timeline.step():
            pc = self.target.registers()["pc"]
            if not start <= pc < end:
                return None
            if pc in self._breakpoints:
                return self._breakpoint_words()
            if self.timeline.interrupted():
                return None
        return "replaylog:end"

    def _reason(self, stop: Stop[Any], edge: str) -> str | None:
        if stop.why == Why.EDGE:
            return f"replaylog:{edge}"
        if stop.why == Why.BREAKPOINT:
            return self._breakpoint_words()
        if stop.why == Why.WATCH and stop.hit is not None:
            return self._watch_words(stop.hit.address)
        return None

    def _breakpoint_words(self) -> str:
        kinds = self._breakpoints.get(self.target.registers()["pc"], {0})
        return self._told_kind[min(kinds)]

    def _watch_words(self, physical: int) -> str:
        """Which of the watched places this was, by the address it was asked for with."""
        for (kind, address, length), ranges in self._watched.items():
            if any(first - 8 < physical < first + size for first, size, _ in ranges):
                offset = max(0, min(physical - ranges[0][0], length - 1))
                return f"{_WATCH_NAMES[kind]}:{address + offset:x}"
        return ""

    def _moving(self, move: Callable[[], str | None]) -> bytes:
        self.timeline.set_breakpoints(sorted(self._breakpoints))
        self.timeline.set_watched([each for ranges in self._watched.values() for each in ranges])
        try:
            reason = move()
        except Divergence as divergence:
            self.monitor.notice = str(divergence)
            reason = "replaylog:end"
        signal = "02" if self.timeline.interrupted() else "05"
        self._stopped = f"T{signal}thread:01;{reason + ';' if reason else ''}".encode()
        return self._stopped

    # -- breakpoints --------------------------------------------------------------------------------------------------

    def _insert(self, rest: str) -> bytes:
        kind, address, length = _place(rest)
        if kind in (0, 1):
            self._breakpoints.setdefault(address, set()).add(kind)
            return OK
        if kind not in _WATCH_ACCESS or not 0 < length <= 4096:
            return NOT_UNDERSTOOD
        ranges = self._ranges(kind, address, length)
        if ranges is None:
            return UNMAPPED
        self._watched[kind, address, length] = ranges
        return OK

    def _remove(self, rest: str) -> bytes:
        kind, address, length = _place(rest)
        if kind in (0, 1):
            kinds = self._breakpoints.get(address, set())
            kinds.discard(kind)
            if not kinds:
                self._breakpoints.pop(address, None)
        else:
            self._watched.pop((kind, address, length), None)
        return OK

    def _ranges(self, kind: int, address: int, length: int) -> list[tuple[int, int, int]] | None:
        """The physical ranges behind a virtual one: one for each page."""
        ranges = []
        while length:
            part = min(length, 4096 - address % 4096)
            physical = address if self._physical else self._page_meant(address)
            if physical is None:
                return None
            ranges.append((physical, part, _WATCH_ACCESS[kind]))
            address, length = address + part, length - part
        return ranges

    def _page_meant(self, address: int) -> int | None:
        """GDB takes its watchpoints out at each stop and puts them in again, be it in another address space."""
        page = address // 4096
        if page not in self._meant:
            physical = self.target.to_physical(address)
            if physical is None:
                return None
            self._meant[page] = physical // 4096
        return self._meant[page] * 4096 + address % 4096

    # -- talk ---------------------------------------------------------------------------------------------------------

    def _supported(self, rest: str) -> bytes:
        """GDB says what it understands: a stop is only told with reasons that it knows."""
        theirs = rest.lstrip(":").split(";")
        self._told_kind = {
            kind: f"{name}:" if f"{name}+" in theirs else "" for kind, name in enumerate(("swbreak", "hwbreak"))
        }
        file = "qXfer:exec-file:read+;" if self.target.symbol_file else ""
        return (
            f"PacketSize={PACKET_MAX:x};qXfer:features:read+;{file}ReverseStep+;ReverseContinue+;swbreak+;hwbreak+;"
            "vContSupported+;QStartNoAckMode+"
        ).encode()

    def _executable(self, rest: str) -> bytes:
        return self.files.name_part(rest.partition(":")[2])

    def _file(self, rest: str) -> bytes:
        return self.files.handle(rest)

    @property
    def files(self) -> Files:
        """What can be fetched from here."""
        self._files = self._files or Files(self.target.symbol_file, READ_MAX)
        return self._files

    def _features(self, rest: str) -> bytes:
        name, _, span = rest.partition(":")
        if name != "target.xml":
            return b"E00"
        start, length = map(number, span.split(","))
        text = target_xml()
        part = text[start : start + min(length, READ_MAX)]
        return ("m" if start + len(part) < len(text) else "l").encode() + part.encode()

    def _no_acks(self, _: str) -> bytes:
        self.acks = False
        return OK

    def _command(self, rest: str) -> bytes:
        """In the middle of this, and only then, may the server send words of its own (`talking`), so that GDB waits."""
        self.talking = True
        try:
            said = self.monitor.run(bytes.fromhex(rest).decode("utf-8", "replace"))
        finally:
            self.talking = False
        return said.encode()[:READ_MAX].hex().encode() or OK

    def _physical_mode(self, rest: str) -> bytes:
        self._physical = rest == "1"
        return OK

    def _tell_physical_mode(self, _: str) -> bytes:
        return b"1" if self._physical else b"0"

    def _detach(self, _: str) -> bytes:
        self.ended = True
        return OK


def _place(rest: str) -> tuple[int, int, int]:
    """`type,address,length`, with conditions behind it that are ignored."""
    kind, address, length = rest.split(";")[0].split(",")[:3]
    return number(kind), number(address), number(length)


def _always(reply: bytes) -> Callable[[Session, str], bytes]:
    return lambda session, rest: reply


_HANDLERS: Final[tuple[tuple[str, Callable[[Session, str], bytes]], ...]] = (
    ("qSupported", Session._supported),
    ("qXfer:features:read:", Session._features),
    ("qXfer:exec-file:read:", Session._executable),
    ("vFile:", Session._file),
    ("QStartNoAckMode", Session._no_acks),
    ("qRcmd,", Session._command),
    ("qAttached", _always(b"1")),
    ("qfThreadInfo", _always(b"m01")),
    ("qsThreadInfo", _always(b"l")),
    ("qThreadExtraInfo", _always(b"hart 0".hex().encode())),
    ("qC", _always(b"QC01")),
    ("Qqemu.PhyMemMode:", Session._physical_mode),
    ("qqemu.PhyMemMode", Session._tell_physical_mode),
    ("vCont?", _always(b"vCont;c;C;s;S;r")),
    ("vCont;", Session._resume),
    ("vKill", Session._detach),
    ("?", Session._why),
    ("g", Session._general),
    ("p", Session._register),
    ("m", Session._memory),
    ("bs", Session._step_back),
    ("bc", Session._continue_back),
    ("s", Session._step),
    ("S", Session._step),
    ("c", Session._continue),
    ("C", Session._continue),
    ("Z", Session._insert),
    ("z", Session._remove),
    ("H", _always(OK)),
    ("T", _always(OK)),
    ("D", Session._detach),
    ("k", Session._detach),
    ("G", Session._refuse),
    ("P", Session._refuse),
    ("M", Session._refuse),
    ("X", Session._refuse),
)
