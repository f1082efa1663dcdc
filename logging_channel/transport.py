# SPDX-License-Identifier: GPL-2.0-or-later
"""The real network: ZeroMQ over TCP. The only file that touches sockets; see `endpoint` for what it promises.

    Listener   ROUTER, bound   peers are connections: dialers keep ZeroMQ's automatic ids, one per connection
    Dialer     DEALER          connects again by itself; what was queued for a lost connection is discarded

What is behind the promises:

* *A disconnect is told at once, for the right peer, behind its last message.* The socket's monitor reports the
  descriptor of the connection that ended, and a message knows the descriptor it came by, so a peer is bound to its
  descriptor by its first message. All data is drained before a disconnect is passed on. Descriptors are used again by
  the kernel: when a new peer shows up on a bound one, the old peer is gone, and its notice is given there and then.
* *A poller never sleeps on a message.* ZMQ_FD is edge-triggered and any call may consume the edge. So after a send it
  is looked whether something can be received, and an eventfd in the same epoll set keeps `fileno()` readable then.
* *Nothing is dropped silently*: ROUTER_MANDATORY turns "no such connection" and "high-water mark" into answers, and a
  Dialer sends nothing before it is connected.
* *Hostile bytes* end in a failed handshake, a closed connection or a dropped message, and a counter. Beyond loopback
  only CURVE peers whose public key is known come in.
* *Closing never hangs*: monitor first, then the sockets with a bounded linger, then their private context.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import struct
from collections import Counter, deque
from dataclasses import dataclass, field

import zmq
import zmq.utils.z85

from logging_channel.endpoint import LISTENER, Arrival, Link, Sent
from logging_channel.errors import ChannelError
from logging_channel.frame import FRAME_MAX

HIGH_WATER = 2048  # messages per connection and direction; the window keeps far below it
HANDSHAKE_MS = 2000
_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_GONE_REMEMBERED = 64
_MONITOR = struct.Struct("=Hi")  # event, value (zmq.utils.monitor does this too, but imports asyncio)


@dataclass(frozen=True, slots=True)
class Keys:
    """CURVE keys in Z85 (40 characters). `peers`: a Listener's admitted public keys, or a Dialer's listener's one."""

    public: bytes
    secret: bytes = field(repr=False)
    peers: tuple[bytes, ...]

    def __post_init__(self) -> None:
        for key in (self.public, self.secret, *self.peers):
            if len(key) != 40 or any(character not in zmq.utils.z85.Z85CHARS for character in key):
                raise ChannelError("a CURVE key is 40 characters of Z85, as `new_keys` makes it")


def new_keys(peers: tuple[bytes, ...] = ()) -> Keys:
    """Return a fresh key pair that trusts `peers`."""
    public, secret = zmq.curve_keypair()
    return Keys(public, secret, peers)


