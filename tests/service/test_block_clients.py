# SPDX-License-Identifier: GPL-2.0-or-later
"""Real NBD clients, unmodified, against the block service in this process.

Without the clients' programs these tests are skipped, except where `CI` is set: there they must run.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from block_bench import Bench, listen_tcp, listen_unix

from tests.pair_processes.tools import tool

SIZE = 16 << 20


def run(name: str, *arguments: str, status: int = 0) -> str:
    """Run a client to its end; its output."""
    done = subprocess.run([tool(name), *arguments], capture_output=True, text=True, timeout=30)
    output = done.stdout + done.stderr
    assert done.returncode == status, f"{name} {' '.join(arguments)}: exit {done.returncode}\n{output}"
    return output


class Place:
    """A running service and its two addresses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners = [listen_tcp(), listen_unix(path / "nbd.sock")]
        self.bench = Bench(self.listeners, SIZE)
        self.unix = f"nbd+unix:///?socket={path}/nbd.sock"
        self.tcp = f"nbd://127.0.0.1:{self.listeners[0].getsockname()[1]}"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The service of this test."""
    place = Place(tmp_path)
    with place.bench:
        yield place
    for listener in place.listeners:
        listener.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file of random bytes, as large as the export, with a hole in it."""
    path = tmp_path / "image"
    content = bytearray(os.urandom(SIZE))
    content[SIZE // 4 : SIZE // 2] = bytes(SIZE // 4)
    path.write_bytes(content)
    return path


def test_nbdinfo_sees_the_export(place: Place) -> None:
    """Size, flags, block sizes, and the list of exports."""
    text = run("nbdinfo", place.tcp)
    for line in (
        f"export-size: {SIZE}",
        "can_flush: true",
        "can_fua: true",
        "can_trim: true",
        "can_zero: true",
        "can_multi_conn: true",
        "block_size_minimum: 512",
        "block_size_maximum: 1048576",
    ):
        assert line in text
    assert 'export="disk"' in run("nbdinfo", "--list", place.unix)
    assert run("nbdinfo", "--size", f"{place.tcp}/disk").strip() == str(SIZE)
    assert "export" in run("nbdinfo", f"{place.tcp}/other", status=1)


@pytest.mark.parametrize("driver", ["well", "crashing"])
def test_nbdcopy_there_and_back(place: Place, image: Path, driver: str) -> None:
    """Many requests on four connections, over both addresses; a driver that dies on the way is not noticed."""
    if driver == "crashing":
        place.bench.driver.nonsense = 20
        place.bench.driver.reorder = True
    run("nbdcopy", "--connections=4", "--requests=64", str(image), place.tcp)
    assert place.bench.driver.disk == image.read_bytes()
    run("nbdcopy", "--connections=4", place.unix, str(place.path / "back"))
    assert (place.path / "back").read_bytes() == image.read_bytes()
    assert place.bench.deaths == (driver == "crashing")


def test_qemu_img_convert_and_compare(place: Place, image: Path) -> None:
    """Convert to and from the service, and compare."""
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), place.unix)
    assert place.bench.driver.disk == image.read_bytes()
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), place.tcp)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", place.tcp, str(place.path / "back.qcow2"))
    assert "identical" in run("qemu-img", "compare", str(image), str(place.path / "back.qcow2"), "-f", "raw")


def test_qemu_io_commands(place: Place) -> None:
    """Unaligned for the server, FUA, flush, discard, zeroes, asynchronous ones."""
    commands = [
        "write -P 7 0 4M",
        "write -P 9 100 50",
        "read -P 7 0 100",
        "read -P 9 100 50",
        "write -f -P 5 1M 4k",
        "flush",
        "discard 2M 1M",
        "read -P 0 2M 1M",
        "write -z 3M 512k",
        "read -P 0 3M 512k",
        "aio_write -P 1 5M 64k",
        "aio_write -P 2 6M 64k",
        "aio_flush",
        "read -P 2 6M 64k",
    ]
    text = run("qemu-io", "-f", "raw", *(part for command in commands for part in ("-c", command)), place.tcp)
    assert "failed" not in text and "error" not in text
    assert place.bench.driver.flushes >= 1


def test_qemu_io_is_told_of_the_poisoned_request_only(place: Place) -> None:
    """The driver dies of one block; its neighbours are served."""
    place.bench.driver.poison = {64 << 10}
    text = run("qemu-io", "-f", "raw", "-c", "write -P 1 64k 4k", "-c", "write -P 1 68k 4k", place.unix, status=1)
    assert "write failed: Input/output error" in text and "wrote 4096/4096 bytes at offset 69632" in text
    assert place.bench.deaths == 2


def test_qemu_io_reconnects_to_a_successor(place: Place) -> None:
    """With reconnect-delay a client goes on when another side serves the same address."""
    options = f"driver=nbd,server.type=unix,server.path={place.path}/nbd.sock,reconnect-delay=10"
    client = subprocess.Popen(
        [tool("qemu-io"), "--image-opts", options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert client.stdin is not None
    client.stdin.write("write -P 1 0 64k\n")
    client.stdin.flush()
    place.bench.wait(lambda: place.bench.driver.disk[0] == 1)
    place.bench.__exit__()
    client.stdin.write("write -P 2 64k 64k\nread -P 1 0 64k\nflush\nquit\n")
    client.stdin.flush()
    time.sleep(0.1)
    after = Bench(place.listeners, SIZE)
    after.journal, after.driver = place.bench.journal, place.bench.driver
    after.journal._emit = after._emit
    after.server.adopt(after.journal.next_number, after.journal.open_connections)
    with after:
        text, _ = client.communicate(timeout=20)
    assert client.returncode == 0 and "failed" not in text, text
    assert after.driver.disk[65536] == 2 and after.driver.flushes >= 1


def test_fio_verifies_what_it_wrote(place: Place) -> None:
    """Random writes, 16 in flight, then read back and compared by checksum."""
    if "nbd" not in run("fio", "--enghelp"):
        pytest.skip("this fio has no nbd engine")
    place.bench.driver.reorder = True
    text = run(
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={place.unix}",
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=16",
        "--io_size=8M",
        "--size=8M",
        "--verify=crc32c",
        "--verify_state_save=0",
    )
    assert "err= 0" in text


def test_clients_together_see_one_disk(place: Place, image: Path) -> None:
    """Two copies at once over both addresses, and what one wrote the other reads."""
    copies = [
        subprocess.Popen([tool("nbdcopy"), str(image), uri], stderr=subprocess.PIPE) for uri in (place.tcp, place.unix)
    ]
    assert [copy.wait(timeout=30) for copy in copies] == [0, 0]
    assert place.bench.driver.disk == image.read_bytes()
    place.bench.wait(lambda: place.bench.server.connections == 0)
    assert place.bench.journal.open_connections == [] and place.bench.journal.outstanding == 0


def test_a_tcp_client_that_vanishes_leaves_nothing(place: Place) -> None:
    """A reset in the middle of a request."""
    sock = socket.create_connection(place.listeners[0].getsockname())
    sock.recv(18)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    place.bench.wait(lambda: place.bench.server.connections == 0)
