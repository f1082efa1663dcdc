# SPDX-License-Identifier: GPL-2.0-or-later
"""The stock Debian kernel on the machine: every device through its own driver, time, power, programs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from devices.event import OutputKind
from ftvm.hardware import RTC_BASE_NS, SERVICE_PORT_NAME
from ftvm.linux import newc
from ftvm.machine import EpochEnd
from ftvm.service.nbd import FLUSH, REPLY, REPLY_MAGIC, REQUEST_MAGIC
from tests.linux import programs
from tests.linux.guest import Linux, linux_config
from tests.linux.stock import Stock
from tests.machine.box import SECOND

pytestmark = pytest.mark.timeout(300)


def test_the_kernel_is_debians_own(linux: Linux) -> None:
    assert re.fullmatch(r"Linux \S+\+deb13\S*-riscv64 riscv64", linux.shell("uname -srm"))


def test_what_goes_past_the_cache_to_the_disk_comes_back(linux: Linux) -> None:
    """O_DIRECT in both directions, and the host's disk holds the same bytes."""
    linux.shell("dd if=/dev/urandom of=/tmp/x bs=64k count=16")
    linux.shell("dd if=/tmp/x of=/dev/vda bs=64k seek=3 oflag=direct conv=fsync")
    sums = {linux.shell("md5sum < /tmp/x"), linux.shell("dd if=/dev/vda bs=64k skip=3 count=16 iflag=direct | md5sum")}
    sums = {found.split()[0] for found in (text.splitlines()[-1] for text in sums)}
    on_host = hashlib.md5(linux.disks[0].read(3 << 16, 1 << 20)).hexdigest()
    assert sums == {on_host}
    assert linux.disks[0].flushes > 0


def test_a_file_system_with_checksums_survives_dropped_caches(linux: Linux) -> None:
    linux.shell("/sbin/mkfs.ext4 -q -O metadata_csum /dev/vda && mount -t ext4 /dev/vda /mnt")
    fill = "mkdir /mnt/$n; dd if=/dev/urandom of=/mnt/$n/file bs=10007 count=$n"
    linux.shell(f"for n in $(seq 8); do {fill}; done")
    before = linux.shell("cd /mnt && md5sum */file")
    linux.shell("sync; echo 3 > /proc/sys/vm/drop_caches")
    assert linux.shell("cd /mnt && md5sum */file") == before and len(before.splitlines()) == 8
    linux.shell("umount /mnt")
    linux.shell("/sbin/e2fsck -fn /dev/vda")


