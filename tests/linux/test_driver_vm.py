# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Linux as the driver VM of the block service, by `translate` in its user space: every kind of request, whatever
comes out of the port, errors of the disk, every way to die; and a stack of the kernel's own drivers below it."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.virtio.blk import BlockIOError
from ftvm.machine import EpochEnd
from ftvm.pair_process import PairProcess
from ftvm.service.nbd import FLUSH, FUA, NO_HOLE, READ, REPLY_MAGIC, TRIM, VENDOR, WRITE, WRITE_ZEROES, Errno
from ftvm.testing import MakePair
from tests.linux.driver_vm import (
    CMDLINE,
    MIRROR_CMDLINE,
    MIRROR_SIZE,
    MIRROR_WANTED,
    MODULES,
    READY,
    DriverVm,
    driver_config,
    frame,
    mirror_files,
)
from tests.linux.guest import Booted
from tests.linux.stock import Stock, stock_or_skip

pytestmark = pytest.mark.timeout(600)

MIB = 1 << 20
SIZE = 32 * MIB


@pytest.fixture(scope="module")
def ready(stock: Stock) -> Booted:
    """A driver VM that serves its one disk, as bytes."""
    vm = DriverVm(driver_config(stock, str(stock.initramfs), f"{CMDLINE} modules={MODULES} serve=/dev/vda"))
    vm.until(READY)
    vm.settle()
    booted = vm.saved()
    vm.machine.close()
    return booted


@pytest.fixture
def vm(ready: Booted) -> Iterator[DriverVm]:
    """The same, to be used up."""
    vm = DriverVm.of(ready)
    yield vm
    vm.machine.close()


@pytest.fixture(scope="module")
def mirror() -> Stock:
    """Stock guests with the drivers and tools of a RAID1 and of encryption."""
    return stock_or_skip(MIRROR_WANTED)


