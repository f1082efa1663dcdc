# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's half of the block service, stepped by hand, with raw clients on real sockets."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from block_bench import Bench, listen_tcp, listen_unix
from nbd_bytes import HELLO, RawClient

from devices.event import Event, EventKind
from ftvm.service.limits import Limits
from ftvm.service.nbd import DISC, FLUSH, LENGTH_MAX, READ, TRIM, VENDOR, WRITE, WRITE_ZEROES, Errno, request_frame
from ftvm.service.request import decode_close, decode_request, encode_close

MIB = 1 << 20
SIZE = 40 * MIB


class Service:
    """A bench with listening sockets of both families, and clients for it."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self.path = path
        self.tcp, self.unix = listen_tcp(), listen_unix(path)
        self.bench = Bench([self.tcp, self.unix], SIZE, limits)
        self.server, self.driver = self.bench.server, self.bench.driver
        self.server.start()
        self.sockets: list[socket.socket] = []

    def connect(self, family: str = "unix", hello: bytes = HELLO) -> RawClient:
        """A client in transmission phase."""
        if family == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(self.path))
        else:
            sock = socket.create_connection(self.tcp.getsockname())
        self.sockets.append(sock)
        return RawClient(sock, self.bench.step, hello)

    def close(self) -> None:
        """Everything."""
        self.server.close()
        for sock in (*self.sockets, self.tcp, self.unix):
            sock.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service with default limits."""
    service = Service(tmp_path / "nbd.sock")
    yield service
    service.close()


def hold(service: Service) -> None:
    """From here on the driver does nothing until `release`."""
    service.bench.work_max = 0


def release(service: Service) -> None:
    """The driver works again."""
    service.bench.work_max = 1000
    service.bench.settle()


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_a_client_reads_what_it_wrote(service: Service, family: str) -> None:
    """Write, read, flush, trim, zeroes and FUA over both kinds of sockets."""
    client = service.connect(family)
    assert client.call(WRITE, 4096, data=b"x" * 8192, flags=1) == (0, b"")
    assert client.call(READ, 4096, 8192) == (0, b"x" * 8192)
    assert client.call(FLUSH) == (0, b"") and service.driver.flushes == 1
    assert client.call(TRIM, 4096, 512) == (0, b"") and client.call(WRITE_ZEROES, 8192, 512, flags=2) == (0, b"")
    assert client.call(READ, 4096, 1024) == (0, bytes(512) + b"x" * 512)
    assert client.call(VENDOR, 123, 456) == (0, b"")


def test_replies_may_come_in_another_order(service: Service) -> None:
    """A hundred requests in flight, answered at random, each with its own data."""
    service.driver.reorder = True
    service.driver.fragments = True
    client = service.connect()
    for sector in range(100):
        client.ask(WRITE, 1000 + sector, sector * 512, data=bytes([sector]) * 512)
    assert sorted(client.reply() for _ in range(100)) == [(1000 + sector, 0, b"") for sector in range(100)]
    for sector in range(100):
        client.ask(READ, sector, sector * 512, 512)
    replies = [client.reply() for _ in range(100)]
    assert sorted(replies) == [(sector, 0, bytes([sector]) * 512) for sector in range(100)]
    assert [cookie for cookie, _, _ in replies] != list(range(100))


def test_refused_requests_never_reach_the_driver(service: Service) -> None:
    """Unaligned, out of range, unknown, too long: an error each, and the connection goes on."""
    client = service.connect()
    unaligned, beyond = [(READ, 1, 512), (READ, 0, 100)], [(READ, SIZE, 512), (TRIM, SIZE, 512)]
    cases = [*unaligned, *beyond, (READ, 0, LENGTH_MAX + 512), (5, 0, 512)]
    assert [client.call(*case)[0] for case in cases] == [Errno.EINVAL] * len(cases)
    assert client.call(WRITE, SIZE - 512, data=bytes(1024))[0] == Errno.ENOSPC
    assert client.call(WRITE, 1, data=bytes(512))[0] == Errno.EINVAL
    assert client.call(READ, 0, 0) == (0, b"") and not service.driver.handled
    assert client.call(READ, 0, 512) == (0, bytes(512)) and service.driver.handled == [1]