def parse_address(address: str) -> tuple[str, int]:
    """Return (host, port) of "HOST:PORT" or "tcp://HOST:PORT", brackets around an IPv6 host; raise ChannelError."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ChannelError(f"{address!r} is not an address of the form 127.0.0.1:7700")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Endpoint:
    """What Listener and Dialer share: sockets, polling, the queue of arrivals, closing."""

    def __init__(self, kind: int, address: str, keys: Keys | None, events: int, high_water: int) -> None:
        host, port = parse_address(address)
        if keys is None and not is_loopback(host):
            raise ChannelError(f"{address} can be reached by others: set CURVE keys for the channel or use 127.0.0.1")
        self.counts: Counter[str] = Counter()
        self._url = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        self._arrived: deque[Arrival] = deque()
        self._maybe = True  # the data socket may have a message although its descriptor is not readable
        self._closed = False
        self._high_water = high_water
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(kind)
        self._set_options(":" in host, high_water)
        self._monitor = self._socket.get_monitor_socket(events)
        self._monitor.linger = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._data_fd, self._monitor_fd = self._register(self._socket), self._register(self._monitor)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._watch()  # a ZMQ_FD signals only from the first time on that nothing was found

    def _set_options(self, ipv6: bool, high_water: int) -> None:
        socket = self._socket
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = high_water
        socket.maxmsgsize = FRAME_MAX
        socket.handshake_ivl = HANDSHAKE_MS
        socket.ipv6 = ipv6
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle = 5
        socket.tcp_keepalive_intvl = 1
        socket.tcp_keepalive_cnt = 3

    def _register(self, socket: zmq.Socket[bytes]) -> int:
        fd = socket.getsockopt(zmq.FD)
        assert isinstance(fd, int)
        self._epoll.register(fd, select.EPOLLIN)
        return fd

    @property
    def address(self) -> str:
        """Where it listens or dials to, with the real port."""
        return self._url

    def fileno(self) -> int:
        """Return the descriptor to poll for reading; see `endpoint`."""
        return self._epoll.fileno()

    def wake(self) -> None:
        """Make `fileno()` readable once; from any thread, not after `close`."""
        os.eventfd_write(self._wake, 1)

    def receive(self) -> Arrival | None:
        """Return the next arrival, None when there is none now."""
        while not self._arrived:
            if self._closed:
                return None
            if self._maybe:
                self._pull()
            elif not self._settle() and not self._look():
                return None
        return self._arrived.popleft()

    def _look(self) -> bool:
        """Look at the descriptors without blocking; return whether anything may have arrived."""
        ready = self._epoll.poll(0)
        for fd, _ in ready:
            if fd == self._data_fd:
                self._maybe = True
            elif fd == self._monitor_fd:
                self._watch()
            elif fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                self._maybe = True
            else:
                self._serve(fd)
        return bool(ready)

    def _drain(self) -> None:
        """Put everything that can be received now into the queue, or as much as a lost connection can have left."""
        self._maybe = True
        for _ in range(2 * self._high_water):
            if not self._maybe:
                break
            self._pull()

    def _pull(self) -> None:
        """Put the next message into the queue; clear `_maybe` when there is no further one."""
        raise NotImplementedError

    def _watch(self) -> None:
        """Read the monitor."""
        raise NotImplementedError

    def _settle(self) -> bool:
        """Queue what the monitor has told, behind the messages that it follows; return whether there was any."""
        raise NotImplementedError

    def _serve(self, fd: int) -> None:
        """Serve another descriptor of the epoll set."""
        raise AssertionError(f"descriptor {fd} is nobody's")

    def _more(self) -> bool:
        """Whether a message can be received now. Afterwards the descriptor becomes readable for any later one."""
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _after_send(self) -> None:
        """A send may have consumed the edge of an arrival: keep `fileno()` readable in that case."""
        if not self._maybe and self._more():
            self._maybe = True
            os.eventfd_write(self._wake, 1)

    def _single(self, frame: zmq.Frame) -> bytes | None:
        """Return the body of a message of one part, None (and count) for one of several, which no member sends."""
        if not frame.more:
            return frame.bytes
        self.counts["multipart"] += 1
        while frame.more:
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
        return None

    def _monitored(self) -> list[tuple[int, int]]:
        """Return the monitor's news as (event, value)."""
        news = []
        with contextlib.suppress(zmq.Again):
            while True:
                news.append(_MONITOR.unpack(self._monitor.recv_multipart(zmq.NOBLOCK)[0]))
        return news

    def close(self, linger_ms: int = 0) -> None:
        """Close for good; messages already taken get at most `linger_ms` to leave."""
        if self._closed:
            return
        self._closed = True
        self._arrived.clear()
        self._epoll.close()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._close_others()
        self._socket.close(linger=linger_ms)
        self._context.term()
        os.close(self._wake)

    def _close_others(self) -> None:
        """Close further sockets of this context."""


