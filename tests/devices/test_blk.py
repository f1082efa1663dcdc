# SPDX-License-Identifier: GPL-2.0-or-later
"""The block device as a driver sees it: requests, limits, errors, and how often anybody is bothered."""

from __future__ import annotations

import pytest

from devices.virtio.blk import (
    F_UNMAP,
    RANGE,
    RANGE_SECTORS_MAX,
    RANGES_MAX,
    S_IOERR,
    S_OK,
    S_UNSUPP,
    SEG_MAX,
    RequestType,
    VirtioBlk,
)
from devices.virtio.blk import Feature as BlkFeature
from devices.virtio.mmio import Feature, Register, Status
from tests.devices.disk import MemoryDisk, header
from tests.devices.driver import Driver, Host

SECTORS = 64


class Bench:
    """A started disk of 64 sectors."""

    def __init__(self, without: int = 0, num: int = 16, read_only: bool = False) -> None:
        self.host = Host()
        self.disk = MemoryDisk(SECTORS)
        self.device = VirtioBlk(
            self.host.memory, self.host.line, self.host.violations.append, self.disk, "serial-7", read_only
        )
        self.driver = Driver(self.device, self.host)
        self.driver.start(1, num, without)
        self.ring = self.driver.rings[0]

    def broken(self) -> bool:
        """The device waits for a reset and said why, once."""
        needs_reset = bool(self.driver.get(Register.STATUS) & Status.DEVICE_NEEDS_RESET)
        assert needs_reset == (len(self.host.violations) == 1)
        return needs_reset


