# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Linux on each kind of network: what its driver negotiates, its link, and TCP whose long segments we cut."""

from __future__ import annotations

import shutil
import signal
import subprocess
import warnings
from pathlib import Path

import pytest

from devices.virtio import mmio, net
from ftvm.linux import newc
from ftvm.state_dir import StateDir
from tests.commands.namespaces import _ip
from tests.commands.workshop import Workshop

from .lab import Lab
from .linux_guest import CARRIER, FEATURES, machine, stock
from .test_linux import Transfer, boot
from .test_pairs import networks
from .test_passt import route

PEER_DONE = "PEER-DONE"
BLOCKS = 4
PEER = f"""\
#!/bin/sh
until wget -q -O /tmp/block http://10.0.2.15/block; do usleep 200000; done
for number in $(seq 0 {BLOCKS - 1}); do printf %08d "$number"; cat /tmp/block; done | sha256sum > /tmp/expected
wget -q -O - "http://10.0.2.15/cgi-bin/stream?{BLOCKS}" | sha256sum > /tmp/got
cmp /tmp/expected /tmp/got && echo PEER-RECEIVED
sha256sum < /tmp/block > /tmp/expected
nc 10.0.2.15 5002 < /tmp/block > /tmp/got
cmp /tmp/expected /tmp/got && echo PEER-SENT
echo {PEER_DONE}
"""

pytestmark = pytest.mark.timeout(900)


def said(state: StateDir, mark: str) -> list[str]:
    """What the guest has said behind a mark, line by line."""
    text = (state.path / "console.log").read_text(errors="replace")
    return [line.removeprefix(mark).strip() for line in text.splitlines() if line.startswith(mark)]


def test_the_driver_takes_all_offers_and_its_link_follows_the_network(lab: Lab, work: Workshop) -> None:
    """A TAP device that is replaced by something else, and comes back."""
    state = work.state("link")
    run = work.start("run", work.machine(machine(work.directory, "tap:vm0")), "--state-dir", state.path,
                     prefix=lab.on("b"))  # fmt: skip
    boot(work, state)
    (bits,) = said(state, FEATURES)
    taken = sum(1 << place for place, bit in enumerate(bits) if bit == "1")
    wanted = sum(net.Feature) | mmio.Feature.EVENT_IDX | mmio.Feature.INDIRECT_DESC | mmio.Feature.VERSION_1
    assert taken & wanted == wanted, f"not negotiated: {wanted & ~taken:#x}"
    assert said(state, CARRIER) == ["1"]

    run.process.send_signal(signal.SIGSTOP)  # or it would make the device anew in between
    _ip("-n", lab.names["b"], "link", "del", "vm0")
    _ip("-n", lab.names["b"], "link", "add", "vm0", "type", "bridge")
    run.process.send_signal(signal.SIGCONT)
    work.until(lambda: said(state, CARRIER) == ["1", "0"], "the guest's link to go down", 60)
    work.until(lambda: "not a TAP device" in str(networks(state, "a")["problem"]), "the status to say why")

    run.process.send_signal(signal.SIGSTOP)
    _ip("-n", lab.names["b"], "link", "del", "vm0")
    lab.tap("b", "vm0")
    run.process.send_signal(signal.SIGCONT)
    work.until(lambda: said(state, CARRIER) == ["1", "0", "1"], "the guest's link to come up", 60)
    transfer = Transfer(lab, 1 << 20)
    assert transfer.finish(), transfer.failure
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(60) == 0, work.story()


def test_tcp_through_passt(lab: Lab, work: Workshop) -> None:
    """Plain frames: the guest's long segments are cut here, checksums are put in, both ways at once."""
    if shutil.which("passt") is None:
        warnings.warn("NOT TESTED, for want of passt", stacklevel=1)
        pytest.skip("passt is not installed")
    route(lab)
    state = work.state("passt")
    text = machine(work.directory, "passt") + 'forward = ["tcp:10.0.2.2:5001:5001"]\n'
    run = work.start("run", work.machine(text), "--state-dir", state.path, prefix=lab.on("client"))
    boot(work, state)
    transfer = Transfer(lab, 4 << 20, "a", "10.0.2.2")
    assert transfer.finish(), transfer.failure
    counts = networks(state, "a")
    assert isinstance(counts["sent"], int) and counts["dropped"] == 0, counts
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(60) == 0, work.story()


def test_tcp_with_a_stock_linux_in_qemu(work: Workshop) -> None:
    """The same kernel at the other end of QEMU's stream socket downloads from ours and uploads to it."""
    if shutil.which("qemu-system-riscv64") is None:
        warnings.warn("NOT TESTED, for want of qemu-system-riscv64", stacklevel=1)
        pytest.skip("qemu-system-riscv64 is not installed")
    path, serial = work.directory / "peer.sock", work.directory / "serial"
    with qemu(work.directory, path, serial) as peer:
        try:
            work.until(path.exists, "QEMU to listen", 60)
            state = work.state("stream")
            text = machine(work.directory, f"stream:unix:{path}") + 'mac = "52:54:00:ab:cd:ef"\n'
            run = work.start("run", work.machine(text), "--state-dir", state.path)
            boot(work, state)
            work.until(lambda: PEER_DONE in serial.read_text(errors="replace"), "the peer", 300)
            report = serial.read_text(errors="replace")
            assert "PEER-RECEIVED" in report and "PEER-SENT" in report, report[-1000:]
            run.process.send_signal(signal.SIGTERM)
            assert run.wait(60) == 0, work.story()
        finally:
            peer.kill()


def qemu(directory: Path, path: Path, serial: Path) -> subprocess.Popen[bytes]:
    """QEMU with the stock kernel, listening at `path`."""
    found = stock()
    initrd = found.with_files(directory / "peer", {"usr/bin/peer": newc.regular(PEER.encode(), 0o755)})
    command = ["qemu-system-riscv64", "-M", "virt", "-m", "128", "-bios", "default", "-display", "none"]
    command += ["-monitor", "none", "-serial", f"file:{serial}", "-kernel", str(found.kernel), "-initrd", str(initrd)]
    command += ["-append", "console=ttyS0 quiet ip=10.0.2.16/24 script=/bin/peer"]
    command += ["-global", "virtio-mmio.force-legacy=false", "-device", "virtio-net-device,netdev=s"]
    command += ["-netdev", f"stream,id=s,server=on,addr.type=unix,addr.path={path}"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)
