# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as a trace for Perfetto (ui.perfetto.dev, and its trace processor): tracks over guest time.

    the guest, a process
      epochs          a slice each, with its entry, clock and digest; where there is none, the guest idled
      interrupts      an instant each                                      only by a replay
      network N       an instant for each packet, in and out               out: only by a replay
      block requests  a slice each, from the request to its reply          without a replay: an instant
      disk N          an instant for each request of the driver            only by a replay
      console         an instant for each line that the guest wrote        only by a replay
      events          whatever else came in, and notices
      speed           a counter: bytes of code in a microsecond of guest time
      requests without reply, lag ms, entries not acknowledged             counters; lag: only from a pair's status

Times are guest time, from the guest's start. It streams: each packet of the trace is written as it comes up, in the
order of guest time. Requests that are under way at the same time have lanes of their own, which Perfetto shows as one
track.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackDescriptor, TrackEvent
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

from devices.event import OutputKind
from ftvm.records.content import BlockReply, BlockRequest, Packet
from ftvm.records.happening import DiskRequest, Epoch, Happening, Interrupt, Moved, Output, ReplayedEpoch
from ftvm.records.lag import Sample
from ftvm.records.query import ConsoleLines

NS_PER_TICK: Final = 100
TIME_MAX: Final = (1 << 63) - 1  # what a log that was made up may pass
SEQUENCE_ID: Final = 1
GUEST: Final = 1  # uuid of the guest's track, and its process id
PLACE: Final = "position"  # the name under which each slice tells where to seek to

Arguments = Mapping[str, int | str]


