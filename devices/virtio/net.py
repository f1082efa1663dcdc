# SPDX-License-Identifier: GPL-2.0-or-later
"""`VirtioNet`: network device (virtio 1.2, section 5.1) with one queue pair and no offloads.

| queue | name       | buffers                                        |
|-------|------------|------------------------------------------------|
| 0     | receiveq1  | header, frame; with MRG_RXBUF over several     |
| 1     | transmitq1 | header (ignored: no offload is offered), frame |

Each frame is preceded by the 12-byte `virtio_net_hdr`, all zero but `num_buffers` (5.1.6). Frames that arrive wait for
receive buffers, at most 1024 of them; what does not fit is dropped, newest first, and counted in the state, so both
replicas drop the same.
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
from devices.virtio.queue import Chain, RingViolation, Virtqueue, length_of

QUEUE_SIZE = 256
RECEIVEQ = 0
TRANSMITQ = 1

FRAMES_MAX = 1024  # waiting for receive buffers
FRAME_MIN = 14  # an Ethernet header
FRAME_MAX = 65535

STATUS_LINK_UP = 1  # VIRTIO_NET_S_LINK_UP (5.1.4)

# flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers (5.1.6)
HEADER = Struct("<BBHHHHH")
CONFIG = Struct("<6sH")  # mac, status (5.1.4)


class Feature(IntEnum):
    """Feature bits (5.1.3)."""

    MAC = 1 << 5
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16


class VirtioNet(VirtioDevice):
    """One network card; frames it sends are emitted as PACKET outputs of `unit`."""

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
            features=int(Feature.MAC | Feature.MRG_RXBUF | Feature.STATUS),
            queue_sizes=[QUEUE_SIZE, QUEUE_SIZE],
            config=CONFIG.pack(mac, STATUS_LINK_UP),
        )
        self._emit = emit
        self._mac = mac
        self._unit = unit
        self._link = True
        self._frames: deque[bytes] = deque()
        self.received = self.sent = self.dropped = 0

    # The host's side

    def receive(self, frame: bytes) -> None:
        """A frame arrives from the network."""
        fits = FRAME_MIN <= len(frame) <= FRAME_MAX and len(self._frames) < FRAMES_MAX
        if fits and self._link and self.running:
            self._frames.append(frame)
            self.kick(RECEIVEQ)
        else:
            self.dropped += 1

    def set_link(self, up: bool) -> None:
        """The cable is plugged in or pulled; the driver is told."""
        if up != self._link:
            self._link = up
            self.change_config(CONFIG.pack(self._mac, STATUS_LINK_UP if up else 0))

    # The guest's side

    def serve(self, index: int, queue: Virtqueue) -> None:
        """Sends what waits on the transmit queue, or fills receive buffers."""
        if index == TRANSMITQ:
            self._transmit(queue)
        else:
            self._deliver(queue)

    def _transmit(self, queue: Virtqueue) -> None:
        for _ in range(queue.available()):
            head, readable, _ = queue.pop()
            length = length_of(readable) - HEADER.size
            if length < 0:
                raise RingViolation("a frame without its header")
            if self._link and FRAME_MIN <= length <= FRAME_MAX:
                frame = queue.gather(readable)[HEADER.size :]
                self.sent += 1
                self._emit(Output(OutputKind.PACKET, self._unit, frame))
            else:
                self.dropped += 1
            queue.push(head, 0)
        if queue.flush():
            self.interrupt()

    def _deliver(self, queue: Virtqueue) -> None:
        """Puts frames into buffers while both last; looks at each buffer once, so a batch stays bounded."""
        available = queue.available() if self._frames else 0
        mergeable = self.negotiated(Feature.MRG_RXBUF)
        chains: deque[tuple[Chain, int]] = deque()  # peeked at, with their room
        room = 0
        while self._frames:
            need = HEADER.size + len(self._frames[0])
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
                self._frames.popleft()  # It will not fit later either.
                self.dropped += 1
            else:
                break
        due = queue.flush()
        queue.listen(bool(self._frames))
        if due:
            self.interrupt()

    def _fill(self, queue: Virtqueue, chains: deque[tuple[Chain, int]]) -> tuple[int, int]:
        """Puts the oldest frame into the first of `chains`; returns how many it took and their room."""
        frame = self._frames.popleft()
        need = HEADER.size + len(frame)
        count = room = 0
        while room < need:
            room += chains[count][1]
            count += 1
        data = memoryview(HEADER.pack(0, 0, 0, 0, 0, 0, count) + frame)
        for _ in range(count):
            (head, _, writable), size = chains.popleft()
            queue.advance()
            queue.scatter(writable, data[:size])
            queue.push(head, min(size, len(data)))
            data = data[size:]
        self.received += 1
        return count, room

    # State

    def on_reset(self) -> None:
        """Frames that waited for this driver are gone."""
        self._frames.clear()

    def reset(self) -> None:
        """Power-on reset; the cable and the counters stay as they are."""
        super().reset()
        self._frames.clear()

    def save(self) -> State:
        """Waiting frames, link and counters."""
        return super().save() | {
            "link": int(self._link),
            "frames": list(self._frames),
            "counters": [self.received, self.sent, self.dropped],
        }

    def restore(self, state: State) -> None:
        """Takes over what `save` returned."""
        super().restore(state)
        self._link = bool(state["link"])
        if not all(type(frame) is bytes and FRAME_MIN <= len(frame) <= FRAME_MAX for frame in state["frames"]):
            raise ValueError("virtio net: a frame that could not have been received")
        self._frames = deque(state["frames"])
        self.received, self.sent, self.dropped = state["counters"]
