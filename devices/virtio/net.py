# SPDX-License-Identifier: GPL-2.0-or-later
"""`VirtioNet`: network device (virtio 1.2, section 5.1) with one queue pair and a control queue.

| queue | name       | buffers                                                             |
|-------|------------|---------------------------------------------------------------------|
| 0     | receiveq1  | header, frame; with MRG_RXBUF over several                          |
| 1     | transmitq1 | header, frame                                                       |
| 2     | controlq   | class, command, data; one byte of answer (only announcements, 5.1.6.5.4) |

The 12-byte header before each frame is a packet's header (`offload`) and `num_buffers`. The driver may leave checksums
and the cutting of long TCP segments to whoever gets its packets, and take packets that are as unfinished; what a driver
did not ask for is done here before it gets them. Which features are offered does not depend on what the network is:
two hosts of a pair may be connected to theirs in different ways.

Packets that arrive wait for receive buffers, within bounds; what does not fit is dropped, newest first, and counted in
the state, so both replicas drop the same. `room` tells the host before it comes to that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from struct import Struct

from devices.device import Line, State
from devices.event import Output, OutputKind
from devices.memory import GuestMemory
from devices.virtio.mmio import VirtioDevice
from devices.virtio.offload import (
    FRAME_MAX,
    FRAME_MIN,
    GSO_NONE,
    GSO_TCPV4,
    HEAD,
    NEEDS_CSUM,
    PACKET_HEADER,
    PLAIN,
    PacketError,
    check,
    without,
)
from devices.virtio.queue import Chain, RingViolation, Virtqueue, length_of

QUEUE_SIZE = 256
CONTROL_SIZE = 64
RECEIVEQ = 0
TRANSMITQ = 1
CONTROLQ = 2

FRAMES_MAX = 1024  # waiting for receive buffers
WAITING_MAX = 4 << 20  # bytes of them
ROOM_FRAMES = 256  # what the host may let wait before it leaves more with the network
ROOM_BYTES = 1 << 20

STATUS_LINK_UP = 1  # VIRTIO_NET_S_LINK_UP (5.1.4)
STATUS_ANNOUNCE = 2  # VIRTIO_NET_S_ANNOUNCE

CONTROL_ANNOUNCE = b"\3\0"  # VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK (5.1.6.5.4)
CONTROL_OK, CONTROL_ERR = 0, 1

HEADER = Struct("<BBHHHHH")  # a packet's header, num_buffers (5.1.6)
CONFIG_FIELDS = ("mac", "status")  # 5.1.4
CONFIG = Struct("<6sH")


class Feature(IntEnum):
    """Feature bits (5.1.3)."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    MAC = 1 << 5
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    GUEST_ANNOUNCE = 1 << 21