def test_a_long_write_is_split_and_answered_once(service: Service) -> None:
    """Five and a half megabytes go to the driver in six parts, and come back from it in six."""
    client = service.connect()
    payload = b"".join(number.to_bytes(4, "big") for number in range(11 * MIB // 8))
    assert client.call(WRITE, 512, data=payload) == (0, b"")
    assert service.driver.handled == [1, 2, 3, 4, 5, 6]
    service.driver.reorder = True
    assert client.call(READ, 512, len(payload)) == (0, payload)
    assert client.call(WRITE_ZEROES, 0, 40 * MIB) == (0, b"")
    assert not any(service.driver.disk) and client.call(READ, 0, LENGTH_MAX) == (0, bytes(LENGTH_MAX))


@pytest.mark.parametrize("kind", [READ, WRITE, TRIM])
def test_an_error_in_one_part_is_the_error_of_the_whole(service: Service, kind: int) -> None:
    """The client gets exactly one reply, EIO, after all parts are done."""
    service.driver.poison = {2 * MIB}
    client = service.connect()
    length = 4 * MIB
    assert client.call(kind, 0, length, data=b"y" * length if kind == WRITE else b"") == (Errno.EIO, b"")
    assert client.call(READ, 3 * MIB, 512) == (0, b"y" * 512 if kind == WRITE else bytes(512))
    assert service.server.outstanding == 0 and service.bench.deaths in (2, 3)  # alone at first, or in company


def test_a_long_write_out_of_range_is_refused_once(service: Service) -> None:
    """All of its payload is read and none of it written."""
    client = service.connect()
    assert client.call(WRITE, SIZE - 2 * MIB, data=b"z" * (4 * MIB)) == (Errno.ENOSPC, b"")
    assert client.call(READ, SIZE - 2 * MIB, 512) == (0, bytes(512)) and service.driver.handled == [1]


def test_a_write_beyond_the_limit_gets_an_error_and_the_end(service: Service) -> None:
    """32 MiB is what the server takes in one request."""
    client = service.connect()
    client.ask(WRITE, 5, 0, LENGTH_MAX + 512)
    assert client.reply() == (5, Errno.EINVAL, b"") and client.at_end()


def test_a_driver_crash_is_a_pause(service: Service) -> None:
    """64 in flight, one of them poisoned: one error."""
    service.driver.poison = {37 * 512}
    client = service.connect()
    for sector in range(64):
        client.ask(WRITE, sector, sector * 512, data=b"a" * 512)
    errors = {cookie: error for cookie, error, _ in (client.reply() for _ in range(64))}
    assert errors == {sector: Errno.EIO if sector == 37 else 0 for sector in range(64)}
    assert service.bench.deaths == 3


def test_a_driver_that_talks_nonsense_is_restarted(service: Service) -> None:
    """The client gets right answers all the same."""
    service.driver.nonsense = 3
    client = service.connect()
    for sector in range(5):
        client.ask(READ, sector, sector * 512, 512)
    assert sorted(client.reply() for _ in range(5)) == [(sector, 0, bytes(512)) for sector in range(5)]
    assert service.bench.deaths == 1 and "magic" in service.bench.violations[0]


# -- connections that end -------------------------------------------------------------------------------------------


def test_disconnecting_waits_for_outstanding_replies(service: Service) -> None:
    """Requests before DISC are answered, then the connection is closed and the journal told."""
    client = service.connect()
    hold(service)
    for cookie in range(3):
        client.ask(WRITE, cookie, cookie * 512, data=b"d" * 512)
    client.ask(DISC, 9)
    service.bench.settle()
    assert service.bench.journal.open_connections == [1]
    release(service)
    assert [client.reply() for _ in range(3)] == [(cookie, 0, b"") for cookie in range(3)]
    assert client.at_end() and service.bench.journal.open_connections == [] and not service.server.connections


def test_a_goodbye_without_waiting_is_honoured(service: Service) -> None:
    """A client that sends requests and DISC and hangs up gets them executed."""
    client = service.connect()
    client.send(request_frame(WRITE, 0, 1, 0, 512, b"q" * 512) + request_frame(DISC, 0, 2, 0, 0))
    client.close()
    service.bench.settle()
    assert service.driver.disk[:512] == b"q" * 512 and not service.server.connections


def test_a_goodbye_is_found_behind_requests_that_were_not_read(tmp_path: Path) -> None:
    """The client was not read for a while, since it had much in flight; its goodbye counts all the same."""
    service = Service(tmp_path / "s", Limits(in_flight_max=2))
    client = service.connect()
    hold(service)
    for round_ in range(2):
        for sector in range(4):
            client.ask(WRITE, sector, (4 * round_ + sector) * 512, data=b"g" * 512)
        service.bench.settle()
    client.ask(DISC, 9)
    client.close()
    release(service)
    assert service.driver.disk[: 8 * 512] == b"g" * (8 * 512) and not service.server.connections
    service.close()


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_unread_requests_of_a_dead_connection_are_discarded(service: Service, family: str) -> None:
    """A client that hangs up without DISC has no reply to hope for, and may already be sending again."""
    client = service.connect(family)
    client.call(READ, 0, 512)
    client.send(request_frame(WRITE, 0, 1, 0, 512, b"q" * 512))
    client.close()
    service.bench.settle()
    assert not any(service.driver.disk[:512]) and service.bench.journal.open_connections == []


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_a_resent_write_never_meets_its_late_twin(service: Service, family: str) -> None:
    """The old connection's write is in the driver or unread when a new one writes newer data: the newer data stays."""
    for round_ in range(20):
        old = service.connect(family)
        old.call(READ, 0, 512)
        hold(service)
        old.ask(WRITE, 1, 0, data=b"old!" * 128)
        if round_ % 2:
            service.bench.step()
        old.close()
        new = service.connect(family)
        new.ask(WRITE, 2, 0, data=b"new!" * 128)
        service.driver.reorder = True
        release(service)
        assert new.reply() == (2, 0, b"")
        assert new.call(READ, 0, 512) == (0, b"new!" * 128)
        new.close()


def test_the_end_of_a_connection_precedes_requests_that_come_after_it(service: Service) -> None:
    """Also when the server meets both in one turn, and on a connection that was open before."""
    first, second = service.connect(), service.connect()
    first.call(READ, 0, 512)
    second.call(READ, 0, 512)
    first.send(request_frame(WRITE, 0, 1, 0, 512, b"1" * 512))
    first.close()
    second.send(request_frame(WRITE, 0, 2, 0, 512, b"2" * 512))
    events = service.server.take_events()
    assert [event.kind for event in events] == [EventKind.BLOCK_CLOSE, EventKind.BLOCK_REQUEST]
    assert decode_close(events[0].data) == 1 and decode_request(events[1].data).data == b"2" * 512


def test_an_end_in_the_middle_of_a_turn_is_seen_before_requests_are_picked(service: Service) -> None:
    """The poller reports the second connection; before the server reads it, the first ends and its twin is sent."""
    first, second = service.connect(), service.connect()
    first.call(READ, 0, 512)
    second.call(READ, 0, 512)
    twin = next(c for c in service.server._connections.values() if c.name == 2)
    read = twin.read

    def late(scratch: memoryview) -> bool:
        if first.sock.fileno() >= 0:
            first.close()
            second.send(request_frame(WRITE, 0, 2, 0, 512, b"2" * 512))
        return read(scratch)

    twin.read = late  # type: ignore[method-assign]
    second.send(request_frame(READ, 0, 1, 0, 512))
    events = service.server.take_events()
    assert [event.kind for event in events] == [EventKind.BLOCK_CLOSE] + [EventKind.BLOCK_REQUEST] * 2


def test_a_reply_for_a_client_that_is_gone_is_ignored(service: Service) -> None:
    """It hung up while the driver worked."""
    client = service.connect()
    hold(service)
    client.ask(WRITE, 1, 0, data=b"w" * 512)
    service.bench.settle()
    client.close()
    service.bench.settle()
    assert service.server.outstanding == 0 and service.bench.journal.outstanding == 1
    release(service)
    assert service.bench.journal.outstanding == 0 and not service.bench.violations


def test_nonsense_ends_one_connection_only(service: Service) -> None:
    """The server counts it and remembers why."""
    bad, good = service.connect(), service.connect()
    bad.send(bytes(28))
    assert bad.at_end() and good.call(READ, 0, 512) == (0, bytes(512))
    assert service.server.refused == 1 and "magic" in service.server.refusal


def test_connections_without_requests_are_unknown_to_the_journal(service: Service) -> None:
    """No event for a client that only asked for the size."""
    service.connect().close()
    assert service.server.take_events() == [] and service.server.connections == 0


# -- going live ------------------------------------------------------------------------------------------------------


def test_a_successor_continues_numbers_and_buries_connections(service: Service, tmp_path: Path) -> None:
    """After `adopt` the dead side's connections end first; new names and numbers follow the old ones."""
    client = service.connect()
    client.call(WRITE, 0, data=b"s" * 512)
    hold(service)
    client.ask(WRITE, 1, 512, data=b"t" * 512)
    service.bench.settle()
    journal = service.bench.journal
    service.server.close()
    after = Bench([service.tcp, service.unix], SIZE)
    after.journal, after.driver = journal, service.driver
    journal._emit = after._emit
    after.server.adopt(journal.next_number, journal.open_connections)
    assert after.server.busy
    after.server.start()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(service.path))
    again = RawClient(sock, after.step)
    assert again.call(WRITE, 512, data=b"T" * 512) == (0, b"")
    assert again.call(READ, 0, 1024) == (0, b"s" * 512 + b"T" * 512)
    assert journal.open_connections == [3] and service.driver.handled == [1, 2, 3, 4]
    again.close()
    after.server.close()


def test_only_a_live_side_accepts(service: Service) -> None:
    """Before `start` and after `stop` clients wait in the queue of the listening socket."""
    service.server.stop()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(service.path))
    service.bench.settle()
    assert service.server.connections == 0
    service.server.start()
    assert RawClient(sock, service.bench.step).call(READ, 0, 512) == (0, bytes(512))
    service.server.stop()
    assert service.server.connections == 0
    assert service.server.take_events() == [Event(EventKind.BLOCK_CLOSE, 0, encode_close(1))]
    sock.close()