def test_random_numbers_come_from_the_entropy_device(linux: Linux) -> None:
    assert linux.shell("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    drawn = linux.shell("dd if=/dev/hwrng bs=64 count=16 2>/dev/null | hexdump -ve '1/1 \"%02x\"'")
    assert len(drawn) == 2048 and bytes.fromhex(drawn)[-64:] in bytes(linux.given)


def test_a_request_reaches_a_program_through_the_port_and_its_reply_gets_out(linux: Linux) -> None:
    """The block service's protocol, spoken by a shell through the kernel's own console driver."""
    (port,) = linux.shell("ls /dev/vport*").split()
    assert linux.shell(f"cat /sys/class/virtio-ports/{Path(port).name}/name") == SERVICE_PORT_NAME
    linux.run(linux.request(1, FLUSH))
    reply = "".join(f"\\x{byte:02x}" for byte in REPLY.pack(REPLY_MAGIC, 0, 1))
    talk = f"exec 3<>{port}; dd bs=28 count=1 <&3 2>/dev/null | hexdump -ve '1/1 \"%02x\"'; printf '{reply}' >&3"
    header = bytes.fromhex(linux.shell(talk))
    assert header[:4] == REQUEST_MAGIC.to_bytes(4, "big") and header[6:8] == FLUSH.to_bytes(2, "big")
    assert linux.replies() == {1: (0, b"")}
    assert linux.machine.outstanding == 0


def test_a_driver_that_answers_nothing_is_found_dead(linux: Linux) -> None:
    """Nobody in the guest reads the service's port: a request becomes overdue, and the machine says so."""
    linux.run(linux.request(1, FLUSH))
    assert linux.wait_out(5) == EpochEnd.FAILED
    assert linux.machine.failure == "request 1 is overdue"


@pytest.mark.parametrize(("command", "end"), [("poweroff -f", EpochEnd.POWEROFF), ("reboot -f", EpochEnd.RESET)])
def test_power(linux: Linux, command: str, end: EpochEnd) -> None:
    linux.begin(command)
    assert linux.end() == end


def test_a_reset_kernel_boots_again(linux: Linux) -> None:
    linux.shell("touch /test/before")
    linux.begin("reboot -f")
    linux.until("loop ready")
    linux.shell("test -e /test/before", code=1)


def test_the_clock_is_the_rtcs(linux: Linux) -> None:
    since_epoch = int(linux.shell("cat /sys/class/rtc/rtc0/since_epoch"))
    now = (RTC_BASE_NS // 1_000_000_000) + linux.machine.time / SECOND
    assert now - 1.5 <= since_epoch <= now
    assert abs(int(linux.shell("date +%s")) - now) <= 2.5


@pytest.mark.parametrize("seconds", [0.05, 2.5, 300])
def test_sleep_takes_its_time_of_the_guest(linux: Linux, seconds: float) -> None:
    """And none of the host: an idle guest's time jumps."""
    linux.shell("true")
    start = linux.machine.time
    linux.shell(f"sleep {seconds}")
    assert seconds <= (linux.machine.time - start) / SECOND < seconds + 0.2


def test_programs_that_take_turns_in_the_same_memory_never_run_each_others_code(linux: Linux) -> None:
    """Each is written over the last one's page and run: a translation that outlives its code is seen at once."""
    rounds = 12
    once = "for p in a b c d e f g h; do cat /test/$p > /tmp/p; /tmp/p; echo -n $?; done"
    loop = f"for n in $(seq {rounds}); do {once}; done"
    turn = "".join(
        name * (number + 1) + str(programs.expected_exit(number)) for number, name in enumerate(programs.NAMES)
    )
    assert linux.shell(f"touch /tmp/p; chmod +x /tmp/p; {loop}") == turn * rounds


def test_processes_fault_fork_and_signal(linux: Linux) -> None:
    assert linux.shell("trap 'echo caught' USR1; kill -USR1 $(sh -c 'echo $PPID'); wait") == "caught"
    assert linux.shell("for n in $(seq 30); do (exit $n) & done; wait; echo done") == "done"
    assert linux.shell("seq 1000 | sort -n | tail -1; seq 1 20000 | md5sum | cut -c-32").split() == [
        "1000",
        hashlib.md5("".join(f"{n}\n" for n in range(1, 20001)).encode()).hexdigest(),
    ]


def test_floating_point_gives_the_hosts_bits(linux: Linux) -> None:
    """Basic operations, which IEEE 754 defines to the last bit."""
    loop = "for (i = 1; i <= 3000; i++) { x = x / 1.0000001 + i * 1.1 - 3 / i; }"
    expected = 0.0
    for i in range(1, 3001):
        expected = expected / 1.0000001 + i * 1.1 - 3 / i
    assert linux.shell(f"awk 'BEGIN {{ {loop} printf \"%.17g\", x }}'") == f"{expected:.17g}"


def test_memory_that_is_swapped_out_comes_back(linux: Linux) -> None:
    """Twice, from the same state: page reclaim runs the same both times, to the last digest."""
    traces = []
    for guest in (linux, Linux.of(linux.saved())):
        guest.shell("mkswap /dev/vda > /dev/null && swapon /dev/vda && mount -o remount,size=150m /dev/shm")
        guest.results.clear()
        fill = "dd if=/dev/urandom bs=64k count=500 2>/dev/null | tee /dev/shm/a | md5sum"
        written = guest.shell(f"{fill}; cp /dev/shm/a /dev/shm/b")
        guest.shell("test $(awk '/SwapFree/ {f=$2} /SwapTotal/ {t=$2} END {print t - f}' /proc/meminfo) -gt 1000")
        assert {line.split()[0] for line in guest.shell("md5sum /dev/shm/a /dev/shm/b").splitlines()} == {
            written.split()[0]
        }
        traces.append([result.digest for result in guest.results])
    assert traces[0] == traces[1]


def test_a_script_that_ends_switches_the_machine_off_and_its_failure_is_told(stock: Stock, tmp_path: Path) -> None:
    script = newc.regular(b"#!/bin/sh\necho arguments $#\nexit 3\n", 0o755)
    initrd = stock.with_files(tmp_path / "initramfs", {"job": script})
    linux = Linux(linux_config(stock, initrd, "script=/job quiet"))
    assert linux.end() == EpochEnd.POWEROFF
    assert "arguments 0\nftvm: /job failed with exit code 3\n" in linux.console
    linux.machine.close()


def test_the_shell_owns_its_terminal(stock: Stock, tmp_path: Path) -> None:
    """Without a script there is a prompt; Ctrl-C ends a command, and a shell that ends is followed by another."""
    linux = Linux(linux_config(stock, stock.initramfs, "quiet"))
    linux.until("\n# ")
    linux.type("echo $((40 + 5)); sleep 1000000\r")
    linux.until("\n45\n")
    for _ in range(5):
        linux.wait()
    linux.type("\x03")
    linux.until("^C")
    linux.type("echo $((6 * 7)) $(tty)\r")
    linux.until("42 /dev/ttyS0")
    linux.type("exit\r")
    linux.go_on(lambda: linux.console.count("built-in shell") == 2)
    assert linux.outputs(OutputKind.NOTICE) == []
    linux.machine.close()