class VirtioNet(VirtioDevice):
    """One network card; packets it sends are emitted as PACKET outputs of `unit`."""

    device_id = 1
    kind = "net"

    def __init__(
        self,
        memory: GuestMemory,
        line: Line,
        violation: Callable[[str], None],
        emit: Callable[[Output], None],
        mac: bytes,
        unit: int = 0,
    ) -> None:
        """`mac`: six bytes. The link is up at first."""
        assert len(mac) == 6
        super().__init__(
            memory,
            line,
            violation,
            features=sum(Feature),
            queue_sizes=[QUEUE_SIZE, QUEUE_SIZE, CONTROL_SIZE],
            config=CONFIG.pack(mac, STATUS_LINK_UP),
        )
        self._emit = emit
        self.mac = mac
        self._unit = unit
        self.link = True
        self._announce = False
        self._packets: deque[bytes] = deque()
        self._waiting = 0  # bytes in them
        self.received = self.sent = self.dropped = 0

    # The host's side

    @property
    def room(self) -> int | None:
        """How many packets the host should bring at most; None when nobody is there to take any."""
        if not (self.running and self.link):
            return None
        return max(0, ROOM_FRAMES - len(self._packets)) if self._waiting < ROOM_BYTES else 0

    def receive(self, packet: bytes) -> None:
        """A packet arrives from the network."""
        if not (self.link and self.running):
            self.dropped += 1
            return
        try:
            check(packet)
            ready = [packet] if packet.startswith(PLAIN) else self._finished(packet)
        except PacketError:
            self.dropped += 1
            return
        for piece in ready:
            if len(self._packets) < FRAMES_MAX and self._waiting + len(piece) <= WAITING_MAX:
                self._packets.append(piece)
                self._waiting += len(piece)
            else:
                self.dropped += 1
        self.kick(RECEIVEQ)

    def _finished(self, packet: bytes) -> list[bytes]:
        """What this driver can take: all done that it did not say it would do itself (5.1.6.4.1)."""
        if not self.negotiated(Feature.GUEST_CSUM):
            return without(packet, segmentation=True)
        gso = packet[1]
        if gso != GSO_NONE:
            wanted = Feature.GUEST_TSO4 if gso == GSO_TCPV4 else Feature.GUEST_TSO6
            if not self.negotiated(wanted):
                return without(packet, segmentation=True)
        return [packet]

    def set_link(self, up: bool) -> None:
        """The cable is plugged in or pulled; the driver is told."""
        if up != self.link:
            self.link = up
            self._tell_status()

    def announce(self) -> None:
        """The guest is somewhere else now: a driver that can is asked to say so to the network (5.1.6.5.4)."""
        if self.running and self.link and self.negotiated(Feature.GUEST_ANNOUNCE) and not self._announce:
            self._announce = True
            self._tell_status()

    def _tell_status(self) -> None:
        self.change_config(self._config())

    def _config(self) -> bytes:
        status = (STATUS_LINK_UP if self.link else 0) | (STATUS_ANNOUNCE if self._announce else 0)
        return CONFIG.pack(self.mac, status)

    # The guest's side

    def serve(self, index: int, queue: Virtqueue) -> None:
        """Sends what waits on the transmit queue, fills receive buffers, or obeys."""
        if index == TRANSMITQ:
            self._transmit(queue)
        elif index == RECEIVEQ:
            self._deliver(queue)
        else:
            self._control(queue)

    def _transmit(self, queue: Virtqueue) -> None:
        for _ in range(queue.available()):
            head, readable, _ = queue.pop()
            length = length_of(readable) - HEADER.size
            if length < 0:
                raise RingViolation("a frame without its header")
            packet = self._sendable(queue.gather(readable)) if self.link and FRAME_MIN <= length <= FRAME_MAX else None
            if packet is not None:
                self.sent += 1
                self._emit(Output(OutputKind.PACKET, self._unit, packet))
            else:
                self.dropped += 1
            queue.push(head, 0)
        if queue.flush():
            self.interrupt()

    def _sendable(self, data: bytes) -> bytes | None:
        """The packet in a transmit buffer; None when its header asks for what cannot be (5.1.6.2)."""
        flags, gso, length, size, start, offset = PACKET_HEADER.unpack_from(data)
        frame = data[HEADER.size :]
        if not self.negotiated(Feature.CSUM) or not (flags & NEEDS_CSUM or gso):
            return PLAIN + frame
        if gso != GSO_NONE and not self.negotiated(Feature.HOST_TSO4 if gso == GSO_TCPV4 else Feature.HOST_TSO6):
            return None
        packet = PACKET_HEADER.pack(flags & NEEDS_CSUM, gso, min(length, len(frame)), size, start, offset) + frame
        try:
            check(packet)
        except PacketError:
            return None
        return packet

    def _deliver(self, queue: Virtqueue) -> None:
        """Puts packets into buffers while both last; looks at each buffer once, so a batch stays bounded."""
        available = queue.available() if self._packets else 0
        mergeable = self.negotiated(Feature.MRG_RXBUF)
        chains: deque[tuple[Chain, int]] = deque()  # peeked at, with their room
        room = 0
        while self._packets:
            need = HEADER.size - HEAD + len(self._packets[0])
            while room < need and len(chains) < available and (mergeable or not chains):
                chain = queue.peek(len(chains))
                if not chain[2]:
                    raise RingViolation("a receive buffer without writable bytes")
                chains.append((chain, length_of(chain[2])))
                room += chains[-1][1]
            if room >= need:
                used = self._fill(queue, chains)
                available -= used[0]
                room -= used[1]
            elif chains and (not mergeable or available == queue.num):
                self._take()  # It will not fit later either.
                self.dropped += 1
            else:
                break
        due = queue.flush()
        queue.listen(bool(self._packets))
        if due:
            self.interrupt()

    def _take(self) -> bytes:
        packet = self._packets.popleft()
        self._waiting -= len(packet)
        return packet

    def _fill(self, queue: Virtqueue, chains: deque[tuple[Chain, int]]) -> tuple[int, int]:
        """Puts the oldest packet into the first of `chains`; returns how many it took and their room."""
        packet = self._take()
        need = HEADER.size - HEAD + len(packet)
        count = room = 0
        while room < need:
            room += chains[count][1]
            count += 1
        data = memoryview(packet[:HEAD] + count.to_bytes(2, "little") + packet[HEAD:])
        for _ in range(count):
            (head, _, writable), size = chains.popleft()
            queue.advance()
            queue.scatter(writable, data[:size])
            queue.push(head, min(size, len(data)))
            data = data[size:]
        self.received += 1
        return count, room

    def _control(self, queue: Virtqueue) -> None:
        """Commands (5.1.6.5): the only one that is offered says that the driver has announced itself."""
        acknowledged = False
        for _ in range(queue.available()):
            head, readable, writable = queue.pop()
            if length_of(readable) < 2 or not writable:
                raise RingViolation("a command without its code, or without room for the answer")
            code = b"".join([queue.gather([(at, min(2, length))]) for at, length in readable[:2]])[:2]
            known = code == CONTROL_ANNOUNCE and self.negotiated(Feature.GUEST_ANNOUNCE)
            acknowledged |= known
            queue.push(head, queue.scatter(writable, bytes([CONTROL_OK if known else CONTROL_ERR])))
        if acknowledged and self._announce:
            self._announce = False
            self.config = self._config()
        if queue.flush():
            self.interrupt()

    # State

    def on_reset(self) -> None:
        """Packets that waited for this driver are gone."""
        self._packets.clear()
        self._waiting = 0
        self._announce = False
        self.config = self._config()

    def reset(self) -> None:
        """Power-on reset; the cable and the counters stay as they are."""
        super().reset()
        self.on_reset()

    def save(self) -> State:
        """Waiting packets, link and counters."""
        return super().save() | {
            "link": int(self.link),
            "announce": int(self._announce),
            "packets": list(self._packets),
            "counters": [self.received, self.sent, self.dropped],
        }

    def restore(self, state: State) -> None:
        """Takes over what `save` returned."""
        super().restore(state)
        self.link = bool(state["link"])
        self._announce = bool(state["announce"])
        try:
            for packet in state["packets"]:
                if type(packet) is not bytes:
                    raise TypeError("it is not made of bytes")
                check(packet)
        except (PacketError, TypeError) as error:
            raise ValueError(f"virtio net: a packet that could not have been received: {error}") from None
        self._packets = deque(state["packets"])
        self._waiting = sum(map(len, self._packets))
        self.received, self.sent, self.dropped = state["counters"]