# -- limits ----------------------------------------------------------------------------------------------------------


def test_one_client_cannot_fill_the_machine(tmp_path: Path) -> None:
    """Its requests in flight are bounded, the rest is left in its socket; another client's turn comes at once."""
    service = Service(tmp_path / "s", Limits(in_flight_max=8))
    greedy, modest = service.connect(), service.connect()
    hold(service)
    greedy.send(b"".join(request_frame(READ, 0, cookie, 0, 512) for cookie in range(1000)))
    greedy.asked.update(dict.fromkeys(range(1000), 512))
    modest.ask(READ, 1, 0, 512)
    service.bench.settle()
    assert service.server.outstanding == 9
    release(service)
    assert modest.reply() == (1, 0, bytes(512))
    assert [greedy.reply()[0] for _ in range(1000)] == list(range(1000))
    service.close()


def test_clients_take_turns(tmp_path: Path) -> None:
    """With room for few bytes, parts of two long requests alternate."""
    service = Service(tmp_path / "s", Limits(in_flight_bytes_max=MIB))
    clients = [service.connect(), service.connect()]
    hold(service)
    for client in clients:
        client.ask(READ, 7, 0, 4 * MIB)
    picked = []
    for _ in range(8):
        for event in service.server.take_events():
            picked.append(decode_request(event.data).connection)
            service.bench.journal.request(event.data, 0)
        service.driver.work()
    assert picked == [1, 2] * 4
    assert all(client.reply() == (7, 0, bytes(4 * MIB)) for client in clients)
    service.close()