# -- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_many_requests_at_once_do_what_they_say(vm: DriverVm, seed: int) -> None:
    """Rounds of requests that do not overlap, up to twice what the driver is given at a time, against a model."""
    chance, model = random.Random(seed), bytearray(SIZE)
    for _ in range(6):
        asked: list[tuple[object, ...]] = []
        expected: list[bytes] = []
        for slot in range(chance.choice((5, 60, 250))):
            start = slot * (SIZE // 250) // 512 * 512
            room = SIZE // 250 // 512 - 1
            length = 512 * chance.randint(1, chance.choice((1, 8, room)))
            kind = chance.choice((READ, READ, WRITE, WRITE, TRIM, WRITE_ZEROES))
            data = chance.randbytes(length) if kind == WRITE else b""
            flags = chance.choice((0, FUA)) if kind != READ else 0
            flags |= chance.choice((0, NO_HOLE)) if kind == WRITE_ZEROES else 0
            asked.append((kind, start, length, data, flags))
            expected.append(bytes(model[start : start + length]) if kind == READ else b"")
            if kind != READ:
                model[start : start + length] = data or bytes(length)
        asked.append((FLUSH,))
        expected.append(b"")
        assert vm.ask_all(*asked) == [(0, data) for data in expected], f"seed {seed}"
    assert vm.disks[0].read(0, SIZE) == model, f"seed {seed}"


def test_the_longest_requests_go_in_pieces(vm: DriverVm) -> None:
    """1 MiB each, four at once, at odd sectors."""
    chance = random.Random(4)
    content = [chance.randbytes(MIB) for _ in range(4)]
    places = [512 + n * (MIB + 1024) for n in range(4)]
    written = vm.ask_all(*((WRITE, place, 0, data) for place, data in zip(places, content, strict=True)))
    assert written == [(0, b"")] * 4
    assert vm.ask_all(*((READ, place, MIB) for place in places)) == [(0, data) for data in content]


def test_a_flush_and_a_durable_write_reach_the_disk(vm: DriverVm) -> None:
    disk = vm.disks[0]
    before = disk.flushes
    assert vm.ask(WRITE, 0, data=bytes(4096)) == (0, b"") and disk.flushes == before
    assert vm.ask(FLUSH) == (0, b"") and disk.flushes == before + 1
    for kind in (WRITE, TRIM, WRITE_ZEROES):
        before = disk.flushes
        data = bytes(4096) if kind == WRITE else b""
        assert vm.ask(kind, 8192, 4096, data, FUA) == (0, b"") and disk.flushes > before


def test_errors_of_the_disk_reach_the_client(vm: DriverVm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of what failed; afterwards the disk is served as before."""

    def refuse(*_: object) -> bytes:
        raise BlockIOError

    with monkeypatch.context() as broken:
        for name in ("read", "write", "flush", "zero", "discard"):
            broken.setattr(vm.disks[0], name, refuse)
        asked = [(READ, 0, 4096), (WRITE, 0, 0, bytes(4096)), (FLUSH,), (WRITE_ZEROES, 0, 4096), (READ, 0, MIB)]
        assert vm.ask_all(*asked) == [(Errno.EIO, b"")] * len(asked)
    assert vm.ask(READ, 0, 4096) == (0, bytes(4096))


# -- whatever comes out of the port ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "error"),
    [
        (frame(READ, SIZE, 512), Errno.EINVAL),
        (frame(READ, SIZE - 512, 1024), Errno.EINVAL),
        (frame(READ, (1 << 64) - 512, 1024), Errno.EINVAL),
        (frame(READ, 0, MIB + 512), Errno.EOVERFLOW),
        (frame(READ, 0, 0xFFFFFFFF), Errno.EOVERFLOW),
        (frame(READ, 1, 512), Errno.EINVAL),
        (frame(READ, 0, 100), Errno.EINVAL),
        (frame(READ, 0, 512, flags=2), Errno.EINVAL),
        (frame(WRITE, SIZE, data=bytes(512)), Errno.ENOSPC),
        (frame(WRITE, 0, data=bytes(MIB + 512)), Errno.EOVERFLOW),
        (frame(WRITE, 0, data=bytes(513)), Errno.EINVAL),
        (frame(WRITE_ZEROES, SIZE - 512, 1024), Errno.ENOSPC),
        (frame(TRIM, SIZE, 512), Errno.EINVAL),
        (frame(5, 0, 512), Errno.EINVAL),
        (frame(99), Errno.EINVAL),
        (frame(VENDOR, 0), Errno.EINVAL),
        (frame(VENDOR, 77), Errno.EINVAL),
    ],
)
def test_an_impossible_request_is_refused_and_the_next_is_served(
    vm: DriverVm, request_bytes: bytes, error: int
) -> None:
    """No journal would send it; the data of a refused write is skipped."""
    vm.begin_past_the_journal()
    vm.port(request_bytes + frame(READ, 0, 512, cookie=8))
    assert vm.answers(0, 512) == [(error, 7, b""), (0, 8, bytes(512))]


def test_requests_of_no_length_and_narrow_trims_are_done(vm: DriverVm) -> None:
    vm.begin_past_the_journal()
    vm.disks[0].write(0, b"x" * 2048)
    vm.port(frame(READ, 512) + frame(WRITE, 512, cookie=8) + frame(TRIM, 100, 1500, cookie=9))
    assert sorted(cookie for error, cookie, _ in vm.answers(0, 0, 0) if not error) == [7, 8, 9]
    assert vm.disks[0].read(0, 2048) == b"x" * 512 + bytes(1024) + b"x" * 512


@pytest.mark.parametrize("seed", range(2))
def test_it_does_not_matter_how_the_bytes_are_cut(vm: DriverVm, seed: int) -> None:
    """Requests and their data in pieces of one byte to many requests."""
    chance = random.Random(seed)
    vm.begin_past_the_journal()
    data = [chance.randbytes(512 * chance.randint(1, 40)) for _ in range(12)]
    stream = b"".join(frame(WRITE, n * 65536, data=content, cookie=n) for n, content in enumerate(data))
    while stream:
        count = chance.choice((1, 13, 27, 28, 29, 512, 4095, 4096, 4097, 60_000))
        vm.port(stream[:count])
        stream = stream[count:]
    assert sorted(cookie for _, cookie, _ in vm.answers(*[0] * 12)) == list(range(12))
    for n, content in enumerate(data):
        assert vm.disks[0].read(n * 65536, len(content)) == content, f"seed {seed}, write {n}"


def test_bytes_that_are_no_request_end_the_driver(vm: DriverVm) -> None:
    """It is the first process: the kernel panics."""
    vm.begin_past_the_journal()
    vm.port(b"\xa5" * 28)
    assert vm.until_it_dies() == EpochEnd.RESTARTED
    assert "instead of an NBD request's magic" in vm.console and "Kernel panic" in vm.console


# -- its deaths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "cause"),
    [
        (1, "sysrq triggered crash"),
        (2, "overdue"),
        (3, "reset"),
        (4, "Attempted to kill init"),
        (5, "overdue"),
        (6, f"{REPLY_MAGIC ^ 0xFFFFFFFF:#x}"),
    ],
)
def test_every_way_to_die_is_noticed(vm: DriverVm, mode: int, cause: str) -> None:
    """Panic, loop, reset, a killed program, a dropped request, a malformed reply."""
    assert vm.ask(WRITE, 0, data=b"a" * 512) == (0, b"")
    vm.run(vm.request(vm.connection, VENDOR, mode))
    assert vm.until_it_dies() == EpochEnd.RESTARTED
    assert cause in vm.notices[-1]


def test_a_killing_request_is_answered_with_an_error_and_no_other_is(vm: DriverVm) -> None:
    """Two kernels die of it while it is alone; what was asked with it is done by the third."""
    replies = vm.ask_all(
        (WRITE, 0, 0, b"a" * 4096), (VENDOR, 1), (READ, 0, 4096), (WRITE, 4096, 0, b"b" * 512), (READ, 8192, 512)
    )
    assert replies[1] == (Errno.EIO, b"")
    assert [error for error, _ in replies] == [0, Errno.EIO, 0, 0, 0]
    assert vm.machine.supervisor.restarts in (2, 3)
    assert vm.ask(READ, 0, 4608) == (0, b"a" * 4096 + b"b" * 512)


# -- a stack of the kernel's own drivers ------------------------------------------------------------------------------


def test_an_encrypted_mirror_is_served_past_a_broken_disk_and_a_death(mirror: Stock, tmp_path: Path) -> None:
    """RAID1 and dm-crypt below the service: nothing of it is known to the machine."""
    initrd = str(mirror.with_files(tmp_path / "initrd", mirror_files()))
    vm = DriverVm(driver_config(mirror, initrd, MIRROR_CMDLINE, 2, size=MIRROR_SIZE))
    vm.until(READY)
    content = random.Random(1).randbytes(MIB)
    assert vm.ask(WRITE, 3 * MIB + 512, data=content) == (0, b"") and vm.ask(FLUSH) == (0, b"")
    disks = [disk.read(0, SIZE) for disk in vm.disks]
    assert all(content[at : at + 64] not in image for image in disks for at in (0, 4096, MIB - 64)), "it is encrypted"
    where = [image.find(disks[0][8 * MIB : 8 * MIB + 64]) for image in disks]
    assert vm.ask(READ, 3 * MIB + 512, MIB) == (0, content), where
    vm.run(vm.request(vm.connection, VENDOR, 1))
    assert vm.until_it_dies() == EpochEnd.RESTARTED
    vm.go_on(lambda: vm.machine.outstanding == 0)
    assert vm.ask(READ, 3 * MIB + 512, MIB) == (0, content), "the mirror was assembled again"

    def refuse(*_: object) -> bytes:
        raise BlockIOError

    vm.disks[0].read = vm.disks[0].write = refuse  # type: ignore[assignment,method-assign]
    assert vm.ask(READ, 3 * MIB + 512, MIB) == (0, content), "one disk of the mirror is enough"
    assert vm.ask(WRITE, 0, data=content) == (0, b"") and vm.ask(READ, 0, MIB) == (0, content)
    vm.machine.close()


PAIR = """\
name = "driver"

[machine]
memory = "128 MiB"
kernel = "{kernel}"
initrd = "{initrd}"
cmdline = "{cmdline}"

[[disk]]
image = "disk0.img"
size = "32 MiB"

[[disk]]
image = "disk1.img"
size = "32 MiB"

[service.block]
listen = ["unix:nbd.sock"]
size = "{size}"
vendor = true

[driver]
watchdog_ms = 30000

[pair]
timeout_ms = 1000
"""


def run(*command: object) -> str:
    """A client of its own."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_an_encrypted_mirror_in_a_pair_outlives_its_host_and_its_driver(
    ftvm_pair: MakePair, mirror: Stock, tmp_path: Path
) -> None:
    """What nbdcopy wrote is what nbdcopy reads after a failover, and after the death of the driver."""
    initrd = mirror.with_files(tmp_path / "initrd", mirror_files())
    text = PAIR.format(kernel=mirror.kernel, initrd=initrd, cmdline=MIRROR_CMDLINE, size=MIRROR_SIZE)
    pair: PairProcess = ftvm_pair(text, wait=False)
    pair.wait_protected(240)
    address = pair.addresses[0]
    uri = f"nbd+unix:///?socket={address.removeprefix('unix:')}"
    image, copy = tmp_path / "image", tmp_path / "copy"
    image.write_bytes(random.Random(2).randbytes(24 * MIB))
    assert json.loads(run("nbdinfo", "--json", uri))["exports"][0]["export-size"] == 24 * MIB
    run("nbdcopy", "--flush", image, uri)
    pair.wait_protected(240)
    pair.kill_primary()
    run("nbdcopy", uri, copy)
    assert copy.read_bytes() == image.read_bytes(), "after a failover"
    restarts = pair.status()["driver_restarts"]
    pair.crash_driver(3)
    run("qemu-io", "-f", "raw", uri, "-c", "write -P 7 1M 64k", "-c", "flush")
    run("nbdcopy", uri, copy)
    expected = bytearray(image.read_bytes())
    expected[MIB : MIB + 65536] = b"\7" * 65536
    assert copy.read_bytes() == expected, "after the driver's death"
    assert pair.status()["driver_restarts"] > restarts
