# SPDX-License-Identifier: GPL-2.0-or-later
"""`UBoot`: Debian's U-Boot on a test's bench, at its prompt; and the disk that it boots Linux from.

    u_boot.command("virtio info")            # what it printed, without echo and prompt

    sector 0            1 MiB                                                          end
    | partition table | ext4: boot.scr  boot/vmlinux  boot/initrd  boot/menu.conf     |

U-Boot waits by looking at the clock, so epochs here are short, and time passes between them. On its network is a host
(`HOST`) that answers ARP and pings.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

from devices.event import Event, EventKind, OutputKind
from devices.virtio.offload import frames, plain
from ftvm.config import MachineConfig, parse
from ftvm.machine import FINAL, EpochEnd
from replay.entry import EpochResult
from tests.linux.guest import Linux
from tests.linux.stock import Stock
from tests.machine.box import SECOND
from tests.machine.frames import checksum
from tests.pair_processes.tools import tool

PROMPT = "=> "
AUTOBOOT = "Hit any key to stop autoboot"
MEMORY = "256 MiB"  # the addresses that its environment suggests lie up to there
HOST, HOST_MAC = "10.0.2.2", bytes.fromhex("020000000001")
DISK_MIB = 49
BUDGET, STEP = 1_000_000, SECOND // 100
STEPS_MAX = 3000

_PARTITION_AT = 1 << 20
_SECTOR = 512
_LINUX_PARTITION = 0x83
_ARP, _IPV4, _ICMP = b"\x08\x06", b"\x08\x00", 1


def u_boot_config(stock: Stock) -> MachineConfig:
    """A machine with a disk and a network card."""
    machine = {"memory": MEMORY, "kernel": str(stock.u_boot), "cmdline": "console=ttyS0 quiet"}
    disk = [{"image": "disk0.img", "size": f"{DISK_MIB} MiB"}]
    network = [{"backend": "none"}]
    tables = {"disk": disk, "network": network, "driver": {"restart": False}}
    return parse({"name": "u-boot", "machine": machine, **tables}, "u-boot")


class UBoot(Linux):
    """U-Boot, and what it said; then whatever it boots."""

    def __init__(self, config: MachineConfig) -> None:
        super().__init__(config)
        self.pinged = 0
        self._arriving: list[Event] = []

    def run(self, *events: Event, **keywords: int) -> EpochResult:
        """One epoch; the host on the network answers what was sent in the last one."""
        arriving, self._arriving = self._arriving, []
        result = super().run(*arriving, *events, **keywords)  # type: ignore[arg-type]
        packets = [output.data for output in result.outputs if output.kind == OutputKind.PACKET]
        answers = [self._answer(frame) for packet in packets for frame in frames(packet)]
        self._arriving = [Event(EventKind.PACKET, 0, plain(answer)) for answer in answers if answer]
        return result

    def step_until(self, done: Callable[[], bool], step: int = STEP) -> None:
        """Short epochs, each `step` ticks after the last."""
        for _ in range(STEPS_MAX):
            if done() or self.run(budget=BUDGET, later=step).reason in {*FINAL, EpochEnd.RESET}:
                break
        assert done(), f"ended with {EpochEnd(self.results[-1].reason).name}; console: {self.console[-2000:]!r}"

    def to_prompt(self) -> None:
        """From power-on; a key stops it from booting by itself."""
        self.step_until(lambda: AUTOBOOT in self.console)
        self.heard.clear()
        self.type(" ")
        self.step_until(lambda: self.console.endswith(PROMPT))

    def command(self, line: str, step: int = STEP) -> str:
        """What a command printed."""
        self.heard.clear()
        self.type(line + "\r")
        self.step_until(lambda: self.console.endswith("\n" + PROMPT), step)
        return self.console.removeprefix(line).removesuffix(PROMPT).strip()

    def ends(self, line: str) -> EpochEnd:
        """How the machine ends, or starts again, by a command."""
        self.heard.clear()
        self.type(line + "\r")
        self.step_until(lambda: self.results[-1].reason in {*FINAL, EpochEnd.RESET})
        return EpochEnd(self.results[-1].reason)

    def _answer(self, frame: bytes) -> bytes:
        """What the host says to a frame; empty for nothing."""
        host = bytes(map(int, HOST.split(".")))
        if frame[12:14] == _ARP and frame[38:42] == host:
            return frame[6:12] + HOST_MAC + frame[12:20] + b"\0\2" + HOST_MAC + host + frame[22:32]
        if frame[12:14] == _IPV4 and frame[23] == _ICMP and frame[30:34] == host and frame[34] == 8:
            self.pinged += 1
            length = int.from_bytes(frame[16:18])
            echo = b"\0\0\0\0" + frame[38 : 14 + length]
            icmp = echo[:2] + checksum(echo).to_bytes(2) + echo[4:]
            return frame[6:12] + HOST_MAC + frame[12:26] + frame[30:34] + frame[26:30] + icmp
        return b""


# -- the disk -----------------------------------------------------------------------------------------------------


def boot_disk(directory: Path, contents: dict[str, bytes | Path]) -> Path:
    """A disk with one ext4 partition that holds `contents`, in a file."""
    root, image = directory / "root", directory / "boot.img"
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, root / name)
        else:
            (root / name).write_bytes(content)
    size = (DISK_MIB << 20) - _PARTITION_AT
    with image.open("wb") as file:
        file.write(_partition_table(_PARTITION_AT, size))
        file.truncate(DISK_MIB << 20)
    command = [tool("mkfs.ext4"), "-q", "-d", root, "-E", f"offset={_PARTITION_AT}", image, f"{size >> 10}k"]
    subprocess.run(command, check=True)
    shutil.rmtree(root)
    return image


def _partition_table(offset: int, size: int) -> bytes:
    """A master boot record with one partition."""
    ends = b"\xfe\xff\xff"  # cylinder, head and sector of a place beyond what these can say
    entry = struct.pack("<B3sB3sII", 0x80, ends, _LINUX_PARTITION, ends, offset // _SECTOR, size // _SECTOR)
    return entry.rjust(446 + 16, b"\0").ljust(510, b"\0") + b"\x55\xaa"


def script(text: str) -> bytes:
    """A boot script as U-Boot finds it on a disk: a legacy image that holds one text."""
    body = struct.pack(">II", len(text), 0) + text.encode()
    magic, linux, riscv, kind = 0x27051956, 5, 26, 6

    def header(own_sum: int) -> bytes:
        sums = (magic, own_sum, 0, len(body), 0, 0, zlib.crc32(body))
        return struct.pack(">7I4B32s", *sums, linux, riscv, kind, 0, b"boot")

    return header(zlib.crc32(header(0))) + body
