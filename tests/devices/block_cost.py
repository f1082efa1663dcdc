# SPDX-License-Identifier: GPL-2.0-or-later
"""What a block request costs in the virtqueue and the block device: `python -m tests.devices.block_cost`.

Prints microseconds per request, spent within QUEUE_NOTIFY only (the driver's side is not counted), for 4 KiB reads and
writes with indirect descriptors as stock Linux makes them, one and thirty-two per notification.
"""

from __future__ import annotations

from time import perf_counter

from devices.virtio.blk import RequestType, VirtioBlk
from tests.devices.disk import MemoryDisk, header
from tests.devices.driver import Driver, Host

REQUESTS = 3200


def microseconds(kind: RequestType, batch: int, indirect: bool) -> float:
    """Microseconds per request, the best of five runs."""
    host = Host(4 << 20)
    disk = MemoryDisk(8 * 64)
    device = VirtioBlk(host.memory, host.line, host.violations.append, disk)
    driver = Driver(device, host)
    driver.start(1, num=128)
    ring = driver.rings[0]
    best = float("inf")
    for _ in range(5):
        spent = 0.0
        for _ in range(REQUESTS // batch):
            for slot in range(batch):
                message = [header(kind, 8 * slot)]
                if kind == RequestType.OUT:
                    ring.submit([*message, bytes(4096)], [1], indirect)
                else:
                    ring.submit(message, [4096, 1], indirect)
            ring.want_interrupt(batch - 1)
            started = perf_counter()
            ring.kick()
            spent += perf_counter() - started
            ring.collect()
            driver.acknowledge()
        best = min(best, spent / REQUESTS * 1e6)
        disk.calls.clear()
        host.dma.clear()
    assert not host.violations
    return best


def main() -> None:
    """Prints the table."""
    for kind in (RequestType.IN, RequestType.OUT):
        for batch in (1, 32):
            for indirect in (True, False):
                cost = microseconds(kind, batch, indirect)
                layout = "indirect" if indirect else "direct"
                print(f"{kind.name:3} 4 KiB, {batch:2} a notification, {layout:8}: {cost:5.2f} us")


if __name__ == "__main__":
    main()