def test_a_client_that_does_not_read_is_not_served_further(tmp_path: Path) -> None:
    """Unsent replies are bounded; when it reads at last, it gets everything, and others were never held up."""
    service = Service(tmp_path / "s", Limits(unsent_bytes_max=MIB))
    slow, quick = service.connect(), service.connect()
    slow.send(b"".join(request_frame(READ, 0, cookie, 0, 65536) for cookie in range(400)))
    slow.asked.update(dict.fromkeys(range(400), 65536))
    service.bench.settle()
    handled = len(service.driver.handled)
    assert handled < 200 and quick.call(READ, 0, 512) == (0, bytes(512))
    assert [slow.reply() for _ in range(400)] == [(cookie, 0, bytes(65536)) for cookie in range(400)]
    service.close()


def test_clients_that_do_not_read_cannot_fill_the_host_together(tmp_path: Path) -> None:
    """Beyond the limit of all, each has its share; one that reads is served as ever, and nobody loses a reply."""
    limits = Limits(connections_max=16, owed_bytes_max=8 * MIB, in_flight_bytes_max=MIB)
    service = Service(tmp_path / "s", limits)
    slow = [service.connect() for _ in range(12)]
    for client in slow:
        client.send(b"".join(request_frame(READ, 0, cookie, 0, 65536) for cookie in range(100)))
        client.asked.update(dict.fromkeys(range(100), 65536))
    service.bench.settle()
    assert 8 * MIB < service.server.owed <= 8 * MIB + len(slow) * limits.share + limits.in_flight_bytes_max
    assert service.connect().call(READ, 0, MIB) == (0, bytes(MIB))
    for client in slow:
        assert [client.reply()[0] for _ in range(100)] == list(range(100))
    assert service.server.owed == 0
    service.close()


def test_long_reads_wait_until_there_is_room_to_join_them(tmp_path: Path) -> None:
    """Eight clients want 8 MiB each in one reply, where 20 MiB are the limit: never more, and all get theirs."""
    service = Service(tmp_path / "s", Limits(owed_bytes_max=20 * MIB, in_flight_bytes_max=MIB))
    clients = [service.connect() for _ in range(8)]
    most = 0

    def step() -> None:
        nonlocal most
        service.bench.step()
        most = max(most, service.server.owed)

    for client in clients:
        client.step = step
        client.ask(READ, 3, 0, 8 * MIB)
    assert all(client.reply() == (3, 0, bytes(8 * MIB)) for client in clients)
    assert 8 * MIB < most <= 20 * MIB and service.server.owed == 0
    service.close()