class Listener(_Endpoint):
    """The primary's end: several peers, each id one connection."""

    def __init__(self, address: str, keys: Keys | None = None, high_water: int = HIGH_WATER) -> None:
        self._zap: zmq.Socket[bytes] | None = None
        self._fd_of: dict[bytes, int] = {}
        self._peer_at: dict[int, bytes] = {}
        self._open: set[int] = set()  # descriptors of accepted connections
        self._ended: deque[int] = deque()  # descriptors of connections that ended, not told yet
        self._gone: deque[bytes] = deque(maxlen=_GONE_REMEMBERED)
        failures = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | failures | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        super().__init__(zmq.ROUTER, address, keys, events, high_water)
        self._socket.router_mandatory = True
        if keys is not None:
            self._guard(keys)
        self._bind()

    def _guard(self, keys: Keys) -> None:
        """Let in only peers that prove one of the known public keys (ZMTP CURVE, asked through ZAP, RFC 27)."""
        self._admitted = {zmq.utils.z85.decode(key) for key in keys.peers}
        self._zap = self._context.socket(zmq.REP)
        self._zap.linger = 0
        self._zap.bind(_ZAP_ADDRESS)
        self._serve(self._register(self._zap))
        self._socket.curve_publickey = keys.public
        self._socket.curve_secretkey = keys.secret
        self._socket.curve_server = True
        self._socket.zap_domain = b"ftvm"

    def _bind(self) -> None:
        try:
            self._socket.bind(self._url)
        except zmq.ZMQError as error:
            asked = self._url
            self.close()
            if error.errno == errno.EADDRINUSE:
                raise ChannelError(f"{asked} is in use: another side of the pair still listens there") from None
            raise ChannelError(f"cannot listen on {asked}: {error}") from None
        self._url = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    @property
    def peers(self) -> tuple[bytes, ...]:
        """The connections that have sent something and have not ended."""
        return tuple(self._fd_of)

    def send(self, peer: bytes, data: bytes) -> Sent:
        """Hand a message over for `peer`, without blocking."""
        if self._closed or peer not in self._fd_of:
            return Sent.GONE
        try:
            self._socket.send(peer, zmq.SNDMORE | zmq.NOBLOCK)
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return Sent.GONE
        finally:
            self._after_send()
        return Sent.TAKEN

    def _pull(self) -> None:
        try:
            peer = self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            self._maybe = False
            return
        frame = self._socket.recv(zmq.NOBLOCK, copy=False)
        known = peer in self._fd_of
        fd = -1 if known else self._source(frame)
        data = self._single(frame)
        self._maybe = self._more()
        if peer in self._gone:
            self.counts["late"] += 1
        elif data is not None and (known or fd >= 0):
            if not known:
                self._bind_peer(peer, fd)
            self._arrived.append((peer, data))

    def _source(self, frame: zmq.Frame) -> int:
        """Return the descriptor of a new peer's connection, -1 for one that speaks ZMTP 1.0, as any garbage may."""
        try:
            return int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            self.counts["ancient"] += 1
            return -1

    def _bind_peer(self, peer: bytes, fd: int) -> None:
        """A new peer speaks: it came by descriptor `fd`. Whoever had that before is gone, whatever was told so far."""
        self._watch()
        told = [ended for ended in self._ended if ended == fd]
        if fd in self._peer_at:
            self._tell_gone(fd)
        if told:
            self._ended = deque(ended for ended in self._ended if ended != fd)
            if fd not in self._open:
                self._ended.append(fd)  # it has ended itself meanwhile
        self._fd_of[peer] = fd
        self._peer_at[fd] = peer
        self._arrived.append((peer, Link.CONNECTED))

    def _tell_gone(self, fd: int) -> None:
        peer = self._peer_at.pop(fd, None)
        if peer is not None:
            del self._fd_of[peer]
            self._gone.append(peer)
            self._arrived.append((peer, Link.DISCONNECTED))

    def _watch(self) -> None:
        for event, value in self._monitored():
            if event == zmq.EVENT_ACCEPTED:
                self.counts["accepted"] += 1
                self._open.add(value)
            elif event == zmq.EVENT_DISCONNECTED:
                self._open.discard(value)
                self._ended.append(value)
            else:
                self.counts["handshake failed"] += 1

    def _settle(self) -> bool:
        if not self._ended:
            return False
        self._drain()  # first what it has still sent; this may bind new peers, and take from `_ended`
        if self._ended:
            self._tell_gone(self._ended.popleft())
        return True

    def _serve(self, fd: int) -> None:
        """Answer whether a client's public key is one of those we know."""
        assert self._zap is not None
        with contextlib.suppress(zmq.Again):
            while True:
                version, request, _, _, _, mechanism, *credentials = self._zap.recv_multipart(zmq.NOBLOCK)
                good = mechanism == b"CURVE" and len(credentials) == 1 and credentials[0] in self._admitted
                if not good:
                    self.counts["unknown key"] += 1
                status, text = (b"200", b"OK") if good else (b"400", b"unknown public key")
                self._zap.send_multipart([version, request, status, text, b"", b""])

    def _close_others(self) -> None:
        if self._zap is not None:
            self._zap.close(linger=0)


