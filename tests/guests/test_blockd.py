# SPDX-License-Identifier: GPL-2.0-or-later
"""blockd keeps the NBD transmission phase's promises, whatever the disk device offers and however the stream is cut."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from .conftest import DISK_BYTES, Blockd, StartBlockd, StartGuest
from .port_client import (
    DISC,
    EINVAL,
    EIO,
    ENOSPC,
    EOVERFLOW,
    EPERM,
    FLUSH,
    FUA,
    NO_HOLE,
    READ,
    REPLY_MAGIC,
    TRIM,
    WRITE,
    WRITE_ZEROES,
    PortClient,
)

KIB = 1024
MIB = 1 << 20

PLAIN = ",event_idx=off,indirect_desc=off"
DEVICES = {
    "all features": "",
    "plain rings": PLAIN,
    "no discard, no zeroes": ",discard=off,write-zeroes=off",
    "two segments": ",queue-size=4",
    "fourteen segments": ",queue-size=16,event_idx=off",
}


def pattern(seed: int, length: int) -> bytes:
    """Bytes that differ everywhere, the same for the same seed."""
    return random.Random(seed).randbytes(length)


@pytest.mark.parametrize("length", [512, 4 * KIB, 20 * KIB + 512, 64 * KIB, MIB])
def test_what_was_written_is_read_back(start_blockd: StartBlockd, length: int) -> None:
    """Through the guest, and in the image after a flush."""
    blockd = start_blockd()
    data = pattern(length, length)
    assert blockd.client.call(WRITE, 3 * 512, data=data).error == 0
    assert blockd.client.read(3 * 512, length) == data
    assert blockd.client.call(FLUSH).error == 0
    assert blockd.on_disk(3 * 512, length) == data
    assert blockd.on_disk(0, 3 * 512) == bytes(3 * 512)


@pytest.mark.parametrize("length", [4 * KIB, 64 * KIB])
def test_a_hundred_requests_are_in_flight_at_once(start_blockd: StartBlockd, length: int) -> None:
    """All are sent before the first reply is read; each is answered once, with its own data."""
    content = pattern(1, DISK_BYTES)
    blockd = start_blockd(content=content)
    total = DISK_BYTES // length if length > 4 * KIB else 256
    offsets = {blockd.client.send(READ, n * length, length): n * length for n in range(total)}
    for _ in range(total):
        answer = blockd.client.answer()
        offset = offsets.pop(answer.cookie)
        assert (answer.magic, answer.error) == (REPLY_MAGIC, 0)
        assert answer.data == content[offset : offset + length]
    assert not offsets


@pytest.mark.parametrize(("length", "total"), [(512, 3000), (64 * KIB, 500), (MIB, 40)])
@pytest.mark.parametrize("rings", ["", PLAIN], ids=["events", "plain"])
def test_a_client_that_reads_late_loses_nothing(start_blockd: StartBlockd, rings: str, length: int, total: int) -> None:
    """More replies than RAM or any table holds: blockd stops taking requests, and goes on when replies drain."""
    content = pattern(8, DISK_BYTES)
    client = start_blockd(content=content, device=rings, console=rings).client
    stream, wanted = bytearray(), {}
    for n in range(total):
        offset = n * length % DISK_BYTES
        cookie, frame = client.frame(READ, offset, length)
        stream += frame
        wanted[cookie] = content[offset : offset + length]
    client.socket.sendall(stream)
    time.sleep(0.2)
    for _ in range(total):
        answer = client.answer()
        assert answer.data == wanted.pop(answer.cookie)
    assert client.call(WRITE, 0, data=content[:512]).error == 0


def test_zeroing_and_trimming(start_blockd: StartBlockd) -> None:
    """WRITE_ZEROES zeroes with and without holes; TRIM succeeds, narrowed to whole sectors."""
    content = pattern(2, MIB)
    client = start_blockd(content=content).client
    assert client.call(WRITE_ZEROES, 4 * KIB, 8 * KIB).error == 0
    assert client.call(WRITE_ZEROES, 32 * KIB, 100 * KIB, flags=NO_HOLE | FUA).error == 0
    assert client.call(TRIM, 200 * KIB + 100, 1000, flags=FUA).error == 0
    assert client.call(TRIM, 200 * KIB + 100, 300).error == 0
    expected = bytearray(content)
    expected[4 * KIB : 12 * KIB] = bytes(8 * KIB)
    expected[32 * KIB : 132 * KIB] = bytes(100 * KIB)
    data = client.read(0, MIB)
    assert data[: 200 * KIB] == expected[: 200 * KIB]
    assert data[200 * KIB : 200 * KIB + 512] == content[200 * KIB : 200 * KIB + 512]
    assert data[201 * KIB + 512 :] == content[201 * KIB + 512 :]


def test_the_whole_disk_is_zeroed_by_a_device_that_cannot(start_blockd: StartBlockd) -> None:
    """Longer than any READ or WRITE may be, and made of writes."""
    blockd = start_blockd(content=pattern(3, DISK_BYTES), device=DEVICES["no discard, no zeroes"])
    assert blockd.client.call(WRITE_ZEROES, 0, DISK_BYTES, flags=FUA).error == 0
    assert blockd.on_disk(0, DISK_BYTES) == bytes(DISK_BYTES)


def test_errors_say_what_was_wrong_and_the_stream_goes_on(start_blockd: StartBlockd) -> None:
    """Each wrong request gets the protocol's error, its payload is skipped, DISC gets no reply."""
    client = start_blockd().client
    assert client.call(READ, DISK_BYTES - 512, 1024).error == EINVAL
    assert client.call(READ, 1 << 63, 512).error == EINVAL
    assert client.call(WRITE, DISK_BYTES - 512, data=bytes(1024)).error == ENOSPC
    assert client.call(WRITE_ZEROES, DISK_BYTES, 512).error == ENOSPC
    assert client.call(TRIM, DISK_BYTES, 512).error == EINVAL
    assert client.call(READ, 0, MIB + 512).error == EOVERFLOW
    assert client.call(WRITE, 0, data=bytes(MIB + 512)).error == EOVERFLOW
    assert client.call(READ, 100, 512).error == EINVAL
    assert client.call(WRITE, 0, data=bytes(100)).error == EINVAL
    assert client.call(WRITE_ZEROES, 0, 100).error == EINVAL
    assert client.call(READ, 0, 512, flags=1 << 5).error == EINVAL
    assert client.call(READ, 0, 512, flags=NO_HOLE).error == EINVAL
    assert client.call(5).error == EINVAL
    assert client.call(0x4654, 1).error == EINVAL, "crash requests are off by default"
    client.send(DISC)
    assert client.call(FLUSH).error == 0
    assert client.read(0, 512) == bytes(512)