def test_a_read_longer_than_the_limit_of_all_is_served_when_it_is_alone(tmp_path: Path) -> None:
    service = Service(tmp_path / "s", Limits(owed_bytes_max=2 * MIB))
    assert service.connect().call(READ, 0, 4 * MIB) == (0, bytes(4 * MIB))
    service.close()


def test_a_client_that_reads_nothing_is_dropped_once_others_have_to_wait_for_it(tmp_path: Path) -> None:
    """As long as there is room it may take its time."""
    service = Service(tmp_path / "s", Limits(owed_bytes_max=8 * MIB, stalled_s=10.0))
    hog = service.connect()
    hog.ask(READ, 1, 0, 8 * MIB)
    service.bench.settle()
    for now in range(0, 100, 5):
        service.server.tick(float(now))
    assert service.server.connections == 1
    waiting = service.connect()
    waiting.ask(READ, 2, 0, 8 * MIB)
    service.bench.settle()
    assert service.server.owed <= 8 * MIB
    service.server.tick(100.0)
    assert service.server.connections == 1 and "read nothing" in service.server.refusal
    assert waiting.reply() == (2, 0, bytes(8 * MIB))
    service.close()


def test_a_handshake_has_to_end(service: Service) -> None:
    """Connections that say nothing, or half of it, hold no slot for ever; others are not hurried."""
    silent, slow = service.connect(hello=b""), service.connect(hello=b"")
    slow.send(HELLO[:-1])
    done = service.connect()
    for now in (0.0, 9.9):
        service.server.tick(now)
    assert service.server.connections == 3
    slow.send(HELLO[-1:])
    service.bench.settle()
    service.server.tick(10.0)
    assert service.server.connections == 2 and silent.at_end()
    service.server.tick(1000.0)
    assert service.server.connections == 2 and done.call(READ, 0, 512) == (0, bytes(512))


def test_connections_are_bounded(tmp_path: Path) -> None:
    """A client too many waits until another one leaves."""
    service = Service(tmp_path / "s", Limits(connections_max=2))
    first, _second = service.connect(), service.connect()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(service.path))
    service.bench.settle()
    assert service.server.connections == 2
    first.close()
    assert RawClient(sock, service.bench.step).call(READ, 0, 512) == (0, bytes(512))
    sock.close()
    service.close()


def test_an_idle_service_wants_nothing(service: Service) -> None:
    """With clients connected, paused or gone, the poller is quiet once all is done: no busy loop."""
    import select

    clients = [service.connect(), service.connect("tcp")]
    for client in clients:
        client.call(WRITE, 0, data=b"i" * 512)
    hold(service)
    clients[0].ask(READ, 1, 0, 512)
    clients[1].send(request_frame(WRITE, 0, 1, 0, 4096)[:20])
    service.bench.settle()
    poller = select.poll()
    poller.register(service.server.fileno(), select.POLLIN)
    assert poller.poll(0) == [] and not service.server.busy
    clients[0].send(request_frame(DISC, 0, 2, 0, 0))
    service.bench.settle()
    clients[0].sock.shutdown(socket.SHUT_WR)
    service.bench.settle()
    assert poller.poll(0) == [] and not service.server.busy
    release(service)
    assert clients[0].reply() == (1, 0, b"i" * 512) and poller.poll(0) == []


def test_the_loop_is_called_back(service: Service) -> None:
    """`attach` hands one descriptor to the process's poller; `turn` is its callback."""
    watched: dict[int, object] = {}

    class Watcher:
        def watch(self, fd: int, events: int, callback: object) -> None:
            watched[fd] = callback

        def unwatch(self, fd: int) -> None:
            del watched[fd]

    service.server.attach(Watcher())
    assert watched == {service.server.fileno(): service.server.turn}

    def step() -> None:
        service.server.turn()
        service.bench.step()

    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(service.path))
    assert RawClient(sock, step).call(READ, 0, 512) == (0, bytes(512))
    sock.close()
    service.server.close()
    assert not watched


def test_nothing_is_kept_of_clients_that_are_gone(service: Service) -> None:
    """A thousand short connections leave no objects behind."""
    from ftvm.service.connection import Connection

    for _ in range(200):
        client = service.connect()
        client.call(READ, 0, 512)
        client.close()
    service.bench.settle()
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Connection)]
