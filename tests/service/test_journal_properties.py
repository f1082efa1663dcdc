# SPDX-License-Identifier: GPL-2.0-or-later
"""The journal under random histories: clients, driver deaths, host failovers, in every order.

A model of the world plays clients that write versions to a few sectors and resend on a new connection what the old one
did not acknowledge, a driver that executes in any order and dies, and hosts that save, restore and take over.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.event import Output
from ftvm.service.journal import WINDOW_BYTES, WINDOW_REQUESTS, Journal
from ftvm.service.nbd import READ, REQUEST, WRITE, Errno, reply_head
from ftvm.service.request import encode_close, encode_request

POISON = 512 * 99


@dataclass
class Client:
    """Writes growing versions to a sector of its own, one at a time; resends after a reconnect until acknowledged."""

    sector: int
    connection: int = 0
    version: int = 0
    pending: int = 0  # number of the request that carries `version`
    acknowledged: int = 0


@dataclass
class World:
    """Clients, one journal, one driver."""

    chance: random.Random
    clients: list[Client]
    disk: dict[int, int] = field(default_factory=dict)
    in_driver: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    asked: dict[int, int] = field(default_factory=dict)  # open requests: number -> offset
    violations: list[str] = field(default_factory=list)
    answered: dict[int, int] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    recovering: set[int] = field(default_factory=set)
    owner: dict[int, int] = field(default_factory=dict)
    deaths: int = 0
    fragile: bool = True  # the driver dies now and then without being asked to
    alone: dict[int, int] = field(default_factory=dict)  # deaths with this request alone in the driver

    def __post_init__(self) -> None:
        self.journal = self.make()
        self.twin = Journal(lambda frame: None, lambda output: None, lambda text: None, 1000)

    def make(self) -> Journal:
        return Journal(self.submit, self.outputs.append, self.violations.append, 1000)

    # -- the driver -------------------------------------------------------------------------------------------

    def submit(self, frame: bytes) -> None:
        _, _, kind, number, offset, _ = REQUEST.unpack_from(frame)
        assert number not in self.in_driver, "submitted twice"
        assert number not in self.answered, "submitted after its answer"
        assert number not in self.dropped or number in self.asked, "submitted after its connection had ended"
        if (self.recovering & self.asked.keys()) - {output.offset for output in self.outputs}:
            assert not self.in_driver, "not alone during recovery"
        mutating = [n for n, (k, _, _) in self.in_driver.items() if n in self.dropped and k == WRITE]
        assert not mutating, "the barrier was passed"
        version = int.from_bytes(frame[REQUEST.size : REQUEST.size + 8], "big") if kind == WRITE else 0
        self.in_driver[number] = (kind, offset, version)
        assert len(self.in_driver) <= WINDOW_REQUESTS and len(self.in_driver) * 512 <= WINDOW_BYTES

    def execute(self) -> None:
        """The driver handles one of its requests, and tells so in pieces."""
        if not self.in_driver:
            return
        number = self.chance.choice(list(self.in_driver))
        kind, offset, version = self.in_driver[number]
        if offset == POISON:
            self.die()
            return
        if kind == WRITE:
            self.disk[offset] = version
        reply = reply_head(number, 0) + (self.disk.get(offset, 0).to_bytes(8, "big") * 64 if kind == READ else b"")
        if self.fragile and self.chance.random() < 0.1:  # it dies while it is speaking
            self.feed("port_output", reply[: self.chance.randrange(1, len(reply))])
            self.die()
        else:
            del self.in_driver[number]
            self.tell(reply)

    def tell(self, data: bytes) -> None:
        cut = self.chance.randrange(len(data) + 1)
        for piece in (data[:cut], data[cut:]):
            if piece:
                self.feed("port_output", piece)

    def die(self) -> None:
        """In the middle of whatever; a request may have been executed without an answer."""
        self.deaths += 1
        if len(self.in_driver) == 1:
            number = next(iter(self.in_driver))
            self.alone[number] = self.alone.get(number, 0) + 1
        for kind, offset, version in self.in_driver.values():
            if kind == WRITE and offset != POISON and self.chance.random() < 0.5:
                self.disk[offset] = version
        self.recovering = {number for number in self.in_driver if number not in self.dropped}
        self.in_driver.clear()
        for journal in (self.journal, self.twin):
            journal.died()
        if self.chance.random() < 0.3:
            self.failover()
        for journal in (self.journal, self.twin):
            journal.restarted(0)
        self.take_outputs()

    # -- the hosts --------------------------------------------------------------------------------------------

    def feed(self, method: str, data: bytes) -> None:
        for journal in (self.journal, self.twin):
            getattr(journal, method)(data, 0)
        assert self.journal.digest() == self.twin.digest()
        self.take_outputs()

    def failover(self) -> None:
        """Another host goes on with the same state."""
        state = msgpack.unpackb(msgpack.packb(self.journal.save()), strict_map_key=False)
        self.journal = self.make()
        self.journal.restore(state)
        assert self.journal.save() == self.twin.save()

    def take_outputs(self) -> None:
        for output in self.outputs:
            number, error = output.offset, int.from_bytes(output.data[:4], "big")
            assert number in self.asked, "answered twice, or after its connection had ended"
            offset = self.asked.pop(number)
            assert output.unit == self.owner[number]
            assert (error == Errno.EIO) == (self.alone.get(number, 0) >= 2)
            assert error or offset != POISON
            self.answered[number] = error
            for client in self.clients:
                if client.pending == number:
                    client.pending = 0
                    if error:
                        continue
                    client.acknowledged = client.version
                    assert self.disk[client.sector * 512] == client.version, "an acknowledged write is lost"
        self.outputs.clear()

    # -- the clients ------------------------------------------------------------------------------------------

    def request(self, client: Client, kind: int, offset: int, version: int = 0) -> int:
        number = self.journal.next_number
        client.connection = client.connection or number
        self.asked[number], self.owner[number] = offset, client.connection
        data = version.to_bytes(8, "big") * 64 if kind == WRITE else b""
        if kind == WRITE:
            client.pending = number if offset == client.sector * 512 else client.pending
        self.feed("request", encode_request(client.connection, kind, 0, offset, 512, data))
        return number

    def write(self, client: Client) -> None:
        if not client.pending:
            client.version += 1
            self.request(client, WRITE, client.sector * 512, client.version)

    def reconnect(self, client: Client) -> None:
        """The connection breaks; the client sends its unacknowledged write again on a new one."""
        if not client.connection:
            return
        gone = [number for number in self.asked if self.owner[number] == client.connection]
        self.dropped.update(gone)
        for number in gone:
            del self.asked[number]
        connection, client.connection = client.connection, 0
        self.feed("close", encode_close(connection))
        if client.pending:
            self.request(client, WRITE, client.sector * 512, client.version)

    def check(self) -> None:
        assert not self.violations
        for client in self.clients:
            stored = self.disk.get(client.sector * 512, 0)
            assert client.acknowledged <= stored <= client.version, "a late twin overwrote a newer write"

    def settle(self) -> None:
        for _ in range(5000):
            if not self.journal.outstanding:
                break
            assert self.in_driver, "requests wait, but the driver has nothing to do"
            self.execute()
        assert self.journal.outstanding == 0 and not self.asked
        self.check()


ACTIONS = ("write", "write", "read", "burst", "execute", "execute", "execute", "reconnect", "die", "failover", "poison")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2)), max_size=40), st.integers(0, 2**32))
def test_every_history_loses_and_doubles_nothing(actions: list[tuple[str, int]], seed: int) -> None:
    """Each request of a living connection is answered once; the disk never goes back behind an acknowledged write."""
    world = World(random.Random(seed), [Client(sector) for sector in range(3)])
    for action, who in actions:
        client = world.clients[who]
        if action == "write":
            world.write(client)
        elif action == "reconnect":
            world.reconnect(client)
        elif action == "read":
            world.request(client, READ, client.sector * 512)
        elif action == "burst":
            for _ in range(50):
                world.request(client, READ, client.sector * 512)
        elif action == "poison":
            world.request(client, READ, POISON)
        else:
            getattr(world, action)()
        world.check()
    world.settle()


@pytest.mark.parametrize("seed", range(3))
def test_64_in_flight_with_one_poisoned_give_one_error(seed: int) -> None:
    """With hosts failing over in between; the other 63 succeed."""
    world = World(random.Random(seed), [Client(0)], fragile=False)
    poisoned = seed * 31
    for index in range(64):
        world.request(world.clients[0], READ, POISON if index == poisoned else 512 * index)
    while world.journal.outstanding:
        world.execute()
        world.failover()
    assert [error for error in world.answered.values() if error] == [Errno.EIO]
    assert len(world.answered) == 64 and 2 <= world.deaths <= 3