class TraceWriter:
    """Give it the epochs in order, then `close`."""

    def __init__(self, file: BinaryIO, name: str, *, lag: Sequence[Sample] = ()) -> None:
        self._builder = StreamingTraceProtoBuilder(file)
        self._lag = list(reversed(lag))
        self._tracks: dict[str, int] = {}
        self._lanes: list[int] = []  # of block requests: the number of each, 0 when the lane is free
        self._next_request = 0  # its number
        self._under_way: set[int] = set()
        self._speed = -1.0
        self._lines = ConsoleLines()
        self.slices = 0
        packet = self._packet(None)
        packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        track = packet.track_descriptor
        track.uuid = GUEST
        track.process.pid = GUEST
        track.process.process_name = f"guest {name}"
        track.child_ordering = TrackDescriptor.EXPLICIT
        self._builder.write_packet(packet)

    def add(self, each: ReplayedEpoch) -> None:
        """An epoch and what happened in it; console output as lines."""
        epoch = each.epoch
        self._next_request = each.next_request
        self._tell_lag(epoch)
        track = self._track("epochs")
        digest = {"digest": f"{epoch.digest:08x}"}
        self._begin(track, epoch.time, f"epoch, ends {epoch.reason}", str(epoch.start), self._sizes(epoch) | digest)
        for happening in each.happenings:
            self._add(happening)
        self._end(track, epoch.time_end)
        self._tell_speed(epoch)

    def close(self) -> None:
        """Nothing more comes. Requests that have no reply stay open."""
        self._tell_lines(self._lines.rest())

    # -- what happened ----------------------------------------------------------------------------------------------

    def _add(self, happening: Happening) -> None:
        if isinstance(happening, Interrupt):
            self._instant(self._track("interrupts"), happening, happening.name)
        elif isinstance(happening, DiskRequest):
            details = {"offset": happening.offset, "length": happening.length}
            self._instant(self._track(f"disk {happening.unit}"), happening, happening.command, details)
        elif isinstance(happening, Moved):
            self._add_moved(happening)

    def _add_moved(self, happening: Moved) -> None:
        content = happening.content
        if isinstance(content, Packet):
            way = "in" if happening.direction == "in" else "out"
            self._instant(self._track(f"network {happening.unit}"), happening, f"{way}: {content}")
        elif isinstance(content, BlockRequest):
            self._request(happening, content)
        elif isinstance(content, BlockReply):
            self._reply(happening, content)
        elif isinstance(happening, Output) and happening.code == OutputKind.CONSOLE:
            self._tell_lines(self._lines.feed(happening))
        else:
            self._instant(self._track("events"), happening, f"{happening.kind}: {happening.summary}")

    def _tell_lines(self, lines: Iterable[Output]) -> None:
        for line in lines:
            self._instant(self._track("console"), line, line.summary)

    def _request(self, happening: Moved, request: BlockRequest) -> None:
        details = {"offset": request.offset, "length": request.length}
        number = self._next_request
        if not number:
            self._instant(self._track("block requests"), happening, request.command, details)
            return
        self._next_request += 1
        lane = self._lanes.index(0) if 0 in self._lanes else len(self._lanes)
        self._lanes[lane : lane + 1] = [number]
        self._begin(
            self._lane(lane), happening.time, request.command, str(happening.position), details | {"request": number}
        )
        self._under_way.add(number)
        self._tell_under_way(happening)

    def _reply(self, happening: Moved, reply: BlockReply) -> None:
        if reply.number not in self._lanes:
            return  # its request is not in this part of the recording
        lane = self._lanes.index(reply.number)
        self._lanes[lane] = 0
        self._end(self._lane(lane), happening.time, {"error": reply.error})
        self._under_way.discard(reply.number)
        self._tell_under_way(happening)

    def _sizes(self, epoch: Epoch) -> dict[str, int | str]:
        return {"clock": epoch.clock, "ran": epoch.clock_end - epoch.clock, "budget": epoch.budget}

    # -- counters -----------------------------------------------------------------------------------------------------

    def _tell_speed(self, epoch: Epoch) -> None:
        ticks = epoch.time_end - epoch.time
        speed = 10 * (epoch.clock_end - epoch.clock) / ticks if ticks else 0.0
        if speed != self._speed:
            self._speed = speed
            self._count(self._track("speed", "bytes/us"), epoch.time, speed)

    def _tell_under_way(self, happening: Happening) -> None:
        self._count(self._track("requests without reply", "requests"), happening.time, len(self._under_way))

    def _tell_lag(self, epoch: Epoch) -> None:
        while self._lag and self._lag[-1].sequence <= epoch.sequence:
            sample = self._lag.pop()
            if sample.sequence == epoch.sequence:
                self._count(self._track("lag", "ms"), epoch.time, sample.lag_ms)
                self._count(self._track("entries not acknowledged", "entries"), epoch.time, sample.unacknowledged)

    # -- the trace's packets ---------------------------------------------------------------------------------------

    def _track(self, name: str, unit: str = "") -> int:
        """The uuid of a track, made when it is first used; with a unit, a counter."""
        if name not in self._tracks:
            self._tracks[name] = uuid = GUEST + 1 + len(self._tracks)
            packet = self._packet(None)
            track = packet.track_descriptor
            track.uuid, track.parent_uuid, track.name = uuid, GUEST, name.partition("#")[0]
            track.sibling_order_rank = uuid
            if unit:
                track.counter.unit_name = unit
            self._builder.write_packet(packet)
        return self._tracks[name]

    def _lane(self, lane: int) -> int:
        return self._track(f"block requests#{lane}")

    def _begin(self, track: int, time: int, name: str, place: str, arguments: Arguments) -> None:
        self._event(TrackEvent.TYPE_SLICE_BEGIN, track, time, name, {PLACE: place, **arguments})
        self.slices += 1

    def _end(self, track: int, time: int, arguments: Arguments | None = None) -> None:
        self._event(TrackEvent.TYPE_SLICE_END, track, time, "", arguments or {})

    def _instant(self, track: int, happening: Happening, name: str, arguments: Arguments | None = None) -> None:
        details: Arguments = {PLACE: str(happening.position), **(arguments or {})}
        self._event(TrackEvent.TYPE_INSTANT, track, happening.time, name, details)
        self.slices += 1

    def _event(self, kind: int, track: int, time: int, name: str, arguments: Arguments) -> None:
        packet = self._packet(time)
        event: Any = packet.track_event
        event.type, event.track_uuid = kind, track
        if name:
            event.name = name
        for key, value in arguments.items():
            note = event.debug_annotations.add()
            note.name = key
            if isinstance(value, int):
                note.uint_value = max(0, value)
            else:
                note.string_value = value
        self._builder.write_packet(packet)

    def _count(self, track: int, time: int, value: float) -> None:
        packet = self._packet(time)
        event: Any = packet.track_event
        event.type, event.track_uuid, event.double_counter_value = TrackEvent.TYPE_COUNTER, track, value
        self._builder.write_packet(packet)

    def _packet(self, time: int | None) -> TracePacket:
        packet = self._builder.create_packet()
        packet.trusted_packet_sequence_id = SEQUENCE_ID
        if time is not None:
            packet.timestamp = min(time * NS_PER_TICK, TIME_MAX)
        return packet
