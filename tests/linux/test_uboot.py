# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's U-Boot, unmodified: its commands, the network, Linux from a disk; recorded, replayed, and in a pair."""

from __future__ import annotations

import json
import os
import re
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.linux import newc
from ftvm.machine import EpochEnd
from ftvm.status import read_status
from ftvm.testing import MakePair
from tests.commands.workshop import Workshop
from tests.linux.guest import READY, Booted
from tests.linux.stock import Stock
from tests.linux.test_pair import until_end
from tests.linux.u_boot import HOST, MEMORY, UBoot, boot_disk, script, u_boot_config
from tests.machine.box import SECOND
from tests.network.lab import ADDRESS, Lab
from tests.network.test_pairs import primary_of
from tests.pair_processes.terminal import Terminal

pytestmark = pytest.mark.timeout(600)

MACHINE = """\
name = "u-boot"

[machine]
memory = "{memory}"
kernel = "{kernel}"

{tables}
"""
DISK = '[[disk]]\nimage = "{image}"\n'
CONSOLE = '[console]\nbackend = "unix:console.sock"\n'
PAIR = "[pair]\ntimeout_ms = 3000\n"  # more than a busy machine may stand still
TAP = '[[network]]\nbackend = "tap:vm0"\n'
MENU_COMMAND = "sysboot virtio 0:1 any $scriptaddr /boot/menu.conf"
BOOT_SCRIPT = f"""\
echo from boot.scr
{MENU_COMMAND}
"""
MENU = """\
default linux
label linux
    linux /boot/vmlinux
    initrd /boot/initrd
    append console=ttyS0 panic=1 quiet script=/test/job
"""
JOB = """\
#!/bin/sh
mount -o ro -t ext4 /dev/vda1 /mnt && ls /mnt/boot | cat
test -d /sys/firmware/efi && echo by EFI
echo JOB DONE
"""


