# SPDX-License-Identifier: GPL-2.0-or-later
"""The network card: frames in and out, merged receive buffers, drops that are counted, link changes."""

from __future__ import annotations

import pytest

from devices.event import Output, OutputKind
from devices.virtio.mmio import Feature, Register
from devices.virtio.net import FRAMES_MAX, HEADER, VirtioNet
from devices.virtio.net import Feature as NetFeature
from devices.virtio.offload import FRAME_MAX, PACKET_HEADER, frames, plain
from tests.devices.driver import Driver, Host
from tests.devices.test_offload import tcp_packet

RX, TX = 0, 1
MAC = bytes.fromhex("525400123456")


class Bench:
    """A started network card; `num` descriptors in each queue."""

    def __init__(self, without: int = 0, num: int = 16) -> None:
        self.host = Host()
        self.device = VirtioNet(self.host.memory, self.host.line, self.host.violations.append, self.host.emit, MAC, 3)
        self.driver = Driver(self.device, self.host)
        self.driver.start(2, num, without)
        self.rx, self.tx = self.driver.rings[RX], self.driver.rings[TX]

    def received(self) -> list[bytes]:
        """Everything in receive buffers, one item a buffer, cut to its used length."""
        return [b"".join(parts)[:written] for written, parts in self.rx.collect().values()]