def test_a_failing_disk_fails_the_request_and_no_other(start_blockd: StartBlockd, tmp_path: Path) -> None:
    """QEMU's blkdebug fails sector 64 both ways."""
    faults = ",".join(
        f"inject-error.{n}.event=none,inject-error.{n}.iotype={kind},inject-error.{n}.sector=64,inject-error.{n}.errno=5"
        for n, kind in enumerate(("read", "write"))
    )
    image = f"image.driver=file,image.filename={tmp_path / 'disk.img'}"
    disk = ("-blockdev", f"driver=blkdebug,node-name=disk,{image},{faults}")
    client = start_blockd(disk=disk, device=",rerror=report,werror=report").client
    assert client.call(READ, 64 * 512, 4 * KIB).error == EIO
    assert client.call(WRITE, 64 * 512, data=bytes(4 * KIB), flags=FUA).error == EIO
    assert client.call(READ, 0, MIB).error == EIO
    assert client.call(READ, 0, 4 * KIB).error == 0
    assert client.call(WRITE, 0, data=bytes(4 * KIB), flags=FUA).error == 0


def test_a_read_only_disk_refuses_writes(start_blockd: StartBlockd, tmp_path: Path) -> None:
    """EPERM, and READ goes on."""
    drive = f"file={tmp_path / 'disk.img'},if=none,id=disk,format=raw,readonly=on"
    client = start_blockd(disk=("-drive", drive)).client
    for kind in (WRITE, WRITE_ZEROES, TRIM):
        assert client.call(kind, 0, 512, data=bytes(512) if kind == WRITE else b"").error == EPERM
    assert client.read(0, 512) == bytes(512)


