# SPDX-License-Identifier: GPL-2.0-or-later
"""Unmodified NBD clients against a real pair: both addresses, several at once, and through a failover."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftvm.pair_process import PairProcess
from tests.pair_processes.load import Load
from tests.pair_processes.test_launcher import until
from tests.pair_processes.tools import run, start, tool

SIZE = 32 << 20


def unix(pair: PairProcess) -> str:
    """The URI of the Unix socket."""
    return f"nbd+unix:///?socket={pair.addresses[0].removeprefix('unix:')}"


def tcp(pair: PairProcess) -> str:
    """The URI of the TCP port."""
    return f"nbd://{pair.addresses[1]}"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file of random bytes, as large as the export, with a hole in it."""
    path = tmp_path / "image"
    content = bytearray(os.urandom(SIZE))
    content[SIZE // 4 : SIZE // 2] = bytes(SIZE // 4)
    path.write_bytes(content)
    return path


def test_nbdinfo(pair: PairProcess) -> None:
    """Size and abilities, the same over both addresses."""
    texts = [run("nbdinfo", unix(pair)), run("nbdinfo", tcp(pair))]
    for text in texts:
        for line in (f"export-size: {SIZE}", "can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true"):
            assert line in text
    assert 'export="tested"' in run("nbdinfo", "--list", tcp(pair))


def test_nbdcopy_and_qemu_img_agree(pair: PairProcess, image: Path, tmp_path: Path) -> None:
    """Copied in over TCP, compared over the Unix socket, copied out by both; the backup's disk holds the same."""
    run("nbdcopy", "--flush", "--connections=4", "--requests=16", str(image), tcp(pair))
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), unix(pair))
    run("nbdcopy", "--connections=2", unix(pair), str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == image.read_bytes()
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", tcp(pair), str(tmp_path / "back.qcow2"))
    assert "identical" in run("qemu-img", "compare", str(image), str(tmp_path / "back.qcow2"))
    copies = [pair.state.image(side, 0) for side in "ab"]
    until(lambda: all(copy.read_bytes() == image.read_bytes() for copy in copies), "both sides' disks to be alike", 3)


def test_qemu_img_convert_in(pair: PairProcess, image: Path) -> None:
    """qemu-img writes to the service and finds what it wrote."""
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), unix(pair))
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), tcp(pair))


def test_flush_fua_trim_and_write_zeroes(pair: PairProcess) -> None:
    """Every command of the service once, by qemu-io, with patterns read back."""
    run(
        "qemu-io", "-f", "raw", unix(pair),
        "-c", "write -P 0x11 0 64k",
        "-c", "write -f -P 0x22 64k 64k",
        "-c", "write -z 128k 64k",
        "-c", "write -z -u 16k 16k",
        "-c", "discard 192k 64k",
        "-c", "flush",
        "-c", "read -P 0x11 0 16k",
        "-c", "read -P 0 16k 16k",
        "-c", "read -P 0x11 32k 32k",
        "-c", "read -P 0x22 64k 64k",
        "-c", "read -P 0 128k 64k",
        "-c", "read -v 192k 512",
    )  # fmt: skip


def test_qemu_io_reconnects_through_a_failover(pair: PairProcess) -> None:
    """`reconnect-delay`: writes in flight when the primary dies are answered by its successor."""
    address = pair.addresses[0].removeprefix("unix:")
    options = f"driver=raw,file.driver=nbd,file.path={address},file.reconnect-delay=20"
    qemu = start("qemu-io", "--image-opts", options)
    assert qemu.stdin is not None and qemu.stdout is not None
    qemu.stdin.write("write -P 1 0 1M\n")
    qemu.stdin.flush()
    while "wrote" not in qemu.stdout.readline():
        assert qemu.poll() is None
    for number in range(200):
        qemu.stdin.write(f"aio_write -P {number + 2} {number * 128}k 128k\n")
    qemu.stdin.flush()
    time.sleep(0.05)
    pair.kill_primary()
    qemu.stdin.write("aio_flush\nflush\n" + "".join(f"read -P {n + 2} {n * 128}k 128k\n" for n in range(200)))
    qemu.stdin.close()
    output = qemu.stdout.read()
    assert qemu.wait(20) == 0, output[-1000:]
    assert output.count("read 131072/131072") == 200, output[-1000:]
    assert "failed" not in output.lower(), output
    pair.wait_protected()
    assert len(pair.status()["sides"]) == 2


def fio(pair: PairProcess, *arguments: str) -> list[str]:
    """A fio job on the service with verification."""
    return [
        "--name=job", "--ioengine=nbd", f"--uri={unix(pair)}", "--iodepth=16", "--bs=4k", "--size=8M",
        "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--eta=never", *arguments,
    ]  # fmt: skip


def test_fio_verifies_what_it_wrote(pair: PairProcess) -> None:
    """Random writes with fsync in between, verified by reading back; drivers die meanwhile.

    fio's nbd engine does not reconnect, so no host is killed here.
    """
    if "nbd" not in run("fio", "--enghelp").split():
        pytest.skip("this fio has no nbd engine")
    before = pair.status()["driver_restarts"]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run, "fio", *fio(pair, "--rw=randwrite", "--fsync=64", "--loops=2"))
        time.sleep(0.3)
        for mode in (1, 3):
            pair.crash_driver(mode)
        output = job.result(60)
    assert "err= 0" in output
    assert pair.status()["driver_restarts"] > before


def test_several_clients_at_once(pair: PairProcess, image: Path, tmp_path: Path) -> None:
    """A verified load on both addresses, and other clients that only read, at the same time."""
    run("nbdcopy", str(image), tcp(pair))
    with Load(pair.addresses, clients=4, depth=8, blocks=64) as load, ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(run, "qemu-img", "convert", "-f", "raw", "-O", "raw", unix(pair), str(tmp_path / "one")),
            pool.submit(run, "nbdcopy", tcp(pair), str(tmp_path / "two")),
            pool.submit(run, "nbdinfo", "--json", unix(pair)),
        ]
        for job in jobs:
            job.result(30)
        load.answered(100)
        load.finish()
    untouched = 4 * 64 * 4096
    for copy in ("one", "two"):
        assert (tmp_path / copy).read_bytes()[untouched:] == image.read_bytes()[untouched:]


def test_a_client_that_breaks_the_protocol_disturbs_nobody(pair: PairProcess) -> None:
    """Garbage on a connection ends that connection only."""
    with Load(pair.addresses) as load:
        host, _, port = pair.addresses[1].rpartition(":")
        noise = subprocess.run(
            [tool("bash"), "-c", f"exec 3<>/dev/tcp/{host}/{port}; head -c 65536 /dev/urandom >&3; cat <&3 | wc -c"],
            capture_output=True, timeout=20, check=False,
        )  # fmt: skip
        assert noise.returncode == 0
        load.answered(100)
        assert load.retried == 0
        load.finish()
