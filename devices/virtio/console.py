# SPDX-License-Identifier: GPL-2.0-or-later
"""`VirtioConsole`: console device with several ports (virtio 1.2, section 5.3).

| queue        | name                          | queue        | name                          |
|--------------|-------------------------------|--------------|-------------------------------|
| 0            | receiveq of port 0            | 1            | transmitq of port 0           |
| 2            | control receiveq              | 3            | control transmitq             |
| 2 + 2 n      | receiveq of port n > 0        | 3 + 2 n      | transmitq of port n > 0       |

A port is a pair of byte streams without message boundaries. Its life, with VIRTIO_CONSOLE_F_MULTIPORT (5.3.6.2):

| the driver says    | the device answers                                                        |
|--------------------|---------------------------------------------------------------------------|
| DEVICE_READY 1     | PORT_ADD for each port                                                    |
| PORT_READY 1       | CONSOLE_PORT if it is one, PORT_NAME if it has one, PORT_OPEN 1           |
| PORT_OPEN 1 or 0   | hands out input only while open; `opened` is called when that changes     |

Each question is answered once per reset, so a driver cannot make control messages pile up. Without the feature, port
0 is open whenever the driver is ready.

Input waits in the device, in any amount, until the guest has opened the port and has buffers; drivers drop what comes
before. `port_output` and `opened` are called as the very last act of a guest access, so they may call anything here,
`reset` included; after a reset no more calls follow for what came before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from struct import Struct

from devices.device import Line, State
from devices.memory import Bytes, GuestMemory
from devices.virtio.mmio import VirtioDevice
from devices.virtio.queue import RingViolation, Segment, Virtqueue, length_of

QUEUE_SIZE = 256
CONTROL_QUEUE_SIZE = 64
CONTROL_RECEIVEQ = 2
CONTROL_TRANSMITQ = 3

#: Bytes of one transmit chain, and of all in one notification; no driver known writes more than a pipe holds at once.
WRITE_MAX = 4 << 20
WRITES_MAX = 32 << 20
#: Bytes of one control message, which has 8 of them and perhaps a name.
CONTROL_MAX = 4096
#: Output is handed on when so much has come together within one notification.
PIECE = 1 << 20

CONFIG_FIELDS = ("cols", "rows", "max_nr_ports", "emerg_wr")  # 5.3.4
CONFIG = Struct("<HHII")
CONTROL = Struct("<IHH")  # id, event, value (5.3.6.2)


class Feature(IntEnum):
    """Feature bits (5.3.3)."""

    MULTIPORT = 1 << 1


class Control(IntEnum):
    """Events of control messages (5.3.6.2)."""

    DEVICE_READY = 0
    PORT_ADD = 1
    PORT_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


class Port:
    """One port: its unread input and what the driver said about it."""

    __slots__ = ("console", "input", "name", "opened", "ready")

    def __init__(self, name: str, console: bool) -> None:
        self.name = name
        self.console = console
        self.input = bytearray()
        self.ready = False
        self.opened = False


def _ignore(port: int, opened: bool) -> None:
    pass


class VirtioConsole(VirtioDevice):
    """Several byte streams between host and guest."""

    device_id = 3
    kind = "console"

    def __init__(
        self,
        memory: GuestMemory,
        line: Line,
        violation: Callable[[str], None],
        names: Sequence[str | None],
        port_output: Callable[[int, bytes], None],
        opened: Callable[[int, bool], None] = _ignore,
        consoles: Collection[int] = (),
    ) -> None:
        """`names[n]` names port n: "" a port without a name, None no port. `consoles`: ports that are terminals."""
        super().__init__(
            memory,
            line,
            violation,
            features=int(Feature.MULTIPORT),
            queue_sizes=[CONTROL_QUEUE_SIZE if n >> 1 == 1 else QUEUE_SIZE for n in range(2 * len(names) + 2)],
            config=CONFIG.pack(0, 0, len(names), 0),
        )
        self.ports = {n: Port(name, n in consoles) for n, name in enumerate(names) if name is not None}
        self._port_output = port_output
        self._opened = opened
        self._ready = False  # DEVICE_READY was answered.
        self._messages: deque[bytes] = deque()  # control messages that wait for buffers

    # The host's side

    def input(self, port: int, data: Bytes) -> None:
        """Bytes for the guest; they wait until it has opened `port` and has buffers for them."""
        self.ports[port].input += data
        self.kick(_receiveq(port))

    def pending(self, port: int) -> int:
        """Bytes of input that the guest has not taken yet."""
        return len(self.ports[port].input)

    def discard_input(self, port: int) -> None:
        """Forgets input that the guest has not taken yet."""
        self.ports[port].input.clear()

    def guest_open(self, port: int) -> bool:
        """Whether the guest has the port open."""
        return self.running and (self.ports[port].opened or (port == 0 and not self.negotiated(Feature.MULTIPORT)))

    # The guest's side

    def serve(self, index: int, queue: Virtqueue) -> None:
        """Moves what can be moved on queue `index`."""
        if index == CONTROL_RECEIVEQ:
            self._send_messages(queue)
        elif index == CONTROL_TRANSMITQ:
            self._control(queue)
        else:
            port = (index >> 1) - (index > CONTROL_TRANSMITQ)
            if index & 1:
                self._transmit(port, queue)
            else:
                self._deliver(port, queue)

    def _transmit(self, port: int, queue: Virtqueue) -> None:
        known = port in self.ports
        pieces: list[bytes] = []
        size = total = 0
        outputs: list[bytes] = []
        for _ in range(queue.available()):
            head, readable, _ = queue.pop()
            length = _check_write(readable, WRITE_MAX)
            size += length
            total += length
            if total > WRITES_MAX:
                raise RingViolation(f"writes of more than {WRITES_MAX} bytes at once")
            if known:
                pieces.append(queue.gather(readable))
            queue.push(head, 0)
            if size >= PIECE:
                outputs.append(b"".join(pieces))
                pieces, size = [], 0
        if pieces:
            outputs.append(b"".join(pieces))
        if queue.flush():
            self.interrupt()
        resets = self.resets
        for data in outputs:
            if data and self.resets == resets:
                self._port_output(port, data)

    def _deliver(self, port: int, queue: Virtqueue) -> None:
        if port not in self.ports:
            return
        waiting = self.ports[port].input
        wanted = bool(waiting) and self.guest_open(port)
        if wanted:
            for _ in range(queue.available()):
                if not waiting:
                    break
                head, _, writable = queue.pop()
                count = min(_room(writable), len(waiting))
                queue.push(head, queue.scatter(writable, waiting[:count]))
                del waiting[:count]
        due = queue.flush()
        queue.listen(wanted and bool(waiting))
        if due:
            self.interrupt()

    # Control

    def _control(self, queue: Virtqueue) -> None:
        changed: list[tuple[int, bool]] = []
        for _ in range(queue.available()):
            head, readable, _ = queue.pop()
            if length_of(readable) < CONTROL.size:
                raise RingViolation("a control message shorter than 8 bytes")
            _check_write(readable, CONTROL_MAX)
            number, event, value = CONTROL.unpack_from(queue.gather(readable))
            if event == Control.DEVICE_READY:
                self._device_ready(value)
            elif number in self.ports:
                changed += self._port_event(number, event, value)
            queue.push(head, 0)
        if queue.flush():
            self.interrupt()
        resets = self.resets
        self.kick(CONTROL_RECEIVEQ)
        for number, _ in changed:
            self.kick(_receiveq(number))
        for number, opened in changed:
            if self.resets == resets:
                self._opened(number, opened)

    def _device_ready(self, value: int) -> None:
        if value and not self._ready:
            self._ready = True
            for number in self.ports:
                self._say(number, Control.PORT_ADD)

    def _port_event(self, number: int, event: int, value: int) -> list[tuple[int, bool]]:
        """What the driver says about a port; returns [(port, opened)] when that changed."""
        port = self.ports[number]
        if event == Control.PORT_READY and value and not port.ready:
            port.ready = True
            if port.console:
                self._say(number, Control.CONSOLE_PORT)
            if port.name:
                self._say(number, Control.PORT_NAME, port.name.encode())
            self._say(number, Control.PORT_OPEN)
        elif event == Control.PORT_OPEN and bool(value) != port.opened:
            port.opened = bool(value)
            return [(number, port.opened)]
        return []

    def _say(self, number: int, event: Control, text: bytes = b"") -> None:
        self._messages.append(CONTROL.pack(number, event, 1) + text)

    def _send_messages(self, queue: Virtqueue) -> None:
        for _ in range(min(queue.available(), len(self._messages))):
            head, _, writable = queue.pop()
            if _room(writable) < len(self._messages[0]):
                raise RingViolation("a control receive buffer too small for its message")
            queue.push(head, queue.scatter(writable, self._messages.popleft()))
        due = queue.flush()
        queue.listen(bool(self._messages))
        if due:
            self.interrupt()

    # State

    def _forget_driver(self) -> list[int]:
        """What the driver said is void; returns the ports that it had open."""
        was_open = [number for number, port in self.ports.items() if port.opened]
        for port in self.ports.values():
            port.ready = port.opened = False
        self._ready = False
        self._messages.clear()
        return was_open

    def on_reset(self) -> None:
        """All ports close; input stays for the next driver."""
        for number in self._forget_driver():
            self._opened(number, False)

    def reset(self) -> None:
        """Power-on reset: input is gone too; `opened` is not called."""
        super().reset()
        self._forget_driver()
        for port in self.ports.values():
            port.input.clear()

    def save(self) -> State:
        """Ports, unread input and control messages."""
        ports = [[n, int(port.ready) | int(port.opened) << 1, bytes(port.input)] for n, port in self.ports.items()]
        return super().save() | {"ready": int(self._ready), "messages": list(self._messages), "ports": ports}

    def restore(self, state: State) -> None:
        """Takes over what `save` returned."""
        super().restore(state)
        self._ready = bool(state["ready"])
        if not all(type(message) is bytes for message in state["messages"]):
            raise ValueError("virtio console: a control message that is none")
        self._messages = deque(state["messages"])
        for number, flags, data in state["ports"]:
            port = self.ports[number]
            port.ready, port.opened = bool(flags & 1), bool(flags & 2)
            port.input = bytearray(data)


def _receiveq(port: int) -> int:
    return 2 * port + 2 if port else 0


def _check_write(readable: list[Segment], size_max: int) -> int:
    size = length_of(readable)
    if size > size_max:
        raise RingViolation(f"a write of {size} bytes, more than {size_max}")
    return size


def _room(writable: list[Segment]) -> int:
    size = length_of(writable)
    if not size:
        raise RingViolation("a receive buffer without writable bytes")
    return size