@pytest.fixture(scope="module")
def disk(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with the stock kernel, an initramfs with a job, a boot script and a menu."""
    directory = tmp_path_factory.mktemp("disk")
    initrd = stock.with_files(directory / "initrd", {"test/job": newc.regular(JOB.encode(), 0o755)})
    contents = {
        "boot/vmlinux": stock.kernel,
        "boot/initrd": initrd,
        "boot/menu.conf": MENU.encode(),
        "boot.scr": script(BOOT_SCRIPT),
    }
    return boot_disk(directory, contents)


@pytest.fixture(scope="module")
def at_prompt(stock: Stock, disk: Path) -> Booted:
    """U-Boot at its prompt, as bytes."""
    u_boot = UBoot(u_boot_config(stock))
    u_boot.disks[0].write(0, disk.read_bytes())
    try:
        u_boot.to_prompt()
        return u_boot.saved()
    finally:
        u_boot.machine.close()


@pytest.fixture
def u_boot(at_prompt: Booted) -> Iterator[UBoot]:
    """U-Boot that waits for commands."""
    u_boot = UBoot.of(at_prompt)
    assert isinstance(u_boot, UBoot)
    yield u_boot
    u_boot.machine.close()


def test_it_finds_the_machine_that_there_is(u_boot: UBoot) -> None:
    """And nothing else: no PCI, no USB, and commands that look for them say so."""
    assert u_boot.command("version").startswith("U-Boot 2025.01")
    assert "size     = 0x0000000010000000" in u_boot.command("bdinfo").replace("-> ", "")
    tree = u_boot.command("dm tree")
    for driver in ("virtio-blk", "virtio-net", "virtio-rng", "ns16550_serial", "rtc_goldfish", "riscv_timer"):
        assert driver in tree
    assert u_boot.command("date").startswith("Date: 2026-01-01 (Thursday)")
    assert "No USB controllers found" in u_boot.command("usb start")
    assert u_boot.command("pci") == ""
    known = u_boot.command("sbi")
    assert known.startswith("SBI 2.0")
    for extension in ("Timer", "IPI", "RFENCE", "Hart State Management", "System Reset", "Debug Console"):
        assert f"  {extension} Extension" in known
    for extension in ("Set Timer", "Console Putchar", "Console Getchar", "System Shutdown"):
        assert f"  {extension}" in known


def test_it_reads_and_writes_its_disk(u_boot: UBoot, stock: Stock) -> None:
    """By partition and file, with the kernel's sum over what it loaded, and by sector."""
    u_boot.command("virtio scan")
    assert re.search(r"Capacity: 49.0 MB.*\(100352 x 512\)", u_boot.command("virtio info"))
    assert re.search(r"\n *1\s+2048 +\t98304 +\t\S+\t83 Boot", u_boot.command("virtio part"))
    kernel = stock.kernel.read_bytes()
    assert re.search(rf" {len(kernel)} +vmlinux", u_boot.command("ext4ls virtio 0:1 /boot"))
    assert f"{len(kernel)} bytes read" in u_boot.command("load virtio 0:1 $kernel_addr_r /boot/vmlinux")
    assert u_boot.command("crc32 $kernel_addr_r $filesize").endswith(f"==> {zlib.crc32(kernel):08x}")
    u_boot.command("mw.l 0x84000000 0x12345678 0x80; virtio write 0x84000000 5 1; mw.l 0x84000000 0 0x80")
    assert u_boot.disks[0].read(5 * 512, 512) == bytes.fromhex("78563412") * 128
    assert "1 blocks read: OK" in u_boot.command("virtio read 0x84000200 5 1")
    assert u_boot.command("md.l 0x84000000 1; md.l 0x840003fc 1").split()[1::3] == ["00000000", "12345678"]


def test_it_pings_who_is_there_and_misses_who_is_not(u_boot: UBoot) -> None:
    u_boot.command("setenv ipaddr 10.0.2.15; setenv netretry no")
    assert f"host {HOST} is alive" in u_boot.command(f"ping {HOST}")
    assert u_boot.pinged == 1
    assert "host 10.0.2.99 is not alive" in u_boot.command("ping 10.0.2.99", step=SECOND // 4)


def test_it_resets_the_machine_and_switches_it_off(u_boot: UBoot) -> None:
    u_boot.command("setenv mark 1")
    assert u_boot.ends("reset") == EpochEnd.RESET
    u_boot.to_prompt()
    assert u_boot.command("echo mark $mark") == "mark"
    assert u_boot.ends("poweroff") == EpochEnd.POWEROFF


def test_it_reports_an_access_to_where_nothing_is_and_starts_again(u_boot: UBoot) -> None:
    assert u_boot.ends("md.l 0x40000000 1") == EpochEnd.RESET
    assert "Unhandled exception: Load access fault" in u_boot.console
    assert "TVAL: 0000000040000000" in u_boot.console


def test_it_boots_linux_to_its_shell(u_boot: UBoot) -> None:
    """With the device tree that it was given itself, in place, and the command line of the machine file."""
    assert "bytes read" in u_boot.command("load virtio 0:1 $kernel_addr_r /boot/vmlinux")
    assert "bytes read" in u_boot.command("load virtio 0:1 $ramdisk_addr_r /boot/initrd")
    u_boot.begin("booti $kernel_addr_r $ramdisk_addr_r:$filesize $fdtcontroladdr\r")
    u_boot.until("Starting kernel")
    u_boot.until(READY)
    u_boot.begin("cat /proc/cmdline; ls /dev/vda1; poweroff -f\r")
    assert u_boot.end() == EpochEnd.POWEROFF
    assert "\nconsole=ttyS0 quiet\n/dev/vda1\n" in u_boot.console


def test_without_a_key_it_runs_the_script_on_its_disk(stock: Stock, disk: Path) -> None:
    u_boot = UBoot(u_boot_config(stock))
    u_boot.disks[0].write(0, disk.read_bytes())
    u_boot.step_until(lambda: "Starting kernel" in u_boot.console)
    assert "from boot.scr\n" in u_boot.console and "Retrieving file: /boot/initrd\n" in u_boot.console
    u_boot.machine.close()


def machine(stock: Stock, *tables: str) -> str:
    """A machine file."""
    return MACHINE.format(memory=MEMORY, kernel=stock.u_boot, tables="\n".join(tables))


def prompt(terminal: Terminal) -> None:
    """Interrupt whatever U-Boot is doing, perhaps booting already, until it takes commands."""
    for _ in range(300):
        terminal.type(b"\x03")
        if terminal.shows(b"=> ", 0.2):
            break
    terminal.type(b"echo ready on $arch\r")
    terminal.expect(b"ready on riscv\r\n=> ", 30)


def command(terminal: Terminal, line: str, answer: str) -> None:
    """Type a line at the prompt; what is typed ahead would get lost in a command that looks out for Ctrl-C."""
    terminal.type(line.encode() + b"\r")
    terminal.expect(answer.encode(), 60)
    terminal.expect(b"\n=> ", 30)


def test_a_recorded_session_with_a_boot_through_efi_replays_with_every_digest(
    stock: Stock, disk: Path, work: Workshop
) -> None:
    """Typed at a console; the replay is another process."""
    state, log = work.state("state"), work.directory / "session.log"
    file = work.machine(machine(stock, DISK.format(image=disk), CONSOLE))
    run = work.start("run", file, "--state-dir", state.path, "--record", log)
    work.until((state.path / "console.sock").exists, "the console's socket", 30)
    terminal = Terminal(state.path / "console.sock")
    prompt(terminal)
    command(terminal, "virtio info", "VirtIO Block Device")
    command(terminal, "load virtio 0:1 $kernel_addr_r /boot/vmlinux", "bytes read")
    command(terminal, "setenv bootargs console=ttyS0 quiet initrd=/boot/initrd script=/test/job", "job")
    terminal.type(b"bootefi $kernel_addr_r $fdtcontroladdr\r")
    terminal.expect(b"by EFI\r\nJOB DONE", 300)
    assert run.wait(60) == 0, run.stderr
    terminal.close()
    replayed = work.call("replay", log, "--json", seconds=400)
    assert replayed.returncode == 0, replayed.stderr
    report = json.loads(replayed.stdout)
    assert report["verified"] and report["closed"] and report["end"] == "poweroff"
    assert report["divergence"] is None and report["entries"] > 200


def test_a_primary_dies_while_u_boot_loads_the_kernel_and_linux_boots(
    ftvm_pair: MakePair, stock: Stock, disk: Path
) -> None:
    """It loads the kernel again and again; the console goes on, and so do the sums over what was loaded."""
    pair = ftvm_pair(machine(stock, DISK.format(image=disk), CONSOLE, PAIR), wait=False)
    path = pair.state.path / "console.sock"
    terminal = Terminal(path)
    prompt(terminal)
    load = "load virtio 0:1 $kernel_addr_r /boot/vmlinux && crc32 $kernel_addr_r $filesize"
    terminal.type(f"while {load}; do true; done\r".encode())
    total = f" ==> {zlib.crc32(stock.kernel.read_bytes()):08x}\r\n".encode()
    pair.wait_protected(120)
    terminal.expect(total, 60)
    pair.kill_primary()
    pair.wait_protected(120)
    terminal.close()
    terminal = Terminal(path)
    terminal.expect(b"bytes read", 60)
    terminal.expect(total, 60)
    prompt(terminal)
    terminal.type(MENU_COMMAND.encode() + b"\r")
    terminal.expect(b"Starting kernel", 60)
    terminal.expect(b"initrd\r\nmenu.conf\r\nvmlinux\r\n", 300)
    terminal.expect(b"JOB DONE", 60)
    until_end(pair)
    terminal.close()
    assert pair.status()["term"] >= 2
    assert "divergence" not in pair.log().lower()


def test_it_pings_on_a_bridge_also_after_a_failover(stock: Stock, lab: Lab, work: Workshop) -> None:
    """Another host's own network stack answers."""
    state = work.state("pair")
    pair = work.start("pair", work.machine(machine(stock, TAP, CONSOLE)), "--state-dir", state.path, prefix=lab.on("a"))
    work.until((state.path / "console.sock").exists, "the console's socket", 30)
    terminal = Terminal(state.path / "console.sock")
    prompt(terminal)
    command(terminal, "setenv ipaddr 10.0.2.15", "15")
    command(terminal, f"ping {ADDRESS['client']}", f"host {ADDRESS['client']} is alive")
    work.until(lambda: read_status(state)["protected"], "the pair to be protected", 60)
    side, pid = primary_of(state)
    os.kill(pid, signal.SIGKILL)
    work.until(lambda: primary_of(state)[0] not in ("", side), "the other side to be live", 30)
    terminal.close()
    terminal = Terminal(state.path / "console.sock")
    prompt(terminal)
    command(terminal, f"ping {ADDRESS['client']}", f"host {ADDRESS['client']} is alive")
    terminal.type(b"poweroff\r")
    assert pair.wait(60) == 0, work.story()
    terminal.close()
