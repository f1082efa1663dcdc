# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reader of the specifications would expect, and does not find: in words, since no table can hold it."""

from __future__ import annotations

from typing import Final

from ftvm.reference import hart
from ftvm.reference.markdown import items

DEVIATIONS: Final[dict[str, tuple[str, ...]]] = {
    "From QEMU's `virt` machine": (
        "One hart. No machine mode, no CLINT, no ACLINT, no PMP: firmware is the host's.",
        "No PCI and nothing on it, no flash, no fw_cfg, no graphics, no USB.",
        "virtio-mmio is version 2; QEMU's default is the legacy version 1. Empty slots are not in the device tree.",
        "Of the interrupt controller only the supervisor's context has registers.",
        "The real-time clock starts in 2026 and goes with guest time; it does not know the host's date.",
        "`model` and virtio's vendor are ftvm's own; `compatible` is `riscv-virtio`.",
    ),
    "From the privileged and unprivileged specifications": (
        "`Zicntr` is not advertised, although its three counters are there.",
        "Nothing of the later extensions is there, such as `Sstc`, `Svinval`, `V`, `B` or `H`; no `senvcfg`.",
        *(f"{one.specified} Here: {one.here} {one.why} ({one.section})" for one in hart.DEVIATIONS),
    ),
    "From the SBI 2.0": (
        "Of the legacy extensions, those that IPI and RFENCE replace (3 to 7) are not there.",
        "No hypervisor fences, no `hart_suspend`, no SUSP, PMU, CPPC, NACL or STA.",
        "`send_ipi` and fences take hart masks, but there is only hart 0.",
    ),
    "From virtio 1.2": (
        "No packed queues, no `VIRTIO_F_IN_ORDER`, `RING_RESET` or `NOTIFICATION_DATA`, no shared memory regions.",
        "No writable field in any configuration space, so no `CONFIG_WCE`; the disk's cache is always write-back.",
        "A driver that breaks a rule of a queue finds `DEVICE_NEEDS_RESET` set and nothing served until it resets the "
        "device; with `driver.restart` in the machine file the guest is restarted.",
        "Requests to a disk are complete when the notification returns; there is never more than one in flight.",
        "Network: one queue pair, no `CTRL_RX`, `CTRL_VLAN`, `CTRL_MAC_ADDR`, `MTU`, `UFO` or `ECN`.",
        "A request for entropy gets at most 64 bytes.",
        "Console: no `SIZE` and no `EMERG_WRITE`.",
    ),
}


def deviations() -> list[str]:
    """The page's last section."""
    lines = ["## Deviations", ""]
    for title, found in DEVIATIONS.items():
        lines += [f"### {title}", "", *items(*found)]
    return lines