@pytest.fixture(params=[0, Feature.EVENT_IDX], ids=["event_idx", "flags"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(without=request.param)


def frame(size: int, fill: int = 1) -> bytes:
    return bytes([fill]) * size


def test_a_frame_sent_becomes_an_output(bench: Bench) -> None:
    """The header is cut off, whatever the buffers."""
    bench.tx.call([bytes(12) + frame(20), frame(40, 2)])
    bench.tx.call([bytes(5), bytes(7) + frame(60)], indirect=True)
    sent = [frame(20) + frame(40, 2), frame(60)]
    assert bench.host.outputs == [Output(OutputKind.PACKET, 3, plain(data)) for data in sent]


def test_a_frame_received_carries_a_header_with_one_buffer(bench: Bench) -> None:
    """num_buffers is 1, everything else zero."""
    bench.rx.submit([], [1526])
    bench.rx.kick()
    bench.device.receive(plain(frame(60)))
    assert bench.received() == [HEADER.pack(0, 0, 0, 0, 0, 0, 1) + frame(60)]
    assert bench.host.raised == 1


def test_frames_wait_for_buffers_and_keep_their_order(bench: Bench) -> None:
    """What arrives early is delivered by the notification for new buffers, with one interrupt."""
    for size in (20, 30, 40):
        bench.device.receive(plain(frame(size)))
    for _ in range(3):
        bench.rx.submit([], [100])
    assert bench.rx.kick(), "the device must want to hear of buffers while frames wait"
    assert [len(data) for data in bench.received()] == [32, 42, 52]
    assert bench.host.raised == 1


def test_buffers_added_while_nothing_waits_need_no_notification(bench: Bench) -> None:
    """The device suppresses notifications on the receive queue until a frame waits."""
    bench.rx.submit([], [100])
    bench.rx.kick()
    assert not any(bench.rx.submit([], [100]) and bench.rx.kick() for _ in range(10))
    for _ in range(11):
        bench.device.receive(plain(frame(20)))
    assert len(bench.received()) == 11
    bench.device.receive(plain(frame(20)))
    bench.rx.submit([], [100])
    assert bench.rx.kick() and len(bench.received()) == 1


def test_a_large_frame_is_merged_from_small_buffers(bench: Bench) -> None:
    """With MRG_RXBUF num_buffers counts the buffers, whose lengths add up."""
    data = bytes(range(256)) * 4
    for _ in range(8):
        bench.rx.submit([], [100, 100])
    bench.device.receive(plain(data))
    pieces = bench.received()
    assert [len(piece) for piece in pieces] == [200] * 5 + [36]
    assert b"".join(pieces) == HEADER.pack(0, 0, 0, 0, 0, 0, 6) + data
    bench.device.receive(plain(frame(20)))
    assert bench.received() == [HEADER.pack(0, 0, 0, 0, 0, 0, 1) + frame(20)]


def test_a_large_frame_waits_until_enough_small_buffers_are_there(bench: Bench) -> None:
    """No buffer is used before the whole frame fits."""
    bench.rx.submit([], [64])
    bench.rx.kick()
    bench.device.receive(plain(frame(100)))
    assert bench.received() == []
    bench.rx.submit([], [64])
    assert bench.rx.kick()
    assert [len(piece) for piece in bench.received()] == [64, 48]


def test_a_frame_that_can_never_fit_is_dropped() -> None:
    """When the whole ring is too small, and without MRG_RXBUF when one buffer is, later frames go on."""
    bench = Bench(num=4)
    for _ in range(4):
        bench.rx.submit([], [64])
    bench.device.receive(plain(frame(1000)))
    bench.device.receive(plain(frame(20)))
    assert bench.device.dropped == 1 and len(bench.received()) == 1
    bench = Bench(without=NetFeature.MRG_RXBUF)
    bench.rx.submit([], [64])
    bench.rx.submit([], [64])
    bench.device.receive(plain(frame(53)))
    bench.device.receive(plain(frame(52)))
    assert bench.device.dropped == 1 and [len(data) for data in bench.received()] == [64]


def test_waiting_frames_are_bounded_and_drops_are_counted(bench: Bench) -> None:
    """The newest frames are dropped when 1024 wait; frames of impossible sizes are always."""
    for count in range(FRAMES_MAX + 5):
        bench.device.receive(plain(frame(20 + count % 7)))
    assert bench.device.dropped == 5
    for data in (b"", frame(13), frame(FRAME_MAX + 1)):
        bench.device.receive(plain(data))
    assert bench.device.dropped == 8


def test_a_card_that_no_driver_runs_drops_frames() -> None:
    """As a real card without power."""
    bench = Bench()
    bench.driver.set(Register.STATUS, 0)
    bench.device.receive(plain(frame(20)))
    bench.driver.start(2)
    bench.driver.rings[RX].submit([], [100])
    bench.driver.rings[RX].kick(force=True)
    assert bench.driver.rings[RX].collect() == {} and bench.device.dropped == 1


def test_a_pulled_cable_is_told_and_carries_nothing(bench: Bench) -> None:
    """Status bit, configuration interrupt and generation follow the link."""
    assert bench.driver.config(0, 8) == int.from_bytes(MAC + b"\1\0", "little")
    generation = bench.driver.get(Register.CONFIG_GENERATION)
    bench.device.set_link(False)
    assert bench.driver.config(6, 2) == 0
    assert bench.driver.get(Register.CONFIG_GENERATION) == generation + 1
    assert bench.driver.acknowledge() == 2
    bench.tx.call([bytes(12) + frame(60)])
    bench.device.receive(plain(frame(60)))
    assert not bench.host.outputs and bench.device.dropped == 2
    bench.device.set_link(True)
    bench.tx.call([bytes(12) + frame(60)])
    assert len(bench.host.outputs) == 1


@pytest.mark.parametrize("length", [0, 13, FRAME_MAX + 1])
def test_a_frame_of_an_impossible_size_is_not_sent(bench: Bench, length: int) -> None:
    """It is taken, counted, and the driver goes on."""
    bench.tx.call([bytes(12), bytes(length)] if length else [bytes(12)])
    assert not bench.host.outputs and bench.device.dropped == 1 and not bench.host.violations


def test_frames_without_header_and_buffers_that_cannot_be_written_are_violations(bench: Bench) -> None:
    """Both break the protocol."""
    bench.tx.submit([bytes(11)])
    bench.tx.kick()
    assert "without its header" in bench.host.violations[0]
    other = Bench()
    other.rx.submit([bytes(100)])
    other.device.receive(plain(frame(20)))
    assert "without writable bytes" in other.host.violations[0]


def segment(payload: bytes, size: int = 0, six: bool = False) -> bytes:
    """An unfinished TCP segment, as a packet."""
    return tcp_packet(payload, size, six)


def transmit(bench: Bench, packet: bytes) -> list[bytes]:
    """The driver sends it; the outputs."""
    before = len(bench.host.outputs)
    bench.tx.call([packet[:10] + bytes(2) + packet[10:]])
    return [output.data for output in bench.host.outputs[before:]]


def test_what_the_driver_leaves_undone_leaves_as_it_is(bench: Bench) -> None:
    """Checksums and long segments of either IP go out as the driver made them, with what is left to do."""
    for packet in (segment(b"x" * 100), segment(b"x" * 40_000, 1448), segment(b"x" * 40_000, 1428, six=True)):
        assert transmit(bench, packet) == [packet]


def test_a_driver_without_the_features_has_finished_its_frames() -> None:
    """Its header means nothing: it may be left from a frame that it received."""
    bench = Bench(without=NetFeature.CSUM | NetFeature.HOST_TSO4 | NetFeature.HOST_TSO6)
    packet = segment(b"x" * 100, 10)
    assert transmit(bench, packet) == [plain(packet[10:])]
    partly = Bench(without=NetFeature.HOST_TSO6)
    assert transmit(partly, segment(b"x" * 4000, 1448)) and not transmit(partly, segment(b"x" * 4000, 1448, six=True))
    assert partly.device.dropped == 1 and not partly.host.violations


@pytest.mark.parametrize(
    "header", [(1, 0, 0, 0, 200, 2), (1, 1, 0, 0, 34, 16), (1, 3, 0, 9, 34, 16), (0, 1, 0, 9, 34, 16)]
)
def test_what_a_driver_asks_for_and_cannot_be_is_dropped(bench: Bench, header: tuple[int, ...]) -> None:
    assert transmit(bench, PACKET_HEADER.pack(*header) + segment(b"x" * 50)[10:]) == []
    assert bench.device.dropped == 1 and not bench.host.violations


def test_an_unfinished_packet_reaches_a_driver_that_can_finish_it(bench: Bench) -> None:
    """With its header, in as many buffers as it needs."""
    for packet in (segment(b"x" * 1000), segment(b"y" * 3000, 1448)):
        for _ in range(4):
            bench.rx.submit([], [1024])
        bench.device.receive(packet)
        pieces = bench.received()
        assert b"".join(pieces) == packet[:10] + len(pieces).to_bytes(2, "little") + packet[10:]


@pytest.mark.parametrize("missing", [NetFeature.GUEST_CSUM, NetFeature.GUEST_TSO4])
def test_it_is_finished_for_a_driver_that_cannot(missing: NetFeature) -> None:
    """Cut and summed up by the card."""
    bench = Bench(without=missing)
    for _ in range(8):
        bench.rx.submit([], [2048])
    packet = segment(b"y" * 3000, 1448)
    bench.device.receive(packet)
    expected = [HEADER.pack(0, 0, 0, 0, 0, 0, 1) + data for data in frames(packet)]
    assert bench.received() == expected and len(expected) == 3
    bench.device.receive(PACKET_HEADER.pack(1, 9, 0, 0, 0, 0) + bytes(60))
    assert bench.device.dropped == 1


def test_waiting_packets_are_bounded_in_bytes_and_the_host_is_told_before(bench: Bench) -> None:
    """`room` falls to nothing first; who brings more all the same has them dropped at a limit."""
    assert bench.device.room == 256
    long = plain(frame(60_000))
    bench.device.receive(long)
    assert bench.device.room == 255
    for _ in range(17):
        bench.device.receive(long)
    assert bench.device.room == 0
    for _ in range(100):
        bench.device.receive(long)
    assert bench.device.dropped == 118 - (4 << 20) // len(long)
    bench.device.set_link(False)
    assert bench.device.room is None


def test_a_driver_that_can_is_asked_to_announce_itself_until_it_has(bench: Bench) -> None:
    """The status bit and a configuration interrupt; the command on the control queue takes it back."""
    control = bench.driver.set_up(2, 8)
    bench.device.announce()
    bench.device.announce()
    assert bench.driver.config(6, 2) == 3 and bench.driver.acknowledge() == 2
    assert control.call([b"\3\0"], [1]) == [b"\0"]
    assert bench.driver.config(6, 2) == 1
    assert control.call([b"\3", b"\0"], [1]) == [b"\0"]
    assert control.call([b"\1\0", b"x"], [1]) == [b"\1"]
    control.submit([b"\3\0"])
    control.kick()
    assert "without room for the answer" in bench.host.violations[0]
    plain_driver = Bench(without=NetFeature.GUEST_ANNOUNCE)
    plain_driver.device.announce()
    assert plain_driver.driver.config(6, 2) == 1 and plain_driver.host.raised == 0
