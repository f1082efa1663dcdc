# SPDX-License-Identifier: GPL-2.0-or-later
"""The client against a real server that is killed and comes back, and against servers that never do."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from ftvm.demo.nbd_client import NO_CONNECTION, Address, NbdClient, Outcome
from ftvm.demo.nbd_wire import Command, NbdError, Request

from .servers import SIZE, QemuNbd, closing


@pytest.fixture(params=["unix", "tcp"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address for a server to listen at."""
    return f"unix:{tmp_path}/nbd.sock" if request.param == "unix" else "tcp"


def test_many_requests_in_flight_come_back_with_their_own_data(where: str, tmp_path: Path) -> None:
    async def scenario(client: NbdClient) -> None:
        assert (await client.open()).size == SIZE
        writes = [Request(Command.WRITE, n * 4096, data=bytes([n]) * 4096) for n in range(64)]
        await asyncio.gather(*map(client.request, writes))
        await client.request(Request(Command.FLUSH))
        reads = [Request(Command.READ, n * 4096, 4096) for n in range(64)]
        assert await asyncio.gather(*map(client.request, reads)) == [bytes([n]) * 4096 for n in range(64)]
        await client.request(Request(Command.WRITE_ZEROES, 4096, 8192))
        assert await client.request(Request(Command.READ, 0, 12288)) == bytes(12288)
        assert client.retried == 0 and client.in_flight == 0 and not client.gaps
        await client.close()

    with closing(QemuNbd(tmp_path / "disk", where)) as server:
        asyncio.run(scenario(NbdClient(Address.parse(server.address))))


def test_killed_server_delays_requests_but_each_is_answered_once(where: str, tmp_path: Path) -> None:
    async def scenario(client: NbdClient, server: QemuNbd) -> None:
        await client.open()
        answers: Counter[int] = Counter()
        attempts: list[int] = []
        kills: list[float] = []

        def answered(number: int, outcome: Outcome) -> None:
            assert outcome.error == 0
            answers[number] += 1
            attempts.append(outcome.attempts)

        for number in range(600):
            data = bytes([number % 250 + 1]) * 4096
            request = Request(Command.WRITE, number * 4096, data=data)
            client.submit(request, lambda outcome, number=number: answered(number, outcome))
            if number in (200, 400):
                client.flush()
                kills.append(time.monotonic())
                server.kill_primary()
                await asyncio.sleep(0.3)
        while client.unanswered:
            await asyncio.sleep(0.01)
        assert answers == Counter(range(600))
        assert client.connections == 3 and client.retried > 0
        assert client.retried == sum(count - 1 for count in attempts) == sum(gap.resent for gap in client.gaps)
        for kill, gap in zip(kills, client.gaps, strict=True):
            assert gap.last_reply_before <= gap.lost < gap.first_reply_after
            assert kill < gap.first_reply_after < kill + 2
        await client.close()

    with closing(QemuNbd(tmp_path / "disk", where)) as server:
        asyncio.run(scenario(NbdClient(Address.parse(server.address)), server))
        disk = (tmp_path / "disk").read_bytes()
        assert all(disk[n * 4096 : n * 4096 + 4096] == bytes([n % 250 + 1]) * 4096 for n in range(600))


def test_connection_that_nobody_accepts_yet_is_waited_for(tmp_path: Path) -> None:
    async def scenario(client: NbdClient, server: QemuNbd) -> None:
        await client.open()
        server.kill()
        read = asyncio.create_task(client.request(Request(Command.READ, 0, 512)))
        await asyncio.sleep(0.5)
        assert not read.done() and not client.connected and client.in_flight == 0 and client.unanswered == 1
        server.start()
        assert await asyncio.wait_for(read, 5) == bytes(512)
        await client.close()

    with closing(QemuNbd(tmp_path / "disk", "tcp")) as server:
        asyncio.run(scenario(NbdClient(Address.parse(server.address)), server))


def test_error_reply_is_told_in_words_and_the_client_goes_on(tmp_path: Path) -> None:
    async def scenario(client: NbdClient) -> None:
        await client.open()
        with pytest.raises(NbdError, match=f"READ at {SIZE}: the server answers EINVAL"):
            await client.request(Request(Command.READ, SIZE, 512))
        with pytest.raises(NbdError, match="vendor command 0x4654 at 1: the server answers EINVAL"):
            await client.request(Request(0x4654, 1))
        assert await client.request(Request(Command.READ, 0, 512)) == bytes(512)
        assert client.connections == 1
        await client.close()

    with closing(QemuNbd(tmp_path / "disk", "tcp")) as server:
        asyncio.run(scenario(NbdClient(Address.parse(server.address))))


def test_client_gives_up_in_words_when_its_patience_ends(tmp_path: Path) -> None:
    async def scenario(client: NbdClient, server: QemuNbd) -> None:
        await client.open()
        server.kill()
        outcomes: list[Outcome] = []
        client.submit(Request(Command.FLUSH), outcomes.append)
        with pytest.raises(NbdError, match=r"no connection: .* did not shake hands in time"):
            await client.request(Request(Command.READ, 0, 512))
        assert [outcome.error for outcome in outcomes] == [NO_CONNECTION] and client.gave_up
        with pytest.raises(NbdError, match="no connection"):
            await client.request(Request(Command.FLUSH))
        await client.close()

    with closing(QemuNbd(tmp_path / "disk", "tcp")) as server:
        asyncio.run(scenario(NbdClient(Address.parse(server.address), patience_s=0.5), server))


def test_missing_server_is_told_in_words(tmp_path: Path) -> None:
    async def scenario() -> None:
        client = NbdClient(Address.parse(f"unix:{tmp_path}/none"), patience_s=0.2)
        with pytest.raises(NbdError, match=r"cannot connect to unix:.*tried for 0.2 s"):
            await client.open()
        await client.close()

    asyncio.run(scenario())


def test_server_of_another_protocol_is_told_in_words() -> None:
    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")

    async def scenario(port: int) -> None:
        client = NbdClient(Address("127.0.0.1", port), patience_s=0.3)
        with pytest.raises(NbdError, match=r"no newstyle NBD server: the greeting begins with b'SSH-2\.0"):
            await client.open()
        await client.close()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        asyncio.run(scenario(listener.getsockname()[1]))
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:10809", Address("127.0.0.1", 10809)),
        ("[::1]:1", Address("::1", 1)),
        ("unix:/run/nbd.sock", Address(path="/run/nbd.sock")),
    ],
)
def test_address_is_parsed_and_printed(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address).replace("::1:1", "[::1]:1")) == address


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "unix:"])
def test_malformed_address_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT or unix:PATH"):
        Address.parse(text)