@pytest.fixture(params=[0, Feature.EVENT_IDX], ids=["event_idx", "flags"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(without=request.param)


@pytest.mark.parametrize("indirect", [False, True])
def test_what_is_written_is_read_back(bench: Bench, indirect: bool) -> None:
    """Data goes to the sectors named in the header, from and to any number of buffers."""
    data = bytes(range(256)) * 6
    assert bench.ring.call([header(RequestType.OUT, 3), data[:512], data[512:]], [1], indirect) == [S_OK]
    assert bench.disk.data[3 * 512 : 6 * 512] == data
    pieces = bench.ring.call([header(RequestType.IN, 3)], [700, 836, 1], indirect)
    assert pieces == [data[:700], data[700:], S_OK]


@pytest.mark.parametrize("cuts", [[1, 15, 16, 17, 500], [3], [16, 100], [20]])
def test_where_buffers_begin_and_end_means_nothing(bench: Bench, cuts: list[int]) -> None:
    """Header and data may be cut anywhere, and the status byte may end the data's buffer (2.7.4.1)."""
    message = header(RequestType.OUT, 1) + b"A" * 512
    pieces = [message[start:end] for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True)]
    assert bench.ring.call(pieces, [1]) == [S_OK]
    assert bench.disk.data[512:1024] == b"A" * 512
    assert bench.ring.call([header(RequestType.IN, 1)], [513]) == [b"A" * 512 + S_OK]


def test_normal_descriptors_may_lead_to_an_indirect_one(bench: Bench) -> None:
    """Zero or more normal descriptors followed by one indirect must be handled (2.7.5.3.2)."""
    host, ring = bench.host, bench.ring
    table, head, status = host.allocate(32), host.allocate(16), host.allocate(513)
    host.poke(head, header(RequestType.IN, 0))
    host.poke(table, b"".join([status.to_bytes(8, "little"), (513).to_bytes(4, "little"), b"\2\0\0\0"]))
    bench.disk.data[:512] = b"x" * 512
    ring.describe(0, head, 16, 1, 1)
    ring.describe(1, table, 16, 4, 0)
    ring.offer(0)
    ring.kick()
    assert host.peek(status, 513) == b"x" * 512 + S_OK


def test_flush_reaches_the_backend(bench: Bench) -> None:
    """FLUSH is answered only after the backend flushed."""
    assert bench.ring.call([header(RequestType.FLUSH)], [1]) == [S_OK]
    assert bench.disk.calls == [("flush", 0, 0)]


def test_get_id_answers_the_serial(bench: Bench) -> None:
    """The serial is padded to 20 bytes."""
    assert bench.ring.call([header(RequestType.GET_ID)], [20, 1]) == [b"serial-7".ljust(20, b"\0"), S_OK]


@pytest.mark.parametrize("kind", [2, 3, 14, 0x80000000, 0xFFFFFFFF])
def test_unknown_types_are_unsupported(bench: Bench, kind: int) -> None:
    """What the device does not know is answered with UNSUPP."""
    assert bench.ring.call([header(kind)], [1]) == [S_UNSUPP]


@pytest.mark.parametrize(
    ("sector", "length"), [(SECTORS, 512), (SECTORS - 1, 1024), (2**64 - 1, 512), (2**55, 512), (0, 100), (0, 513)]
)
def test_what_is_not_whole_sectors_on_the_disk_is_an_io_error(bench: Bench, sector: int, length: int) -> None:
    """Reads and writes beyond the end, or of odd lengths, never reach the backend."""
    assert bench.ring.call([header(RequestType.IN, sector)], [length, 1])[-1] == S_IOERR
    assert bench.ring.call([header(RequestType.OUT, sector), bytes(length)], [1]) == [S_IOERR]
    assert not bench.disk.calls and not bench.broken()


def test_a_failed_read_claims_no_bytes(bench: Bench) -> None:
    """The used length counts leading bytes that were written: after an error there are none before the status."""
    bench.disk.bad = {5}
    head = bench.ring.submit([header(RequestType.IN, 5)], [512, 1])
    bench.ring.kick()
    assert bench.ring.collect()[head] == (0, [bytes(512), S_IOERR])
    head = bench.ring.submit([header(RequestType.IN, 4)], [512, 1])
    bench.ring.kick()
    assert bench.ring.collect()[head][0] == 513


def test_any_other_failure_of_the_backend_passes_through(bench: Bench) -> None:
    """A replica's own disk failure is not the guest's business."""

    def fail(offset: int, length: int) -> bytes:
        raise OSError("disk on fire")

    bench.disk.read = fail  # type: ignore[method-assign]
    bench.ring.submit([header(RequestType.IN, 0)], [512, 1])
    with pytest.raises(OSError, match="on fire"):
        bench.ring.kick()


def test_discard_and_write_zeroes_take_several_ranges(bench: Bench) -> None:
    """Each range reaches the backend in bytes."""
    ranges = RANGE.pack(1, 2, 0) + RANGE.pack(10, 1, 0)
    assert bench.ring.call([header(RequestType.DISCARD), ranges], [1]) == [S_OK]
    assert bench.ring.call([header(RequestType.WRITE_ZEROES), RANGE.pack(4, 4, F_UNMAP)], [1]) == [S_OK]
    assert bench.disk.calls == [("discard", 512, 1024), ("discard", 5120, 512), ("zero", 2048, 2048)]


@pytest.mark.parametrize(
    ("kind", "ranges", "status"),
    [
        (RequestType.DISCARD, RANGE.pack(0, 1, F_UNMAP), S_UNSUPP),
        (RequestType.DISCARD, RANGE.pack(0, 1, 0x80), S_UNSUPP),
        (RequestType.WRITE_ZEROES, RANGE.pack(0, 1, 2), S_UNSUPP),
        (RequestType.DISCARD, RANGE.pack(0, RANGE_SECTORS_MAX + 1, 0), S_IOERR),
        (RequestType.WRITE_ZEROES, RANGE.pack(0, 1, 0) + RANGE.pack(SECTORS, 1, 0), S_IOERR),
        (RequestType.WRITE_ZEROES, RANGE.pack(2**64 - 1, 0xFFFF, 0), S_IOERR),
        (RequestType.DISCARD, RANGE.pack(0, 1, 0)[:15], S_IOERR),
        (RequestType.DISCARD, RANGE.pack(0, 1, 0) * (RANGES_MAX + 1), S_IOERR),
        (RequestType.DISCARD, b"", S_IOERR),
    ],
)
def test_a_bad_range_does_nothing_at_all(bench: Bench, kind: RequestType, ranges: bytes, status: bytes) -> None:
    """All ranges are checked before the first is done (5.2.6.2)."""
    assert bench.ring.call([header(kind), ranges], [1]) == [status]
    assert not bench.disk.calls and not bench.broken()


def test_the_configuration_space_tells_size_and_limits(bench: Bench) -> None:
    """Fields lie where 5.2.4 puts them, readable in any size."""
    driver = bench.driver
    assert driver.config(0, 8) == driver.config(0, 4) == SECTORS
    assert driver.config(0, 1) == SECTORS
    assert driver.config(12, 4) == SEG_MAX
    assert driver.config(20, 4) == 512
    assert driver.config(34, 2) == 1
    assert [driver.config(offset, 4) for offset in (36, 40, 44, 48, 52)] == [
        RANGE_SECTORS_MAX,
        RANGES_MAX,
        1,
        RANGE_SECTORS_MAX,
        RANGES_MAX,
    ]
    assert driver.config(56, 1) == 1
    assert driver.config(0xEF8, 8) == 0


def test_a_read_only_disk_refuses_every_change() -> None:
    """RO is offered, and writes of all kinds fail."""
    bench = Bench(read_only=True)
    assert bench.driver.offered() & BlkFeature.RO
    assert not bench.driver.offered() & (BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES)
    for kind in (RequestType.OUT, RequestType.DISCARD, RequestType.WRITE_ZEROES):
        assert bench.ring.call([header(kind), RANGE.pack(0, 1, 0) * 32], [1]) == [S_IOERR]
    assert bench.ring.call([header(RequestType.IN)], [512, 1])[1] == S_OK
    assert [call for call, _, _ in bench.disk.calls] == ["read"]


def test_one_interrupt_and_one_index_write_for_a_batch(bench: Bench) -> None:
    """Ten requests under one notification are published together."""
    for sector in range(10):
        bench.ring.submit([header(RequestType.IN, sector)], [512, 1], indirect=True)
    bench.host.dma.clear()
    bench.ring.kick()
    assert bench.host.raised == 1
    assert [address for address, _ in bench.host.dma].count(bench.ring.used + 2) == 1
    assert len(bench.ring.collect()) == 10
    assert bench.driver.acknowledge() == 1
    assert not bench.host.level


def test_event_idx_delays_the_interrupt_to_where_the_driver_wants_it() -> None:
    """With used_event two ahead, only the third completion interrupts (2.7.7)."""
    bench = Bench()
    bench.ring.want_interrupt(ahead=2)
    raised = []
    for sector in range(4):
        bench.ring.call([header(RequestType.IN, sector)], [512, 1])
        raised.append(bench.host.raised)
    assert raised == [0, 0, 1, 1]


def test_the_no_interrupt_flag_is_honoured() -> None:
    """Without EVENT_IDX, VIRTQ_AVAIL_F_NO_INTERRUPT silences the device."""
    bench = Bench(without=Feature.EVENT_IDX)
    bench.host.poke(bench.ring.avail, b"\1\0")
    bench.ring.call([header(RequestType.IN, 0)], [512, 1])
    assert bench.host.raised == 0


def test_the_rings_wrap_many_times() -> None:
    """Indices run over 65536 and the ring's end without losing a request."""
    bench = Bench(num=4)
    for count in range(33000):
        for _ in range(2):
            bench.ring.submit([header(RequestType.FLUSH)], [1], indirect=True)
        assert bench.ring.kick()
        assert len(bench.ring.collect()) == 2, f"after {2 * count} requests"


def test_a_driver_that_skips_the_status_byte_breaks_the_device(bench: Bench) -> None:
    """A request that cannot be answered leads to DEVICE_NEEDS_RESET and a configuration interrupt."""
    bench.ring.submit([header(RequestType.FLUSH)])
    bench.ring.kick()
    assert bench.broken()
    assert bench.driver.acknowledge() == 2
    assert bench.ring.collect() == {}


def test_a_reset_mends_a_broken_device(bench: Bench) -> None:
    """After status 0 the driver may start again."""
    bench.ring.submit([b"short"], [1])
    bench.ring.kick()
    assert bench.broken()
    bench.driver.start(1)
    assert bench.driver.rings[0].call([header(RequestType.IN, 0)], [512, 1])[1] == S_OK
