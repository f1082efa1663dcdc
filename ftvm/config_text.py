# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine files as text: the commented example, and a settled configuration written back as TOML."""

from __future__ import annotations

import json
from typing import Any

from ftvm.config import MachineConfig
from ftvm.config_values import format_size

_EXAMPLE = """\
# A machine file of ftvm. Every value below is a default or an example; all but `name` may be left out.
# Sizes are written "64 MiB", times are in the unit that the name ends in. Relative paths are relative to the pair's
# state directory (~/.local/state/ftvm/NAME), those of kernel, initrd and keys to this file.

name = "@NAME@"                      # names the pair, and its state directory

[machine]
memory = "64 MiB"                   # 16 MiB to 1 GiB
kernel = "blockd"                   # a bundled guest (`ftvm guest list`), or the path of an ELF file or RISC-V Image
# initrd = "initramfs.cpio.gz"      # handed to the kernel as it is
cmdline = ""                        # the kernel's command line, e.g. "console=ttyS0"
seed = 0                            # of rng-seed in the device tree: what a guest's random generator starts from

[[disk]]                            # a virtio block device; repeat the table for more (8 virtio devices in all)
image = "disk0.img"                 # copied in at the first start and never written; made, sparse, when missing
size = "64 MiB"                     # may be left out when the image exists
mode = "replicated"                 # each side keeps its own copy in its state directory

[[network]]                         # a virtio network device
backend = "none"                    # connected to nothing; or "tap:tap0" (a TAP device, made when missing: put it on a
                                    # bridge), "passt" (this host's connections, without privileges), "passt:PATH" (a
                                    # passt of your own), "stream:HOST:PORT", "stream:unix:PATH" (QEMU's -netdev stream)
mac = "52:54:00:12:34:56"
# forward = ["tcp:8080:80"]         # with "passt": ports of this host that lead to the guest's, here 8080 to 80

[console]
backend = "file:console.log"        # or "stdio", "none", "unix:console.sock" (clients attach and detach at will)

[service.block]                     # serve a disk to NBD clients through the guest's driver
disk = 0                            # which [[disk]]
# size = "64 MiB"                   # of what the guest serves, when that is not as large as this disk
listen = ["unix:nbd.sock"]          # and e.g. "127.0.0.1:10809"
vendor = false                      # let clients send vendor commands (the bundled guest uses them to die on demand)

[driver]
watchdog_ms = 2000                  # guest time in which the driver must answer a request; then it counts as dead
boot_ms = 60000                     # the same for a driver that boots, until it has opened its port
restart = true                      # restart a guest that has died (default: when there is a [service.block])
panic = "Kernel panic - not syncing"  # a line of the console that begins so says that the guest has died; "": none does

[pair]
listen = "127.0.0.1:0"              # the logging channel, e.g. "127.0.0.1:7700"; port 0: any that is free
heartbeat_ms = 20
timeout_ms = 200                    # silence for so long is suspicious; at least three heartbeats
arbiter = "file:arbiter"            # a directory, which two hosts must share
# keys = "pair.keys"                # needed to listen on anything but loopback: see `ftvm machine keys`
# history = "64 MiB"                # memory of a backup for what was, so that `ftvm debug` can go back (default: none)
"""


def example(name: str = "disk0") -> str:
    """A commented machine file; for another guest only its kernel has to be edited."""
    return _EXAMPLE.replace("@NAME@", name)


def to_toml(config: MachineConfig) -> str:
    """`config` as a machine file that reads back as the same configuration (see `MachineConfig.settled`)."""
    machine, block = config.machine, config.service_block
    tables: list[tuple[str, dict[str, Any]]] = [
        ("", {"name": config.name}),
        ("[machine]", {**machine.model_dump(), "memory": format_size(machine.memory)}),
    ]
    for disk in config.disk:
        size = None if disk.size is None else format_size(disk.size)
        tables.append(("[[disk]]", {"image": disk.image, "size": size, "mode": disk.mode}))
    for unit, network in enumerate(config.network):
        forward = [str(port) for port in network.forward] or None
        fields = {"backend": str(network.backend), "mac": config.mac(unit).hex(":"), "forward": forward}
        tables.append(("[[network]]", fields))
    tables.append(("[console]", {"backend": str(config.console.backend)}))
    if block is not None:
        listen = [str(address) for address in block.listen]
        size = None if block.size is None else format_size(block.size)
        tables.append(("[service.block]", {"disk": block.disk, "size": size, "listen": listen, "vendor": block.vendor}))
    tables.append(("[driver]", config.driver.model_dump()))
    pair = config.pair
    written = {"listen": str(pair.listen), "arbiter": str(pair.arbiter)}
    if pair.history:
        written["history"] = format_size(pair.history)
    tables.append(("[pair]", {**pair.model_dump(exclude={"listen", "arbiter", "history"}), **written}))
    return "\n".join(_table(head, values) for head, values in tables)


def _table(head: str, values: dict[str, Any]) -> str:
    # JSON's strings, numbers, booleans and lists of strings are TOML's, once DEL is escaped as well.
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        for name, value in values.items()
        if value is not None
    ]
    return "\n".join([head, *lines] if head else lines) + "\n"