class Dialer(_Endpoint):
    """The backup's end: one peer, `LISTENER`; connects again by itself every `retry_ms` (up to ten times that)."""

    def __init__(
        self, address: str, keys: Keys | None = None, high_water: int = HIGH_WATER, retry_ms: int = 20
    ) -> None:
        self._connected = False
        self._changes: deque[Link] = deque()  # read from the monitor, not told yet
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        super().__init__(zmq.DEALER, address, keys, events, high_water)
        self._socket.reconnect_ivl = retry_ms
        self._socket.reconnect_ivl_max = 10 * retry_ms
        self._socket.connect_timeout = HANDSHAKE_MS
        if keys is not None:
            assert len(keys.peers) == 1, "a dialer trusts exactly its listener's key"
            self._socket.curve_serverkey = keys.peers[0]
            self._socket.curve_publickey = keys.public
            self._socket.curve_secretkey = keys.secret
        self._socket.connect(self._url)

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as was told."""
        return self._connected

    def send(self, peer: bytes, data: bytes) -> Sent:
        """Hand a message over for the listener, without blocking."""
        assert peer == LISTENER, peer
        if self._closed or not self._connected:
            return Sent.GONE
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            return Sent.GONE if self._lost() else Sent.FULL
        finally:
            self._after_send()
        return Sent.TAKEN

    def _pull(self) -> None:
        try:
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._maybe = False
            return
        data = self._single(frame)
        self._maybe = self._more()
        if data is not None:
            self._arrived.append((LISTENER, data))

    def _lost(self) -> bool:
        """Whether the connection has ended, told or not. What was read of the monitor must still be received."""
        self._watch()
        if self._changes:
            os.eventfd_write(self._wake, 1)
        return Link.DISCONNECTED in self._changes

    def _watch(self) -> None:
        for event, _ in self._monitored():
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._changes.append(Link.CONNECTED)
            elif event == zmq.EVENT_DISCONNECTED:
                self._changes.append(Link.DISCONNECTED)
            else:
                self.counts["key refused"] += 1

    def _settle(self) -> bool:
        if not self._changes:
            return False
        self._drain()  # first what the lost connection has still sent
        change = self._changes.popleft()
        connected = change is Link.CONNECTED
        if connected is not self._connected:  # a failed handshake ends what never began
            self._connected = connected
            self._arrived.append((LISTENER, change))
            if not connected:
                self._start_over()
        return True

    def _start_over(self) -> None:
        """Discard what is queued for the lost connection, which ZeroMQ would hand to the next one, and connect anew.

        ZMQ_IMMEDIATE would discard it too, together with all that has arrived and was not received yet: a goodbye.
        Should ZeroMQ have connected again meanwhile, that connection ends here, unused.
        """
        self._socket.disconnect(self._url)
        self._watch()
        self._changes.clear()
        self._socket.connect(self._url)
