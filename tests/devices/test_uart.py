# SPDX-License-Identifier: GPL-2.0-or-later
"""The UART as the 8250 driver probes and uses it."""

from __future__ import annotations

import pytest

from devices.event import Output, OutputKind
from devices.uart import PIECE, Uart

THR = RBR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7


class Bench:
    """A UART after reset."""

    def __init__(self) -> None:
        self.level = False
        self.outputs: list[Output] = []
        self.uart = Uart(self.line, self.outputs.append)

    def line(self, level: bool) -> None:
        self.level = level

    def get(self, offset: int) -> int:
        return self.uart.read(offset, 1)

    def put(self, offset: int, value: int) -> None:
        self.uart.write(offset, 1, value)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_output_is_collected_until_the_flush_and_numbered_by_offset(bench: Bench) -> None:
    """One stream for the UART and the SBI console."""
    for byte in b"boot":
        bench.put(THR, byte)
    bench.uart.put(b"ing")
    assert bench.outputs == []
    bench.uart.flush()
    bench.put(THR, ord("!"))
    bench.uart.flush()
    bench.uart.flush()
    assert bench.outputs == [Output(OutputKind.CONSOLE, 0, b"booting", 0), Output(OutputKind.CONSOLE, 0, b"!", 7)]


def test_much_output_leaves_before_the_flush(bench: Bench) -> None:
    """A guest that prints without end needs no unbounded memory."""
    for _ in range(2 * PIECE + 1):
        bench.put(THR, 65)
    assert [(len(output.data), output.offset) for output in bench.outputs] == [(PIECE, 0), (PIECE, PIECE)]


def test_input_is_read_byte_by_byte(bench: Bench) -> None:
    """LSR.DR says that there is more; an empty register reads as zero."""
    bench.uart.input(b"hi")
    read = bytearray()
    while bench.get(LSR) & 1:
        read.append(bench.get(RBR))
    assert read == b"hi" and bench.get(RBR) == 0


def test_input_may_be_taken_past_the_registers(bench: Bench) -> None:
    """The SBI console takes typed bytes too, and the interrupt goes with the last of them."""
    bench.put(IER, 1)
    bench.uart.input(b"typed")
    assert bench.uart.take(3) == b"typ" and bench.level
    assert bench.uart.take(9) == b"ed" and not bench.level
    assert bench.uart.take(9) == b"" and not bench.get(LSR) & 1


def test_the_divisor_hides_behind_dlab(bench: Bench) -> None:
    """DLL and DLM keep what was written, and nothing is sent."""
    bench.put(LCR, 0x83)
    bench.put(DLL, 0x34)
    bench.put(DLM, 0x12)
    assert (bench.get(DLL), bench.get(DLM), bench.get(LCR)) == (0x34, 0x12, 0x83)
    bench.put(LCR, 3)
    assert bench.get(IER) == 0
    bench.uart.flush()
    assert bench.outputs == []


def test_linux_finds_a_16550a(bench: Bench) -> None:
    """The probe of the 8250 driver: IER, scratch, loopback, FIFO bits."""
    bench.put(IER, 0xFF)
    assert bench.get(IER) == 0x0F
    bench.put(IER, 0)
    bench.put(SCR, 0xA5)
    assert bench.get(SCR) == 0xA5
    bench.put(MCR, 0x10 | 0x0A)
    assert bench.get(MSR) & 0xF0 == 0x90
    bench.put(MCR, 0)
    assert bench.get(MSR) == 0xB0
    assert bench.get(IIR) == 0x01
    bench.put(FCR, 1)
    assert bench.get(IIR) >> 6 == 3
    bench.put(LCR, 0xBF)
    assert bench.get(IIR) != 0
    assert bench.get(LSR) == 0x60


def test_the_transmit_interrupt_comes_on_enabling_and_after_each_byte(bench: Bench) -> None:
    """Reading IIR acknowledges it (8.5)."""
    bench.put(IER, 2)
    assert bench.level and bench.get(IIR) == 0x02
    assert not bench.level and bench.get(IIR) == 0x01
    bench.put(IER, 0)
    bench.put(IER, 2)
    assert bench.level
    assert bench.get(IIR) == 0x02
    bench.put(THR, 65)
    assert bench.level
    bench.put(IER, 0)
    assert not bench.level


def test_the_receive_interrupt_lasts_until_all_is_read(bench: Bench) -> None:
    """Below the trigger level it is a timeout, which is due at once; at the level it is data."""
    bench.put(FCR, 0x81)
    bench.put(IER, 1)
    bench.uart.input(b"12345678")
    assert bench.level and bench.get(IIR) & 0x0F == 0x04
    bench.get(RBR)
    assert bench.get(IIR) & 0x0F == 0x0C
    for _ in range(7):
        assert bench.level
        bench.get(RBR)
    assert not bench.level


def test_clearing_the_fifo_loses_16_bytes_at_most(bench: Bench) -> None:
    """What has not reached the FIFO stays."""
    bench.put(FCR, 1)
    bench.uart.input(bytes(range(65, 85)))
    bench.put(FCR, 3)
    assert bench.get(RBR) == 65 + 16


def test_loopback_brings_bytes_back_and_overruns(bench: Bench) -> None:
    """Nothing leaves, and a full FIFO says so once in LSR."""
    bench.put(FCR, 1)
    bench.put(IER, 4)
    bench.put(MCR, 0x10)
    for byte in range(17):
        bench.put(THR, byte)
    assert bench.level and bench.get(IIR) & 0x0F == 0x06
    assert bench.get(LSR) & 2 and not bench.get(LSR) & 2
    assert [bench.get(RBR) for _ in range(17)] == [*range(16), 0]
    bench.uart.flush()
    assert not bench.outputs and not bench.level


def test_a_reset_keeps_the_stream_of_output(bench: Bench) -> None:
    """Registers and input are lost, output and its offset go on."""
    bench.uart.put(b"before ")
    bench.uart.input(b"typed")
    bench.put(IER, 1)
    bench.uart.reset()
    bench.uart.put(b"after")
    bench.uart.flush()
    assert bench.outputs[0].data == b"before after" and not bench.level and bench.get(LSR) == 0x60
