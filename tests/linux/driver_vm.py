# SPDX-License-Identifier: GPL-2.0-or-later
"""`DriverVm`: stock Linux as the driver VM on a test's bench, reached through the journal or past it.

    vm.ask(READ, 0, 4096)            # one client request through the journal: (error, data)
    vm.port(frame)                   # bytes for the guest's end of the port, without a journal that would refuse them

`MIRROR` is a stack of the kernel's own drivers between service and disks: RAID1 of two disks, encrypted above it.
"""

from __future__ import annotations

from devices.event import Event
from ftvm.config import MachineConfig, parse
from ftvm.linux import newc
from ftvm.linux.fetch import Wanted
from ftvm.machine import EpochEnd
from ftvm.service.nbd import REPLY, REQUEST, REQUEST_MAGIC
from tests.linux.guest import Linux
from tests.linux.stock import Stock

READY = "translate: ready"
CMDLINE = "console=ttyS0 quiet panic=-1 cryptomgr.notests crash=on"
MODULES = "virtio_mmio,virtio_blk"
MIRROR_WANTED = Wanted(packages=("mdadm", "dmsetup"), modules=("raid1", "dm-crypt", "xts"))
MIRROR_CMDLINE = (
    f"{CMDLINE} modules={MODULES},md_mod,raid1,dm_mod,dm_crypt,xts script=/test/mirror serve=/dev/mapper/served"
)
MIRROR_SIZE = "24 MiB"  # what is left of 32 MiB when each layer has taken its share
MIRROR = """\
#!/bin/sh
set -e
export MDADM_NO_UDEV=1 DM_DISABLE_UDEV=1
if ! /sbin/mdadm --assemble --run /dev/md0 /dev/vda /dev/vdb; then
    /sbin/mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --assume-clean --metadata=1.2 /dev/vda /dev/vdb
fi
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
/sbin/dmsetup create served --table "0 49152 crypt aes-xts-plain64 $key 0 /dev/md0 0"
"""


def mirror_files() -> newc.Tree:
    """What the stack needs in the guest beside what was fetched."""
    return {"test/mirror": newc.regular(MIRROR.encode(), 0o755)}


def driver_config(stock: Stock, initrd: str, cmdline: str, disks: int = 1, **service: object) -> MachineConfig:
    """A driver VM with small disks."""
    machine = {"memory": "128 MiB", "kernel": str(stock.kernel), "initrd": initrd, "cmdline": cmdline}
    disk = [{"image": f"disk{n}.img", "size": "32 MiB"} for n in range(disks)]
    tables = {"service": {"block": {"vendor": True, **service}}, "driver": {"watchdog_ms": 3000}}
    return parse({"name": "driver", "machine": machine, "disk": disk, **tables}, "driver")


def frame(kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0, cookie: int = 7) -> bytes:
    """A request as the port carries it."""
    return REQUEST.pack(REQUEST_MAGIC, flags, kind, cookie, offset, length or len(data)) + data


class DriverVm(Linux):
    """See the top of this file."""

    connection = 0

    def ask_all(self, *asked: tuple[object, ...]) -> list[tuple[int, bytes]]:
        """Requests (kind, offset, length, data, flags) at once; their replies in the same order."""
        journal = self.machine.journal
        assert journal is not None
        first = journal.next_number
        self.connection = self.connection or first
        events: list[Event] = [self.request(self.connection, *request) for request in asked]  # type: ignore[arg-type]
        self.run(*events)
        self.go_on(lambda: journal.outstanding == 0)
        replies = self.replies()
        return [replies[first + n] for n in range(len(asked))]

    def ask(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> tuple[int, bytes]:
        """One request alone."""
        return self.ask_all((kind, offset, length, data, flags))[0]

    def begin_past_the_journal(self) -> None:
        """What the driver says is kept from here on instead of being checked."""
        self.said = bytearray()
        self.machine.from_driver = self.said.extend  # type: ignore[method-assign]

    def port(self, data: bytes) -> None:
        """Bytes for the driver."""
        self.machine.hardware.to_driver(data)
        self.machine.hardware.push()
        self.run()

    def answers(self, *lengths: int) -> list[tuple[int, int, bytes]]:
        """(error, cookie, data) of as many replies; a length counts only without an error."""
        found: list[tuple[int, int, bytes]] = []
        for length in lengths:
            self.go_on(lambda: len(self.said) >= REPLY.size)
            _, error, cookie = REPLY.unpack_from(self.said)
            size = REPLY.size + (0 if error else length)
            self.go_on(lambda size=size: len(self.said) >= size)  # type: ignore[misc]
            found.append((error, cookie, bytes(self.said[REPLY.size : size])))
            del self.said[:size]
        return found

    def until_it_dies(self) -> EpochEnd:
        """Runs until the machine has been reset or restarted for the first time; how."""
        self.go_on(lambda: self._death() is not None)
        death = self._death()
        assert death is not None
        return death

    def _death(self) -> EpochEnd | None:
        ends = (EpochEnd.RESET, EpochEnd.RESTARTED)
        return next((EpochEnd(result.reason) for result in self.results if result.reason in ends), None)