def shuffled_work(blockd: Blockd, seed: int, rounds: int, in_flight: int) -> None:
    """Random disjoint requests at once, the stream cut at random places; everything is compared with a model."""
    chance = random.Random(seed)
    area = 2 * MIB
    model = bytearray(blockd.client.read(0, MIB) + blockd.client.read(MIB, MIB))
    slot = area // in_flight
    for _ in range(rounds):
        stream, wanted = bytearray(), {}
        for n in range(in_flight):
            offset = n * slot + chance.randrange(0, slot // 2, 512)
            length = chance.choice((512, 4096, chance.randrange(512, slot // 2, 512)))
            kind = chance.choice((READ, WRITE, WRITE, WRITE_ZEROES, FLUSH))
            data = chance.randbytes(length) if kind == WRITE else b""
            flags = chance.choice((0, 0, FUA))
            cookie, frame = blockd.client.frame(kind, offset, 0 if kind == FLUSH else length, data, flags)
            stream += frame
            wanted[cookie] = bytes(model[offset : offset + length]) if kind == READ else b""
            if kind in (WRITE, WRITE_ZEROES):
                model[offset : offset + length] = data or bytes(length)
        while stream:
            cut = chance.choice((1, 27, 300, 5000, 100000))
            blockd.client.socket.sendall(stream[:cut])
            del stream[:cut]
        for _ in range(in_flight):
            answer = blockd.client.answer()
            assert answer.error == 0
            assert answer.data == wanted.pop(answer.cookie)
    assert blockd.client.call(FLUSH).error == 0
    assert blockd.on_disk(0, area) == model


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_random_work_cut_at_random_places(start_blockd: StartBlockd, device: str) -> None:
    """The same for every set of device features."""
    console = PLAIN if device == PLAIN else ""
    blockd = start_blockd(content=pattern(4, 2 * MIB), device=device, console=console)
    shuffled_work(blockd, seed=5, rounds=6, in_flight=16)


def test_a_machine_with_more_ram_works_the_same(start_blockd: StartBlockd) -> None:
    """Buffers are larger there."""
    shuffled_work(start_blockd(memory=128), seed=6, rounds=4, in_flight=32)


def test_a_request_that_the_connection_did_not_finish_is_forgotten(start_blockd: StartBlockd) -> None:
    """The port closes amid a WRITE's payload; the next connection starts afresh."""
    blockd = start_blockd()
    _, frame = blockd.client.frame(WRITE, 0, 8 * KIB, pattern(7, 8 * KIB))
    blockd.client.socket.sendall(frame[: 5 * KIB])
    time.sleep(0.2)
    blockd.client.close()
    time.sleep(0.2)
    client = PortClient(blockd.port)
    try:
        assert client.read(0, 8 * KIB) == bytes(8 * KIB)
    finally:
        client.close()


def test_a_stream_without_the_magic_is_a_panic(start_blockd: StartBlockd) -> None:
    """The host side promised whole requests."""
    blockd = start_blockd()
    blockd.client.socket.sendall(b"x" * 28)
    blockd.guest.wait_for_end()
    assert "panic: port: 78787878 instead of an NBD request's magic" in blockd.guest.console()


def test_an_idle_blockd_uses_no_cpu(start_blockd: StartBlockd) -> None:
    """It sleeps in wfi, without a timer."""
    blockd = start_blockd()
    blockd.client.read(0, 4 * KIB)
    time.sleep(0.1)
    before = blockd.guest.cpu_seconds()
    time.sleep(0.6)
    assert blockd.guest.cpu_seconds() - before <= 0.1


def test_too_little_ram_is_said_in_words(start_guest: StartGuest, tmp_path: Path) -> None:
    """6 MiB are not enough; it names what is needed."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    devices = (
        *("-drive", f"file={image},if=none,id=disk,format=raw", "-device", "virtio-blk-device,drive=disk"),
        *("-device", "virtio-serial-device", "-device", "virtserialport,name=ftvm.block"),
    )
    guest = start_guest("blockd", "", devices, 6)
    guest.wait_for_end()
    assert "the machine needs 16 MiB of RAM" in guest.console()
